from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from sifthinker.cli.main import main
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import write_jsonl
from sifthinker.models import load_processor
from sifthinker.prompts import user_prompt
from sifthinker.records import write_choices
from sifthinker.scoring.rewards import REWARDS

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from sifthinker.training.data import grpo_dataset, load_examples, sft_dataset  # noqa: E402
from sifthinker.training.grpo import DEFAULTS  # noqa: E402
from sifthinker.training.plan import (  # noqa: E402
    Plan,
    _batch_problems,
    make_plan,
    report_problems,
    reward_problems,
    template_problems,
    token_counts,
)
from sifthinker.training.settings import guess_stage, make_config  # noqa: E402
from sifthinker.training.sft import DEFAULTS as SFT_DEFAULTS  # noqa: E402
from sifthinker.training.sft import sft_trainer  # noqa: E402

from .test_training import GRPO, SFT  # noqa: E402


def planned(tiny_vlm: Path, data: Path, tmp_path: Path, gpu: float | None = None, **training: object):
    settings = {**GRPO, "max_completion_length": 256, **training}
    config = make_config({"model": tiny_vlm, "data": data, "output": tmp_path / "run", "training": settings}, "grpo")
    return make_plan(config, "grpo", DEFAULTS, gpu_gib=gpu)


class TestFacts:
    def test_a_sound_run_has_no_problem(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        plan = planned(tiny_vlm, chains, tmp_path)
        assert plan.problems == []
        assert plan.facts["a step"].startswith("2 prompts × 4 completions")
        # 32 image tokens, the task as one token, the question's dozen.
        assert 40 < int(plan.facts["longest prompt"].split()[0]) < 70

    def test_weights_are_counted_exactly(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.models import load_model

        size = sum(p.numel() for p in load_model(tiny_vlm).parameters()) * 4 / 2**30
        memory = planned(tiny_vlm, chains, tmp_path).memory_gib
        assert memory["weights"] == pytest.approx(size)
        assert memory["optimizer (Adam)"] == pytest.approx(2 * size)
        assert memory["reference model"] == pytest.approx(size)

    def test_what_grows_with_tokens_by_hand(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        # Eight completions of two prompts; two layers of width 64 with 170 inside, two heads of 32 for keys and values.
        plan = planned(tiny_vlm, chains, tmp_path, bf16=False)
        prompt = int(plan.facts["longest prompt"].split()[0])
        tokens, apart = 2 * (prompt + 4 * 256), 8 * (prompt + 256)
        assert plan.facts["tokens at once"] == f"{tokens:,}, against {apart:,} without prefix sharing"
        layer = 8 * 64 + 3 * 170
        assert plan.memory_gib["activations"] == pytest.approx(tokens * (2 * 64 + 2 * layer) * 4 / 2**30)
        assert plan.memory_gib["generation cache"] == pytest.approx(apart * 2 * 2 * 2 * 32 * 4 / 2**30)
        saving = planned(tiny_vlm, chains, tmp_path, bf16=False, activation_checkpointing=True).memory_gib
        assert saving["activations"] == pytest.approx(tokens * (2 * 64 + layer) * 4 / 2**30)
        # Two completions at once are half of a group: the prompt is computed for them again.
        few = planned(tiny_vlm, chains, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
        assert few.facts["tokens at once"].startswith(f"{prompt + 2 * 256:,}, ")
        assert "reference model" not in planned(tiny_vlm, chains, tmp_path, beta=0.0).memory_gib

    def test_how_many_completions_fit(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        plan = planned(tiny_vlm, chains, tmp_path, gpu=24.0)
        fixed = plan.total_gib - plan.memory_gib["activations"]
        fitting = int((24 - fixed) / (plan.memory_gib["activations"] / 8))
        assert plan.facts["fits on 24 GiB"] == f"per_device_train_batch_size up to about {fitting} (now 8)"
        nearly = planned(tiny_vlm, chains, tmp_path, gpu=plan.total_gib * 0.999)
        assert len(nearly.problems) == 1
        assert planned(tiny_vlm, chains, tmp_path, gpu=plan.total_gib * 1.001).problems == []

    def test_the_longest_are_found_among_many(self, tiny_vlm: Path, chains: Path) -> None:
        examples, processor = load_examples(str(chains)), load_processor(tiny_vlm)
        assert len(examples) > 16
        long = {"role": "user", "content": examples[-1].prompt + " Why?" * 50}
        examples[-1] = replace(examples[-1], messages=(long, examples[-1].messages[1]))
        each = [token_counts([example], processor) for example in examples]
        prompts, chains = token_counts(examples, processor)
        assert (len(prompts), max(prompts)) == (16, max(prompt for (prompt,), _ in each))
        assert (len(chains), max(chains)) == (16, max(chain for _, (chain,) in each))

    def test_adapters_train_less(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import grpo_trainer

        values = {
            "model": tiny_vlm,
            "data": chains,
            "output": tmp_path / "run",
            "lora": {"r": 2},
            "freeze": ["vision_tower"],
        }
        config = make_config({**values, "training": {**GRPO, "max_completion_length": 256}}, "grpo")
        trained = sum(p.numel() for p in grpo_trainer(config).model.parameters() if p.requires_grad)
        memory = make_plan(config, "grpo", DEFAULTS).memory_gib
        assert memory["gradients"] == pytest.approx(trained * 4 / 2**30)
        assert "reference model" not in memory

    def test_sharing_needs_fewer_tokens(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        values = {"model": tiny_vlm, "data": chains, "output": tmp_path / "run"}
        config = make_config({**values, "prefix_sharing": "off", "training": {**GRPO, "max_completion_length": 256}}, "grpo")
        without = make_plan(config, "grpo", DEFAULTS).memory_gib["activations"]
        assert planned(tiny_vlm, chains, tmp_path).memory_gib["activations"] < without


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
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, training: dict, words: str
    ) -> None:
        problems = planned(tiny_vlm, chains, tmp_path, **training).problems
        assert any(words in problem for problem in problems)

    def test_a_gpu_that_is_too_small(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        assert planned(tiny_vlm, chains, tmp_path, gpu=24.0).problems == []
        assert "lower per_device_train_batch_size" in planned(tiny_vlm, chains, tmp_path, gpu=0.001).problems[0]

    def test_dead_rewards(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        rows = [json.loads(line) for line in (chains / "examples.jsonl").read_text().splitlines()]
        for row in rows:
            row["answer"] = row["choices"] = "nothing of the sort"
        (tmp_path / "wrong").mkdir()
        for name in ("images", "depth", "depth_view"):
            (tmp_path / "wrong" / name).mkdir()
            for file in (chains / name).iterdir():
                (tmp_path / "wrong" / name / file.name).write_bytes(file.read_bytes())
        write_jsonl(tmp_path / "wrong" / "examples.jsonl", rows)
        problems = planned(tiny_vlm, tmp_path / "wrong", tmp_path).problems
        assert any("reward answer: even the gold chains earn 0" in problem for problem in problems)

    @pytest.mark.parametrize("part", [0, 1])
    def test_special_tokens_of_the_model_in_a_text(self, tiny_vlm: Path, chains: Path, tmp_path: Path, part: int) -> None:
        shutil.copytree(chains, tmp_path / "d")
        rows = [json.loads(line) for line in (chains / "examples.jsonl").read_text().splitlines()]
        # The model's end token; an ordinary text in angle brackets is none.
        rows[3]["messages"][part]["content"] = rows[3]["messages"][part]["content"].replace("the", "the </s>", 1)
        rows[4]["messages"][0]["content"] += " a < b > c <3"
        write_jsonl(tmp_path / "d" / "examples.jsonl", rows)
        (problem,) = [p for p in planned(tiny_vlm, tmp_path / "d", tmp_path).problems if "special token" in p]
        assert (
            f"1 examples hold a special token of this model in their text, the first {rows[3]['id']!r} with '</s>'"
            in problem
        )
        config = make_config({"model": tiny_vlm, "data": tmp_path / "d", "output": tmp_path / "run", "training": SFT}, "sft")
        with pytest.raises(ConfigError, match="special token"):
            sft_trainer(config)

    def test_sft_that_would_cut_chains(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        def sft(length: int | None) -> Plan:
            values = {"model": tiny_vlm, "data": chains, "output": tmp_path / "run"}
            return make_plan(make_config({**values, "training": {**SFT, "max_length": length}}, "sft"), "sft", SFT_DEFAULTS)

        facts = sft(None).facts
        longest = sum(int(facts[name].split()[0]) for name in ("longest prompt", "longest gold chain"))
        assert sft(longest).problems == []
        (problem,) = sft(longest - 1).problems
        assert f"is below the longest example's {longest} tokens: chains would be cut off" in problem

    @pytest.mark.parametrize(
        ("numbers", "words"),
        [
            # completions at once, group, longest gold chain, most tokens, examples, prompts a step
            ((8, 4, 100, 100, 18, 2), []),
            ((8, 4, 101, 100, 18, 2), ["set it to at least 117"]),
            ((2, 4, 100, 100, 18, 2), []),
            ((6, 4, 100, 100, 18, 3), ["unevenly"]),
            ((8, 4, 100, 100, 2, 2), []),
            ((8, 4, 100, 100, 1, 2), ["the data has 1"]),
        ],
    )
    def test_batches_by_hand(self, numbers: tuple[int, ...], words: list[str]) -> None:
        found = _batch_problems(*numbers)
        assert len(found) == len(words)
        assert all(word in problem for word, problem in zip(words, found, strict=True))

    @pytest.mark.parametrize(
        ("training", "times"),
        [
            # Two prompts a step, of 18 examples.
            ({"max_steps": 2}, "0.22"),
            ({"max_steps": 4, "num_iterations": 2}, "0.22"),
            ({"max_steps": 9}, "1"),
            ({"max_steps": 10}, None),
            ({"max_steps": -1, "num_train_epochs": 1}, "1"),
            ({"max_steps": -1, "num_train_epochs": 2}, None),
        ],
    )
    def test_a_progress_term_that_never_acts_is_noted(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, training: dict, times: str | None
    ) -> None:
        notes = planned(tiny_vlm, chains, tmp_path, **training).notes
        assert [note.partition(" times")[0] for note in notes] == ([f"each example is seen {times}"] if times else [])

    @pytest.mark.parametrize("change", [{"rewards": {"answer": 0}}, {"reward_terms": {"progress": False}}])
    def test_no_term_no_note(self, tiny_vlm: Path, chains: Path, tmp_path: Path, change: dict) -> None:
        values = {"model": tiny_vlm, "data": chains, "output": tmp_path / "run", **change}
        config = make_config({**values, "training": {**GRPO, "max_completion_length": 256}}, "grpo")
        assert make_plan(config, "grpo", DEFAULTS).notes == []

    def test_rewards_that_gold_chains_do_not_earn(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        config = make_config({"model": tiny_vlm, "data": chains, "output": tmp_path / "run"}, "grpo")
        first, second = load_examples(str(chains), 2)
        gold = {example.id: example.chain for example in (first, second)}
        assert reward_problems([first, second], gold, config) == ([], [])
        # One region of four or more is off: a share of 3/4 or more, and less than 1.
        head, mark, tail = second.chain.rpartition('"depth":')
        off = f"{head}{mark}0.999{tail[tail.index('}') :]}"
        share = 1 - 1 / off.count("bbox_2d")
        dead, weak = reward_problems([first, second], {**gold, second.id: off}, config)
        assert (dead, [problem.partition(", less")[0] for problem in weak]) == (
            [], [f"reward depth: a gold chain earns {share:.2f}"],
        )  # fmt: skip
        dead, weak = reward_problems([first, second], {**gold, second.id: "rubbish"}, config)
        assert dead == []
        assert [problem.partition(", less")[0].partition("earns ")[2] for problem in weak] == ["0.00"] * 4
        dead, weak = reward_problems([first], {first.id: "rubbish"}, config)
        assert [problem.partition(":")[0] for problem in dead] == [f"reward {name}" for name in REWARDS]
        assert weak == []
        flat = replace(first, depth=None)
        _, weak = reward_problems([flat], {flat.id: re.sub(r',"depth":[\d.]+', "", flat.chain)}, config)
        assert [problem.partition(" (")[0] for problem in weak] == ["reward depth: does not apply to this data"]

    def test_an_example_that_is_broken_itself_is_not_the_templates_fault(self, chains: Path) -> None:
        (example,) = load_examples(str(chains), 1)
        assert "breaks the chain" in template_problems([example], {example.id: "rubbish"})[0]
        broken = replace(example, messages=(example.messages[0], {"role": "assistant", "content": "rubbish"}))
        assert template_problems([broken], {example.id: "rubbish"}) == []

    def test_refusals_stop_a_run_and_problems_do_not(self, caplog: pytest.LogCaptureFixture) -> None:
        report_problems(Plan({}, {}, ["a problem"], [], ["a note"]))
        assert [record.getMessage() for record in caplog.records] == [
            "before the first step: a note",
            "before the first step: a problem",
        ]
        with pytest.raises(ConfigError, match=r"^a reason$"):
            report_problems(Plan({}, {}, ["a reason", "a problem"], ["a reason"]))


class TestData:
    def test_what_is_missing_or_mixed_is_named(self, chains: Path, tmp_path: Path) -> None:
        shutil.copytree(chains, tmp_path, dirs_exist_ok=True)
        rows = [json.loads(line) for line in (chains / "examples.jsonl").read_text().splitlines()]
        cases: list[tuple[dict, str]] = [
            ({"images": [rows[1]["images"][0], "images/none.png"]}, "missing_image"),
            ({"depth": "depth/none.png"}, "missing_image"),
            ({"depth": None, "images": rows[1]["images"][:1]}, "mixed_depth"),
        ]
        for change, code in cases:
            write_jsonl(tmp_path / "examples.jsonl", [rows[0], {**rows[1], **change}, rows[2]])
            assert len(load_examples(str(tmp_path), 1)) == 1  # what is not used may be missing
            with pytest.raises(RecordError) as caught:
                load_examples(str(tmp_path))
            assert caught.value.code == code

    @pytest.mark.parametrize("rgb_only", [False, True])
    def test_answers_alone_are_asked_for_with_the_images_there_are(self, chains: Path, rgb_only: bool) -> None:
        (example,) = load_examples(str(chains), 1)
        if rgb_only:
            example = replace(example, depth=None, images=example.images[:1])
        (row,) = sft_dataset([example], answers_only=True)
        text = user_prompt(example.problem, with_depth=not rgb_only, direct=True)
        assert row["prompt"] == [{"role": "user", "content": text}]
        assert row["completion"] == [{"role": "assistant", "content": example.answer}]
        assert len(row["images"]) == 2 - rgb_only

    def test_rewards_are_given_every_column(self, chains: Path) -> None:
        (example,) = load_examples(str(chains), 1)
        row = grpo_dataset([example]).with_format(None).remove_columns("images")[0]
        assert row == {
            "prompt": [dict(example.messages[0])],
            "id": example.id,
            "problem": example.problem,
            "answer": example.answer,
            "boxes": [list(box) for box in example.boxes],
            "choices": write_choices(example.choices),
            "depth": example.depth,
        }
        assert len(grpo_dataset([example])[0]["images"]) == 2

    def test_a_limit(self, chains: Path) -> None:
        assert [len(load_examples(str(chains), limit)) for limit in (1, 5, 18, 99, None)] == [1, 5, 18, 18, 18]


def test_the_command(tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {tiny_vlm}\ndata: {chains}\noutput: o\ntraining: {{num_generations: 4}}\n")
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
        ("grpo.yaml", "answers_only: true", "sft"),
        ("my-grpo.yaml", "training: {max_steps: 9}", "grpo"),
        ("c.yaml", "training: {max_steps: 9}", "sft"),
    ],
)
def test_the_stage_is_the_one_whose_keys_a_config_has(tmp_path: Path, name: str, text: str, stage: str) -> None:
    (tmp_path / name).write_text(f"model: m\n{text}\n")
    assert guess_stage(tmp_path / name) == stage


def test_merging_a_checkpoint(tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    from sifthinker.models import load_model
    from sifthinker.training.sft import train_sft

    training = {**SFT, "save_strategy": "steps", "save_steps": 2}
    values = {"model": tiny_vlm, "data": chains, "output": tmp_path / "run", "lora": {"r": 2}, "training": training}
    train_sft(make_config(values, "sft"))
    adapter = tmp_path / "run" / "checkpoint-2"
    assert (adapter / "adapter_model.safetensors").is_file()
    result = CliRunner().invoke(main, ["model", "merge", str(adapter), "-o", str(tmp_path / "merged")])
    assert result.exit_code == 0, result.output
    merged, finished = load_model(tmp_path / "merged"), load_model(tmp_path / "run")
    for (name, a), (_, b) in zip(merged.named_parameters(), finished.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    result = CliRunner().invoke(main, ["model", "merge", str(tiny_vlm), "-o", str(tmp_path / "x")])
    assert (result.exit_code, "holds no adapter" in result.stderr) == (2, True)
