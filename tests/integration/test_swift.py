"""ms-swift: GRPO with our four rewards, from our plugin and our export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sifthinker.depth import DepthMap
from sifthinker.engine.exports import export
from sifthinker.records import read_examples
from sifthinker.scoring.rewards import reference_from, score_completion
from sifthinker.training.settings import TrainSettings
from sifthinker.training.stages import train

from ..scoring.test_rewards import LEFT, RIGHT, WHOLE, chain
from ..tiny_vlm import write_tiny_vlm
from .environments import ROOT, Environment, prepare

pytestmark = pytest.mark.integration

PLUGIN = ROOT / "examples" / "swift_plugin.py"
REWARDS = {
    "sif_format": "SwiftFormat",
    "sif_answer": "SwiftAnswer",
    "sif_grounding": "SwiftGrounding",
    "sif_depth": "SwiftDepth",
}
COLUMNS = {"answer": "cat", "boxes": [[0, 0, 0.5, 1]], "choices": '["cat","dog"]'}


@pytest.fixture(scope="module")
def swift() -> Environment:
    return prepare("swift")


def test_the_plugin(swift: Environment, tmp_path: Path) -> None:
    """The rewards of examples/swift_plugin.py score completions as its GRPO trainer calls them."""
    DepthMap(np.full((10, 10), 0.5)).write(tmp_path / "d.png")
    columns = {name: [value] * 2 for name, value in {**COLUMNS, "depth": str(tmp_path / "d.png")}.items()}
    completions = [chain(WHOLE, RIGHT, LEFT), "rubbish"]
    found = swift.run("swift_plugin", PLUGIN, json.dumps(completions), json.dumps(columns))
    assert found == {"sif_format": [1, 0], "sif_answer": [1, 0], "sif_grounding": [2, 0], "sif_depth": [1, 0]}


# The turns of ms-swift's template `llava1_5_hf`.
TURNS = """
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{ message['content'][0]['text'] }}{{ eos_token }}{% endgeneration %}
{%- else %}{{ bos_token }}USER: {% for part in message['content'] %}
{%- if part['type'] == 'image' %}<image>{{ '\\n' }}{% else %}{{ part['text'] }}{% endif %}
{%- endfor %}{{ '\\n' }}ASSISTANT:
{%- endif %}
{%- endfor %}"""


def write_taught_model(folder: Path, chains: Path) -> Path:
    """A tiny LLaVA that has learnt one example by heart, so that its completions earn something."""
    write_tiny_vlm(folder / "random")
    (folder / "random" / "chat_template.jinja").write_text(TURNS)
    training = {
        "max_steps": 120, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "learning_rate": 3e-3,
        "save_strategy": "no",
    }  # fmt: skip
    settings = TrainSettings(
        model=str(folder / "random"), data=str(chains), output=str(folder / "taught"), limit=1, training=training
    )
    train(settings, "sft")
    return folder / "taught"


def test_grpo(swift: Environment, chains: Path, tmp_path: Path) -> None:
    """`swift rlhf --rlhf_type grpo` takes two steps with a tiny LLaVA on our export, with our four rewards."""
    model = write_taught_model(tmp_path, chains)
    export(chains, tmp_path / "data", "swift")
    rows = (tmp_path / "data" / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "data" / "one.jsonl").write_text(rows[0])
    options = {
        "model": model, "model_type": "llava1_5_hf", "template": "llava1_5_hf", "use_hf": "true",
        "dataset": tmp_path / "data" / "one.jsonl", "external_plugins": PLUGIN, "output_dir": tmp_path / "run",
        "num_generations": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 2,
        "max_completion_length": 200, "max_length": 2048, "tuner_type": "full", "torch_dtype": "float32", "bf16": "false",
        "fp16": "false", "use_vllm": "false", "attn_impl": "sdpa", "gradient_checkpointing": "false", "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "dataset_num_proc": 1, "dataloader_num_workers": 0,
        "load_from_cache_file": "false", "log_completions": "true", "temperature": 0.5,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = ["swift", "rlhf", "--rlhf_type", "grpo", "--reward_funcs", *REWARDS, *words]
    home = {"MODELSCOPE_CACHE": str(tmp_path / "modelscope")}
    swift.command(swift.folder / "bin" / command[0], *command[1:], cwd=tmp_path, variables=home, timeout_s=600)

    (logged,) = (tmp_path / "run").rglob("logging.jsonl")
    steps = [row for row in map(json.loads, logged.read_text().splitlines()) if "reward" in row]
    assert len(steps) == 2
    for row in steps:
        means = [row[f"rewards/{name}/mean"] for name in REWARDS.values()]
        assert row["reward"] == pytest.approx(sum(means), abs=1e-5)
        assert min(means) > 0, "a model that knows its chain earns something of each"
    # What was logged is what the rewards are for the truth that the export was made from.
    truth = next(read_examples(chains))
    reference = reference_from({name: getattr(truth, name) for name in ("answer", "boxes", "choices", "depth")})
    (kept,) = (tmp_path / "run").rglob("completions.jsonl")
    scored = 0
    for row in map(json.loads, kept.read_text().splitlines()):
        for number, text in enumerate(row["completion"]):
            scores = score_completion(text, reference)
            for name, logs in REWARDS.items():
                assert row[logs][number] == pytest.approx(getattr(scores, name.removeprefix("sif_")).value), text
            scored += 1
    assert scored >= 8
