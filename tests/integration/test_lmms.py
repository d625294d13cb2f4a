"""lmms-eval finds our plug-in and gets the answers that `sif eval` gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sifthinker.evaluation.run import evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.training.settings import make_config

from ..small_data import write_records
from .environments import ROOT, Environment, prepare

pytestmark = pytest.mark.integration

QUESTIONS = 24
TASK = """\
task: sif_blocks
dataset_path: json
dataset_kwargs:
  data_files:
    test: RECORDS
test_split: test
output_type: generate_until
doc_to_visual: !function blocks.doc_to_visual
doc_to_text: !function blocks.doc_to_text
doc_to_target: answer
process_results: !function blocks.process_results
generation_kwargs:
  max_new_tokens: 4
metric_list:
  - metric: answer_accuracy
    aggregation: mean
    higher_is_better: true
metadata:
  - version: 1
"""
BLOCKS = """\
from pathlib import Path

from sifthinker.depth import DepthMap
from sifthinker.images import load_image
from sifthinker.scoring.answers import judge


def doc_to_visual(doc):
    return [load_image(Path("FOLDER") / doc["image"]), DepthMap.read(Path("FOLDER") / doc["depth"])]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return doc["question"]


def process_results(doc, results):
    return {"answer_accuracy": float(judge(results[0], doc["answer"], doc["choices"]).score == 1)}
"""


@pytest.fixture(scope="module")
def lmms() -> Environment:
    return prepare("lmms")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip installs it, with its entry points."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir", "--target", str(folder)]
    subprocess.run([*pip, str(ROOT)], check=True)
    return folder


@pytest.fixture(scope="module")
def model(tiny_vlm: Path, chains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers directly, and some questions rightly."""
    from sifthinker.training.sft import train_sft

    out = tmp_path_factory.mktemp("model") / "sft"
    training = {"max_steps": 120, "per_device_train_batch_size": 8, "learning_rate": 5e-3, "save_strategy": "no"}
    values = {"model": tiny_vlm, "data": chains, "output": out, "answers_only": True, "training": training}
    train_sft(make_config(values, "sft"))
    return out


def test_a_task_of_questions_about_images(lmms: Environment, installed: Path, model: Path, tmp_path: Path) -> None:
    """Runs a local task through our entry point: every answer and the accuracy equal to `sif eval`'s."""
    records = write_records(tmp_path / "data", QUESTIONS, seed=3)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "blocks.yaml").write_text(TASK.replace("RECORDS", str(records)))
    (tmp_path / "tasks" / "blocks.py").write_text(BLOCKS.replace("FOLDER", str(tmp_path / "data")))
    words = ["-m", "lmms_eval", "--model", "sifthinker", "--model_args", f"pretrained={model},direct=True,max_new_tokens=16"]
    words += ["--include_path", str(tmp_path / "tasks"), "--tasks", "sif_blocks", "--batch_size", "8", "--device", "cpu"]
    words += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    variables = {"HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    path = f"{installed}:{lmms.variables()['PYTHONPATH']}"
    lmms.command(lmms.python, *words, cwd=tmp_path, timeout_s=600, variables={**variables, "PYTHONPATH": path})

    (results,) = (tmp_path / "out").rglob("*_results.json")
    (samples,) = (tmp_path / "out").rglob("*_samples_sif_blocks.jsonl")
    accuracy = json.loads(results.read_text())["results"]["sif_blocks"]["answer_accuracy,none"]
    said = {line["doc_id"]: line["filtered_resps"] for line in map(json.loads, samples.read_text().splitlines())}

    settings = EvalSettings(data=str(records), model=str(model), direct=True, max_new_tokens=16, batch_size=8)
    evaluation = evaluate(settings)
    answers = {number: row.answer or "" for number, row in enumerate(evaluation.rows)}
    assert {number: one[0] if isinstance(one, list) else one for number, one in said.items()} == answers
    assert accuracy == pytest.approx(evaluation.results["answer accuracy"].mean)
    assert 0.2 < accuracy < 1
