from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from sifthinker.cli import main
from sifthinker.errors import ConfigError
from sifthinker.files import write_jsonl

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from sifthinker.training.config import guess_stage, make_config  # noqa: E402
from sifthinker.training.grpo import DEFAULTS  # noqa: E402
from sifthinker.training.plan import make_plan  # noqa: E402
from sifthinker.training.sft import DEFAULTS as SFT_DEFAULTS  # noqa: E402
from sifthinker.training.sft import sft_trainer  # noqa: E402

from .test_training import GRPO, SFT  # noqa: E402


def planned(nano: Path, data: Path, tmp_path: Path, gpu: float | None = None, **training: object):
    settings = {**GRPO, "max_completion_length": 256, **training}
    config = make_config({"model": nano, "data": data, "output": tmp_path / "run", "training": settings}, "grpo")
    return make_plan(config, "grpo", DEFAULTS, gpu_gib=gpu)


class TestFacts:
    def test_a_sound_run_has_no_problem(self, nano: Path, world_chains: Path, tmp_path: Path) -> None:
        plan = planned(nano, world_chains, tmp_path)
        assert plan.problems == []
        assert plan.facts["a step"].startswith("2 prompts × 4 completions")
        # 32 image tokens, the task as one token, the question's dozen.
        assert 40 < int(plan.facts["longest prompt"].split()[0]) < 70

    def test_weights_are_counted_exactly(self, nano: Path, world_chains: Path, tmp_path: Path) -> None:
        from sifthinker.models import load_model

        size = sum(p.numel() for p in load_model(nano).parameters()) * 4 / 2**30
        memory = planned(nano, world_chains, tmp_path).memory_gib
        assert memory["weights"] == pytest.approx(size)
        assert memory["optimizer (Adam)"] == pytest.approx(2 * size)
        assert memory["reference model"] == pytest.approx(size)

    def test_adapters_train_less(self, nano: Path, world_chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import grpo_trainer

        values = {
            "model": nano,
            "data": world_chains,
            "output": tmp_path / "run",
            "lora": {"r": 2},
            "freeze": ["vision_tower"],
        }
        config = make_config({**values, "training": {**GRPO, "max_completion_length": 256}}, "grpo")
        trained = sum(p.numel() for p in grpo_trainer(config).model.parameters() if p.requires_grad)
        memory = make_plan(config, "grpo", DEFAULTS).memory_gib
        assert memory["gradients"] == pytest.approx(trained * 4 / 2**30)
        assert "reference model" not in memory

    def test_sharing_needs_fewer_tokens(self, nano: Path, world_chains: Path, tmp_path: Path) -> None:
        values = {"model": nano, "data": world_chains, "output": tmp_path / "run"}
        config = make_config({**values, "prefix_sharing": "off", "training": {**GRPO, "max_completion_length": 256}}, "grpo")
        without = make_plan(config, "grpo", DEFAULTS).memory_gib["activations"]
        assert planned(nano, world_chains, tmp_path).memory_gib["activations"] < without


class TestProblems:
    @pytest.mark.parametrize(
        ("training", "words"),
        [
            ({"max_completion_length": 24}, "below the longest gold chain"),
            ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}, "unevenly"),
            ({"per_device_train_batch_size": 96}, "data has 18"),
        ],
    )
    def test_each_comes_with_a_remedy(
        self, nano: Path, world_chains: Path, tmp_path: Path, training: dict, words: str
    ) -> None:
        problems = planned(nano, world_chains, tmp_path, **training).problems
        assert any(words in problem for problem in problems)

    def test_a_gpu_that_is_too_small(self, nano: Path, world_chains: Path, tmp_path: Path) -> None:
        assert planned(nano, world_chains, tmp_path, gpu=24.0).problems == []
        assert "lower per_device_train_batch_size" in planned(nano, world_chains, tmp_path, gpu=0.001).problems[0]

    def test_dead_rewards(self, nano: Path, world_chains: Path, tmp_path: Path) -> None:
        rows = [json.loads(line) for line in (world_chains / "examples.jsonl").read_text().splitlines()]
        for row in rows:
            row["answer"] = row["choices"] = "nothing of the sort"
        (tmp_path / "wrong").mkdir()
        for name in ("images", "depth", "depth_view"):
            (tmp_path / "wrong" / name).mkdir()
            for file in (world_chains / name).iterdir():
                (tmp_path / "wrong" / name / file.name).write_bytes(file.read_bytes())
        write_jsonl(tmp_path / "wrong" / "examples.jsonl", rows)
        problems = planned(nano, tmp_path / "wrong", tmp_path).problems
        assert any("reward answer: even the gold chains earn 0" in problem for problem in problems)

    @pytest.mark.parametrize("part", [0, 1])
    def test_special_tokens_of_the_model_in_a_text(self, nano: Path, world_chains: Path, tmp_path: Path, part: int) -> None:
        shutil.copytree(world_chains, tmp_path / "d")
        rows = [json.loads(line) for line in (world_chains / "examples.jsonl").read_text().splitlines()]
        # nano's end token; an ordinary text in angle brackets is none.
        rows[3]["messages"][part]["content"] = rows[3]["messages"][part]["content"].replace("the", "the </s>", 1)
        rows[4]["messages"][0]["content"] += " a < b > c <3"
        write_jsonl(tmp_path / "d" / "examples.jsonl", rows)
        (problem,) = [p for p in planned(nano, tmp_path / "d", tmp_path).problems if "special token" in p]
        assert (
            f"1 examples hold a special token of this model in their text, the first {rows[3]['id']!r} with '</s>'"
            in problem
        )
        config = make_config({"model": nano, "data": tmp_path / "d", "output": tmp_path / "run", "training": SFT}, "sft")
        with pytest.raises(ConfigError, match="special token"):
            sft_trainer(config)

    def test_sft_that_would_cut_chains(self, nano: Path, world_chains: Path, tmp_path: Path) -> None:
        values = {"model": nano, "data": world_chains, "output": tmp_path / "run"}
        config = make_config({**values, "training": {**SFT, "max_length": 100}}, "sft")
        assert "would be cut off" in make_plan(config, "sft", SFT_DEFAULTS).problems[0]


def test_the_command(nano: Path, world_chains: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {nano}\ndata: {world_chains}\noutput: o\ntraining: {{num_generations: 4}}\n")
    words = ["plan", str(path), "--gpu", "24", "--max_completion_length", "300"]
    good = CliRunner().invoke(main, [*words, "--per_device_train_batch_size", "8"])
    assert good.exit_code == 0, good.output
    assert "stage: grpo" in good.stdout
    assert "fits on 24 GiB: per_device_train_batch_size up to about" in good.stdout
    bad = CliRunner().invoke(main, [*words, "--per_device_train_batch_size", "96"])
    assert (bad.exit_code, "problem:" in bad.stderr) == (2, True)


@pytest.mark.parametrize(
    ("name", "text", "stage"),
    [
        ("c.yaml", "training: {num_generations: 4}", "grpo"),
        ("c.yaml", "rewards: {depth: 0}", "grpo"),
        ("c.yaml", "training: {max_length: 9}", "sft"),
        ("my-grpo.yaml", "training: {max_steps: 9}", "grpo"),
        ("c.yaml", "training: {max_steps: 9}", "sft"),
    ],
)
def test_the_stage_is_the_one_whose_keys_a_config_has(tmp_path: Path, name: str, text: str, stage: str) -> None:
    (tmp_path / name).write_text(f"model: m\n{text}\n")
    assert guess_stage(tmp_path / name) == stage


def test_merging_a_checkpoint(nano: Path, world_chains: Path, tmp_path: Path) -> None:
    from sifthinker.models import load_model
    from sifthinker.training.sft import train_sft

    training = {**SFT, "save_strategy": "steps", "save_steps": 2}
    values = {"model": nano, "data": world_chains, "output": tmp_path / "run", "lora": {"r": 2}, "training": training}
    train_sft(make_config(values, "sft"))
    adapter = tmp_path / "run" / "checkpoint-2"
    assert (adapter / "adapter_model.safetensors").is_file()
    result = CliRunner().invoke(main, ["model", "merge", str(adapter), "-o", str(tmp_path / "merged")])
    assert result.exit_code == 0, result.output
    merged, finished = load_model(tmp_path / "merged"), load_model(tmp_path / "run")
    for (name, a), (_, b) in zip(merged.named_parameters(), finished.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    result = CliRunner().invoke(main, ["model", "merge", str(nano), "-o", str(tmp_path / "x")])
    assert (result.exit_code, "holds no adapter" in result.stderr) == (2, True)
