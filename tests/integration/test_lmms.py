"""lmms-eval finds our model and our benchmarks, and gets from both what `sif eval` gets."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sifthinker.benchmarks import benchmark
from sifthinker.evaluation.run import Evaluation, evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.lmms.tasks import metrics_of
from sifthinker.training.settings import make_config

from ..small_data import write_records
from ..stand_in import serve
from .environments import ROOT, Environment, prepare
from .published_blocks import write_sat_static, write_spatialbench, write_tallyqa, write_viscot

pytestmark = pytest.mark.integration

TASKS = ROOT / "configs" / "lmms_eval"


@dataclass(frozen=True)
class Run:
    """What lmms-eval wrote: task → metric → number, and task → what each document was answered, in order."""

    results: Mapping[str, Mapping[str, Any]]
    samples: Mapping[str, list[Mapping[str, Any]]]

    def number(self, task: str, metric: str) -> float:
        found: float = self.results[task][f"{metric},none"]
        return found

    def answers(self, task: str) -> list[str]:
        said = [sample["filtered_resps"] for sample in self.samples[task]]
        return [one[0] if isinstance(one, list) else one for one in said]

    def rows(self, task: str, metric: str) -> list[dict[str, Any]]:
        return [sample[metric]["row"] for sample in self.samples[task]]


@dataclass(frozen=True)
class Harness:
    """lmms-eval, our package as pip installs it, and a folder for what it writes."""

    lmms: Environment
    installed: Path
    folder: Path

    def run(self, include: Path, tasks: list[str], model_args: str, **variables: str) -> Run:
        out = self.folder / "out"
        words = ["-m", "lmms_eval", "--model", "sifthinker", "--model_args", model_args, "--include_path", str(include)]
        words += ["--tasks", ",".join(tasks), "--batch_size", "8", "--device", "cpu", "--output_path", str(out)]
        path = f"{self.installed}:{self.lmms.variables()['PYTHONPATH']}"
        variables |= {"HF_DATASETS_OFFLINE": "1", "HF_HOME": str(self.folder / "hf"), "PYTHONPATH": path}
        done = self.lmms.command(
            self.lmms.python, *words, "--log_samples", cwd=self.folder, timeout_s=600, variables=variables
        )
        # A run that failed ends with status 0 too.
        results = next(out.rglob("*_results.json"), None)
        assert results is not None, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        samples = {}
        for task in tasks:
            (file,) = out.rglob(f"*_samples_{task}.jsonl")
            lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            samples[task] = sorted(lines, key=lambda line: line["doc_id"])
        return Run(json.loads(results.read_text(encoding="utf-8"))["results"], samples)


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


@pytest.fixture
def harness(lmms: Environment, installed: Path, tmp_path: Path) -> Harness:
    return Harness(lmms, installed, tmp_path)


@pytest.fixture(scope="module")
def model(tiny_vlm: Path, chains: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers directly, and some questions rightly."""
    from sifthinker.training.sft import train_sft

    out = tmp_path_factory.mktemp("model") / "sft"
    training = {"max_steps": 120, "per_device_train_batch_size": 8, "learning_rate": 5e-3, "save_strategy": "no"}
    values = {"model": tiny_vlm, "data": chains, "output": out, "answers_only": True, "training": training}
    train_sft(make_config(values, "sft"))
    return out


def evaluated(name: str, data: Path, split: str, **settings: Any) -> Evaluation:
    """A benchmark as `sif eval` evaluates it."""
    found = benchmark(name)
    given = EvalSettings.from_values({"data": str(data), "show_choices": found.show_choices, **settings})
    return evaluate(given, questions=found.read(data, split, images=None, limit=None), benchmark=found)


def assert_same(run: Run, task: str, ours: Evaluation, name: str) -> None:
    """Every row and every number of a task is that of `sif eval`."""
    metrics = metrics_of(name)
    rows = run.rows(task, next(iter(metrics)))
    assert len(rows) == 10
    for row, known in zip(rows, ours.rows, strict=True):
        assert row == {key: value for key, value in known.to_json().items() if key != "tokens"}
    numbers = benchmark(name).numbers(ours.rows)
    for metric, (title, lenient) in metrics.items():
        found = numbers.get(title)
        wanted = None if found is None else found.lenient if lenient else found.strict
        if wanted is None:
            assert str(run.number(task, metric)).lower() == "nan", metric
        else:
            assert run.number(task, metric) == pytest.approx(wanted.mean), metric


def test_two_benchmarks_by_a_model_here(harness: Harness, model: Path) -> None:
    """Runs our files of TallyQA and SpatialBench: every row and number equal to `sif eval`'s."""
    tally, spatial = write_tallyqa(harness.folder / "tallyqa"), write_spatialbench(harness.folder / "spatialbench")
    args = f"pretrained={model},protocol=direct,max_new_tokens=16"
    run = harness.run(
        TASKS, ["sif_tallyqa", "sif_spatialbench"], args, SIF_TALLYQA=str(tally), SIF_SPATIALBENCH=str(spatial)
    )
    how = {"model": str(model), "protocol": "direct", "max_new_tokens": 16, "batch_size": 8}
    ours = evaluated("tallyqa", tally, "test", **how)
    assert_same(run, "sif_tallyqa", ours, "tallyqa")
    assert 0 < run.number("sif_tallyqa", "all") < 1
    assert_same(run, "sif_spatialbench", evaluated("spatialbench", spatial, "all", **how), "spatialbench")
    assert all(row["depth"] for row in run.rows("sif_spatialbench", "spatialbench"))
    assert 0 < run.number("sif_spatialbench", "spatialbench") < 1


def think(request: dict[str, Any], number: int) -> str:
    """A chain: always the same box, and option B or the block that is named first; of a green block no chain."""
    asked = request["messages"][0]["content"][-1]["text"].rpartition("Question: ")[2]
    said = re.search(r"\(B\) (\w+)", asked) or re.search(r"(\w+ block)", asked)
    answer = said[1] if said else "nothing"
    if answer.startswith("green"):
        return "I cannot say."
    step = '<area>[{"bbox_2d":[0.1,0.25,0.6,0.75]}]</area>\n<text>There.</text>'
    return f"<think>\n{step}\n</think>\n<answer>\n{answer}\n</answer>"


def test_two_benchmarks_by_a_model_on_a_server(harness: Harness) -> None:
    """Runs our files of VisCoT and SAT's static part against a server: every chain, box and number likewise."""
    viscot, sat = write_viscot(harness.folder / "viscot"), write_sat_static(harness.folder / "sat")
    with serve(think) as (url, requests):
        args = f"pretrained=blocks,base_url={url},concurrency=4"
        run = harness.run(TASKS, ["sif_viscot", "sif_sat_static"], args, SIF_VISCOT=str(viscot), SIF_SAT=str(sat))
        assert len(requests) == 20
        assert {request["max_tokens"] for request in requests} == {1024}  # not the tasks' own bound
        how = {"model": "blocks", "base_url": url}
        assert_same(run, "sif_viscot", evaluated("viscot", viscot, "all", **how), "viscot")
        assert_same(run, "sif_sat_static", evaluated("sat", sat, "static", **how), "sat")
    assert 0 < run.number("sif_viscot", "hiou") < 1
    assert 0.2 < run.number("sif_viscot", "answers") < 1
    assert 0.2 < run.number("sif_sat_static", "sat_static") < 1


OWN = """\
include: {file}
task: {task}
dataset_path: parquet
dataset_name: null
dataset_kwargs:
  data_files:
    {split}: {task}.parquet
"""


def write_own(folder: Path, lmms: Environment) -> Path:
    """Ten questions of lmms-eval's own RefCOCO and V*Bench, as it publishes them, with task files that name them."""
    import datasets

    home = (
        Path(lmms.command(lmms.python, "-c", "import lmms_eval; print(lmms_eval.__path__[0])").stdout.split()[-1]) / "tasks"
    )
    folder.mkdir()
    picture = Image.new("RGB", (200, 100), (90, 120, 30))
    # Of the box [0.1, 0.25, 0.6, 0.75] that is answered: [20, 25, 100, 50] is just it, the other does not touch it.
    boxes = [[20, 25, 100, 50], [150, 80, 40, 15]]
    refcoco = [
        {"image": picture, "question_id": str(n), "answer": [f"red block {n}"], "bbox": [float(x) for x in boxes[n % 2]]}
        for n in range(10)
    ]
    vstar = [
        {
            "image": picture,
            "question_id": n,
            "text": f"What of glove {n}? (A) red (B) {'blue' if n % 2 else 'black'}",
            "label": "B" if n < 5 else "A",
            "category": "direct_attributes",
        }
        for n in range(10)
    ]
    for task, rows, split, file in (
        ("own_refcoco_bbox_rec_val", refcoco, "val", home / "refcoco" / "refcoco_bbox_rec_val.yaml"),
        ("own_vstar_bench", vstar, "test", home / "vstar_bench" / "vstar_bench.yaml"),
    ):
        datasets.Dataset.from_list(rows).to_parquet(folder / f"{task}.parquet")
        (folder / f"{task}.yaml").write_text(OWN.format(file=file, task=task, split=split))
    return folder


def choose(request: dict[str, Any], number: int) -> str:
    """The same box for every question, and the words of option B where there is one."""
    asked = request["messages"][0]["content"][-1]["text"]
    option = re.search(r"^B\. (\w+)", asked, re.MULTILINE)
    step = '<area>[{"bbox_2d":[0.1,0.25,0.6,0.75]}]</area>\n<text>There.</text>'
    return f"<think>\n{step}\n</think>\n<answer>\n{option[1] if option else 'there'}\n</answer>"


def test_tasks_of_lmms_eval(harness: Harness, depth_model: Path) -> None:
    """Runs its own RefCOCO and V*Bench with estimated depth: they get the boxes of the last area, and letters."""
    folder = write_own(harness.folder / "own", harness.lmms)
    tasks = ["own_refcoco_bbox_rec_val", "own_vstar_bench"]
    with serve(choose) as (url, requests):
        args = f"pretrained=blocks,base_url={url},letters=true,depth={depth_model}"
        run = harness.run(folder, tasks, args)
        asked = [request["messages"][0]["content"] for request in requests]
    assert len(asked) == 20
    assert {tuple(part["type"] for part in parts) for parts in asked} == {("image_url", "image_url", "text")}
    texts = [parts[-1]["text"] for parts in asked]
    assert all("the second is its depth" in text for text in texts)
    assert not [text for text in texts if "directly" in text or "floating point" in text]
    assert set(run.answers("own_refcoco_bbox_rec_val")) == {"[0.1, 0.25, 0.6, 0.75]"}
    assert run.number("own_refcoco_bbox_rec_val", "refcoco_ACC@0.5") == 0.5
    assert run.number("own_refcoco_bbox_rec_val", "refcoco_IoU") == pytest.approx(0.5)
    assert run.answers("own_vstar_bench") == ["B"] * 10
    assert run.number("own_vstar_bench", "vstar_overall_acc") == 50


TASK = """\
task: sif_blocks
dataset_path: json
dataset_kwargs:
  data_files:
    test: RECORDS
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_messages: !function blocks.doc_to_messages
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


def doc_to_messages(doc):
    shown = [load_image(Path("FOLDER") / doc["image"]), DepthMap.read(Path("FOLDER") / doc["depth"])]
    text = {"type": "text", "text": doc["question"] + "\\nAnswer the question using a single word or phrase."}
    return [{"role": "user", "content": [*({"type": "image", "url": one} for one in shown), text]}]


def process_results(doc, results):
    return {"answer_accuracy": float(judge(results[0], doc["answer"], doc["choices"]).score == 1)}
"""


def test_a_task_of_somebody_with_depth(harness: Harness, model: Path) -> None:
    """Runs a local task that shows depth: bare answers and accuracy equal to `sif eval`'s."""
    records = write_records(harness.folder / "data", 24, seed=3)
    (harness.folder / "tasks").mkdir()
    (harness.folder / "tasks" / "blocks.yaml").write_text(TASK.replace("RECORDS", str(records)))
    (harness.folder / "tasks" / "blocks.py").write_text(BLOCKS.replace("FOLDER", str(harness.folder / "data")))
    run = harness.run(harness.folder / "tasks", ["sif_blocks"], f"pretrained={model},direct=True,max_new_tokens=16")

    settings = EvalSettings(data=str(records), model=str(model), direct=True, max_new_tokens=16, batch_size=8)
    evaluation = evaluate(settings)
    assert run.answers("sif_blocks") == [row.answer or "" for row in evaluation.rows]
    accuracy = run.number("sif_blocks", "answer_accuracy")
    assert accuracy == pytest.approx(evaluation.results["answer accuracy"].mean)
    assert 0.2 < accuracy < 1
