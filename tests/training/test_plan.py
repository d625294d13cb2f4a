from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

from sifthinker.cli.main import main
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import write_jsonl
from sifthinker.models import has_fast_bfloat16, load_processor
from sifthinker.prompts import user_prompt
from sifthinker.records import write_choices
from sifthinker.scoring.rewards import REWARDS

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from sifthinker.training.data import grpo_dataset, load_examples, sft_dataset  # noqa: E402
from sifthinker.training.grpo import DEFAULTS  # noqa: E402
from sifthinker.training.lengths import Lengths, Turn, header_sizes  # noqa: E402
from sifthinker.training.plan import (  # noqa: E402
    Plan,
    _batch_problems,
    _length_notes,
    _memory_here,
    crop_problems,
    image_problems,
    length_problems,
    make_plan,
    plan_run,
    precision_problems,
    report_problems,
    reward_problems,
    step_problems,
    template_problems,
)
from sifthinker.training.settings import guess_stage, make_config, trainer_arguments  # noqa: E402
from sifthinker.training.sft import DEFAULTS as SFT_DEFAULTS  # noqa: E402
from sifthinker.training.sft import sft_trainer  # noqa: E402

from .test_training import GRPO, SFT  # noqa: E402


def grpo_run(tiny_vlm: Path, data: Path, tmp_path: Path, **training: object):
    settings = {**GRPO, "max_completion_length": 512, **training}
    return make_config({"model": tiny_vlm, "data": data, "output": tmp_path / "run", "training": settings}, "grpo")


def planned(tiny_vlm: Path, data: Path, tmp_path: Path, gpu: float | None = None, **training: object) -> Plan:
    return make_plan(grpo_run(tiny_vlm, data, tmp_path, **training), "grpo", DEFAULTS, gpu_gib=gpu)


def checked(config, stage: str = "grpo") -> Plan:
    """A plan without its memory, which takes seconds to work out."""
    arguments = trainer_arguments(config, stage, DEFAULTS if stage == "grpo" else SFT_DEFAULTS)
    processor = load_processor(config.model, max_pixels=config.max_pixels)
    return plan_run(config, stage, arguments, load_examples(config.data, config.limit), processor)


class TestFacts:
    def test_a_sound_run_has_no_problem(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        plan = planned(tiny_vlm, chains, tmp_path)
        assert plan.problems == []
        assert plan.facts["training step"].startswith("2 prompts × 4 completions")
        precision = "bfloat16" if has_fast_bfloat16() else "the weights' own precision"
        assert plan.facts["planned for"] == f"this machine's CPU; computed in {precision}, activations kept"
        # 32 image tokens, the task as one token, the question's dozen.
        assert 40 < int(plan.facts["longest prompt"].split()[0]) < 70

    def test_weights_are_counted_exactly(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        from sifthinker.training.grpo import grpo_trainer

        config = grpo_run(tiny_vlm, chains, tmp_path)
        model = grpo_trainer(config).model
        plan = make_plan(config, "grpo", DEFAULTS)
        every = sum(p.numel() for p in model.parameters())
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert plan.facts["parameters"] == f"{every:,}, {trained:,} of them trained"
        # Buffers, such as the places of patches, are weights too.
        assert plan.memory_gib["weights"] == pytest.approx(4 * every / 2**30, rel=0.01)
        assert plan.memory_gib["gradients"] == 4 * trained / 2**30
        assert plan.memory_gib["optimizer"] == 8 * trained / 2**30
        assert plan.memory_gib["reference model"] == plan.memory_gib["weights"]

    def test_what_grows_with_tokens_by_hand(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        # Eight completions of two prompts; two layers with two heads of 32 for keys and values.
        plan = planned(tiny_vlm, chains, tmp_path, bf16=False)
        prompt = int(plan.facts["longest prompt"].split()[0])
        tokens, apart = 2 * (prompt + 4 * 512), 8 * (prompt + 512)
        assert plan.facts["tokens per forward pass"] == f"{tokens:,} ({apart:,} without prefix sharing)"
        assert plan.memory_gib["generation cache"] == pytest.approx(apart * 2 * 2 * 2 * 32 * 4 / 2**30)
        # Two completions at once are half of a group: the prompt is computed for them again.
        few = planned(tiny_vlm, chains, tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, beta=0.0)
        assert few.facts["tokens per forward pass"].startswith(f"{prompt + 2 * 512:,} (")
        assert "reference model" not in few.memory_gib

    def test_sampling_and_training_do_not_need_their_memory_at_once(self) -> None:
        memory = {"weights": 4.0, "gradients": 1.0, "optimizer": 2.0, "activations": 3.0, "generation cache": 5.0}
        assert Plan({}, memory).total_gib == 4 + 2 + 5
        assert Plan({}, {**memory, "activations": 9.0}).total_gib == 4 + 2 + 1 + 9

    def test_how_many_completions_fit(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        plan = planned(tiny_vlm, chains, tmp_path, gpu=24.0)
        assert plan.facts["planned for"] == "a GPU with 24 GiB; computed in bfloat16, activations recomputed"
        fitting = int(re.search(r"up to about (\d+) \(now 8\)", plan.facts["fits on 24 GiB"]).group(1))
        assert fitting % 4 == 0  # whole groups
        at_most = planned(tiny_vlm, chains, tmp_path, gpu=24.0, per_device_train_batch_size=fitting)
        assert 0.98 * 24 < at_most.total_gib <= 24
        nearly = planned(tiny_vlm, chains, tmp_path, gpu=plan.total_gib * 0.999)
        assert len(nearly.problems) == 1

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
        config = grpo_run(tiny_vlm, chains, tmp_path, max_completion_length=32)
        apart, shared = (make_plan(config.replace(prefix_sharing=sharing), "grpo", DEFAULTS) for sharing in ("off", "auto"))
        assert shared.memory_gib["activations"] < apart.memory_gib["activations"]
        assert "without prefix sharing" not in apart.facts["tokens per forward pass"]


class TestProblems:
    @pytest.mark.parametrize(
        ("training", "words"),
        [
            ({"max_completion_length": 24}, "too small for the longest ground-truth chain"),
            ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}, "unevenly"),
            ({"per_device_train_batch_size": 96}, "data has 18"),
        ],
    )
    def test_each_comes_with_a_remedy(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, training: dict, words: str
    ) -> None:
        problems = checked(grpo_run(tiny_vlm, chains, tmp_path, **training)).problems
        assert any(words in problem for problem in problems)

    def test_a_gpu_that_is_too_small(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        plan = planned(tiny_vlm, chains, tmp_path, gpu=0.001)
        assert "lower per_device_train_batch_size" in plan.problems[0]
        assert plan.facts["fits on 0.001 GiB"] == "per_device_train_batch_size 4 is already too large (now 8)"

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
        problems = checked(grpo_run(tiny_vlm, tmp_path / "wrong", tmp_path)).problems
        assert any("reward answer: even the ground-truth chains earn 0" in problem for problem in problems)

    @pytest.mark.parametrize("part", [0, 1])
    def test_special_tokens_of_the_model_in_a_text(self, tiny_vlm: Path, chains: Path, tmp_path: Path, part: int) -> None:
        shutil.copytree(chains, tmp_path / "d")
        rows = [json.loads(line) for line in (chains / "examples.jsonl").read_text().splitlines()]
        # The model's end token; an ordinary text in angle brackets is none.
        rows[3]["messages"][part]["content"] = rows[3]["messages"][part]["content"].replace("the", "the </s>", 1)
        rows[4]["messages"][0]["content"] += " a < b > c <3"
        write_jsonl(tmp_path / "d" / "examples.jsonl", rows)
        (problem,) = [p for p in checked(grpo_run(tiny_vlm, tmp_path / "d", tmp_path)).problems if "special token" in p]
        assert (
            f"1 example contains a special token of this model as text; the first is {rows[3]['id']!r} with '</s>'"
            in problem
        )
        config = make_config({"model": tiny_vlm, "data": tmp_path / "d", "output": tmp_path / "run", "training": SFT}, "sft")
        with pytest.raises(ConfigError, match="special token"):
            sft_trainer(config)

    def test_sft_that_would_cut_chains(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        def sft(length: int | None) -> Plan:
            values = {"model": tiny_vlm, "data": chains, "output": tmp_path / "run"}
            return checked(make_config({**values, "training": {**SFT, "max_length": length}}, "sft"), "sft")

        (problem,) = sft(60).problems
        longest = int(re.search(r"the longest example \((\d+) tokens\)", problem).group(1))
        assert "the chains of all 18 examples would be cut off, so the model could not learn to end a chain" in problem
        assert sft(60).refusals == [problem]  # every chain has lost its end
        assert sft(longest).problems == sft(None).problems == []
        (problem,) = sft(longest - 1).problems
        assert sft(longest - 1).refusals == []
        assert (
            f"is too small for the longest example ({longest} tokens): the chains of 6 " in problem
        )  # of the longest family

    def test_a_length_that_leaves_nothing_to_learn_is_refused(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        training = {**SFT, "max_length": 40}
        values = {"model": tiny_vlm, "data": chains, "output": tmp_path / "run", "training": training}
        with pytest.raises(
            ConfigError,
            match=r"max_length 40 cuts off the entire completion of 18 of 18 examples.*; the first is 'blocks-0-0'",
        ):
            sft_trainer(make_config(values, "sft"))

    def test_lengths_by_hand(self) -> None:
        turned = [Turn(name, [], "", "", "", "", ()) for name in ("a", "b", "c")]
        lengths = Lengths(prompts=[10, 20, 30], completions=[5, 5, 5])
        assert length_problems(turned, lengths, 35) == length_problems(turned, lengths, None) == ([], [])
        cut, shortened = length_problems(turned, lengths, 34)
        assert (cut, "chains of 1 example would" in shortened[0]) == ([], True)
        cut, shortened = length_problems(turned, lengths, 30)  # nothing of c is left; all of b is
        assert ("1 of 3 examples" in cut[0], "the first is 'c'" in cut[0], shortened) == (True, True, [])
        cut, shortened = length_problems(turned, lengths, 21)
        assert ("the first is 'c'" in cut[0], "chains of 1 example would" in shortened[0]) == (True, True)
        assert "set max_length to at least 35" in cut[0]
        # Of every one, a part is left: 1, 2 and 3 tokens of 5.
        cut, shortened = length_problems(turned, Lengths(prompts=[22, 21, 20], completions=[5, 5, 5]), 23, "answer")
        assert ("the answers of all 3 examples would be cut off" in cut[0], len(cut), shortened) == (True, 1, [])

    @pytest.mark.parametrize(
        ("numbers", "words"),
        [
            # completions at once, group, ground-truth chains, most tokens
            ((8, 4, [100, 99], 100), []),
            ((8, 4, [101, 99], 100), ["chains of 1 of 2 examples do not fit.* Set it to at least 117"]),
            ((2, 4, [100], 100), []),
            ((6, 4, [100], 100), ["unevenly"]),
        ],
    )
    def test_batches_by_hand(self, numbers: tuple[Any, ...], words: list[str]) -> None:
        found = _batch_problems(*numbers)
        assert len(found) == len(words)
        assert all(re.search(word, problem) for word, problem in zip(words, found, strict=True))

    @pytest.mark.parametrize(
        ("stage", "training", "examples", "words"),
        [
            ("grpo", {}, 2, []),  # 8 completions, 4 for each prompt
            ("grpo", {}, 1, ["a step needs 2 prompts, but the data has 1; "]),
            ("grpo", {"gradient_accumulation_steps": 3}, 5, ["a step needs 6 prompts, but the data has 5; "]),
            ("sft", {}, 1, []),
            ("sft", {"dataloader_drop_last": True}, 4, []),
            ("sft", {"dataloader_drop_last": True}, 3, ["a step needs 4 examples, because of dataloader_drop_last, but "]),
            ("sft", {"max_steps": 0}, 4, ["max_steps is 0"]),
            ("sft", {"max_steps": -1, "num_train_epochs": 0}, 4, ["num_train_epochs is 0"]),
            ("sft", {"max_steps": -1, "num_train_epochs": 0.5}, 4, []),
        ],
    )
    def test_runs_without_a_step(self, tmp_path: Path, stage: str, training: dict, examples: int, words: list[str]) -> None:
        values = {
            "model": "m",
            "data": "d",
            "output": tmp_path,
            "training": {**(GRPO if stage == "grpo" else SFT), **training},
        }
        arguments = trainer_arguments(make_config(values, stage), stage, {})
        found = step_problems(arguments, stage, examples)
        assert [problem[: len(start)] for problem, start in zip(found, words, strict=True)] == words

    def test_a_run_without_a_step_is_refused(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        plan = checked(grpo_run(tiny_vlm, chains, tmp_path, per_device_train_batch_size=96))
        assert [refusal[:24] for refusal in plan.refusals] == ["a step needs 24 prompts,"]
        assert plan.refusals[0] in plan.problems

    def test_direct_answers_are_no_chains(self, tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
        values = {"model": tiny_vlm, "data": chains, "output": tmp_path / "run", "training": SFT}
        chain, answer = (checked(make_config({**values, "answers_only": alone}, "sft"), "sft") for alone in (False, True))
        assert "longest ground-truth chain" in chain.facts
        assert "longest answer" not in chain.facts
        assert "longest ground-truth chain" not in answer.facts
        assert 1 < int(answer.facts["longest answer"].split()[0]) < 10

    @pytest.mark.parametrize(
        ("training", "times"),
        [
            # Two prompts a step, of 18 examples.
            ({"max_steps": 2}, "0.22 times"),
            ({"max_steps": 4, "num_iterations": 2}, "0.22 times"),
            ({"max_steps": 9}, "once"),
            ({"max_steps": 10}, None),
            ({"max_steps": -1, "num_train_epochs": 1}, "once"),
            ({"max_steps": -1, "num_train_epochs": 2}, None),
        ],
    )
    def test_a_progress_term_that_never_acts_is_noted(
        self, tiny_vlm: Path, chains: Path, tmp_path: Path, training: dict, times: str | None
    ) -> None:
        notes = checked(grpo_run(tiny_vlm, chains, tmp_path, **training)).notes
        assert [note.partition(", ")[0] for note in notes] == ([f"the run visits each example {times}"] if times else [])

    @pytest.mark.parametrize("change", [{"rewards": {"answer": 0}}, {"reward_terms": {"progress": False}}])
    def test_no_term_no_note(self, tiny_vlm: Path, chains: Path, tmp_path: Path, change: dict) -> None:
        values = {"model": tiny_vlm, "data": chains, "output": tmp_path / "run", **change}
        config = make_config({**values, "training": {**GRPO, "max_completion_length": 256}}, "grpo")
        assert checked(config).notes == []

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
        assert (dead, [problem.partition(", expected 1")[0] for problem in weak]) == (
            [], [f"reward depth: a ground-truth chain earns only {share:.2f}"],
        )  # fmt: skip
        dead, weak = reward_problems([first, second], {**gold, second.id: "rubbish"}, config)
        assert dead == []
        assert [problem.partition(", expected 1")[0].partition("earns only ")[2] for problem in weak] == ["0.00"] * 4
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
        caplog.set_level("INFO")
        report_problems(Plan({}, {}, ["a problem"], [], ["a note"]))
        told = [(record.levelname, record.getMessage()) for record in caplog.records]
        assert told == [("INFO", "a note"), ("WARNING", "a problem")]
        with pytest.raises(ConfigError, match=r"^a reason$"):
            report_problems(Plan({}, {}, ["a reason", "a problem"], ["a reason"]))


class TestImages:
    """What a family does to images is known by their headers."""

    def test_an_image_that_a_processor_cannot_take_is_refused_by_its_example(
        self, real_model, chains: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(chains, tmp_path / "d")
        rows = [json.loads(line) for line in (chains / "examples.jsonl").read_text().splitlines()]
        Image.new("RGB", (2100, 10)).save(tmp_path / "d" / rows[4]["images"][0])
        config = make_config({"model": real_model("qwen2_5_vl"), "data": tmp_path / "d", "output": tmp_path / "run"}, "sft")
        (refusal,) = checked(config, "sft").refusals
        assert refusal.startswith(f"1 example has an image that the model cannot use; the first is {rows[4]['id']!r}: ")
        assert rows[4]["images"][0] in refusal
        assert "2100×10" in refusal
        with pytest.raises(ConfigError, match="2100×10"):
            sft_trainer(config)

    def test_what_a_crop_loses_of_the_gold_boxes(self, real_model, chains: Path, tmp_path: Path) -> None:
        examples, clip = load_examples(str(chains), 2), load_processor(real_model("llava"))
        assert crop_problems(examples, clip, header_sizes(examples)) == []  # squares are seen whole
        wide = tmp_path / "wide.png"
        Image.new("RGB", (400, 100)).save(wide)  # its middle quarter is seen, from 0.375 to 0.625 of the width
        left, half = [0.0, 0.0, 0.1, 1.0], [0.325, 0.0, 0.425, 1.0]
        seen = [replace(examples[0], boxes=[left, half], images=(str(wide),))]
        (problem,) = crop_problems(seen, clip, header_sizes(seen))
        assert "does not see 75% of the area of the ground-truth boxes, and sees less than half of 1 of 2 boxes" in problem
        assert "crops the centre" in problem
        assert crop_problems(seen, load_processor(real_model("qwen2_5_vl")), header_sizes(seen)) == []

    def test_nothing_is_wrong_with_images_that_are_taken(self, real_model, chains: Path) -> None:
        examples = load_examples(str(chains))
        assert image_problems(examples, load_processor(real_model("qwen2_5_vl")), header_sizes(examples)) == []


class TestPrecision:
    @pytest.mark.parametrize(
        ("change", "rate", "said"),
        [
            ({"dtype": "bfloat16"}, 1e-5, True),
            ({"dtype": "bfloat16"}, 1e-4, False),
            ({"dtype": "float32"}, 1e-5, False),
            ({"dtype": "bfloat16", "lora": {}}, 1e-5, False),
            ({"dtype": "auto"}, 1e-5, False),  # the tiny model's own is float32
        ],
    )
    def test_steps_that_bfloat16_rounds_away(
        self, tiny_vlm: Path, tmp_path: Path, change: dict, rate: float, said: bool
    ) -> None:
        values = {"model": tiny_vlm, "data": "d", "output": tmp_path, "training": {"learning_rate": rate}}
        config = make_config({**values, **change}, "sft")
        found = precision_problems(config, trainer_arguments(config, "sft", SFT_DEFAULTS))
        assert ["Set dtype float32" in problem for problem in found] == [True] * said

    def test_a_models_own_kind(self, tiny_vlm: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_vlm, tmp_path / "m")
        settings = json.loads((tmp_path / "m" / "config.json").read_text())
        (tmp_path / "m" / "config.json").write_text(json.dumps({**settings, "dtype": "bfloat16"}))
        values = {"model": tmp_path / "m", "data": "d", "output": tmp_path, "dtype": "auto"}
        config = make_config({**values, "training": {"learning_rate": 1e-5}}, "sft")
        assert len(precision_problems(config, trainer_arguments(config, "sft", SFT_DEFAULTS))) == 1


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
        text = user_prompt(example.problem, with_depth=not rgb_only, protocol="direct")
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

    def test_a_sample(self, chains: Path, tmp_path: Path) -> None:
        names = [example.id for example in load_examples(str(chains))]
        drawn = {size: [example.id for example in load_examples(str(chains), sample=size)] for size in (1, 6, 18, 99)}
        assert list(map(len, drawn.values())) == [1, 6, 18, 18]
        assert drawn[99] == drawn[18] == names
        assert drawn[6] == [name for name in names if name in drawn[6]] != names[:6]
        assert set(drawn[1]) < set(drawn[6])
        shutil.copytree(chains, tmp_path, dirs_exist_ok=True)
        rows = [json.loads(line) for line in (chains / "examples.jsonl").read_text().splitlines()]
        unused = next(row for row in rows if row["id"] not in drawn[6])
        unused["depth"] = "depth/none.png"  # what is not used may be missing
        write_jsonl(tmp_path / "examples.jsonl", rows[::-1])
        assert [example.id for example in load_examples(str(tmp_path), sample=6)] == drawn[6][::-1]


def test_a_run_that_does_not_fit_this_machine(
    tiny_vlm: Path, chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sifthinker.training import plan as module

    config = make_config({"model": tiny_vlm, "data": chains, "output": tmp_path / "run", "training": SFT}, "sft")
    assert make_plan(config, "sft", SFT_DEFAULTS).problems == []
    monkeypatch.setattr(module, "_memory_here", lambda device: 0.001)
    (problem,) = make_plan(config, "sft", SFT_DEFAULTS).problems
    assert "GiB, but this machine has 0.001 GiB: " in problem
    assert "a lower max_pixels" in problem
    assert "GPU" not in problem


def test_the_memory_of_this_machine() -> None:
    assert 0.1 < _memory_here(torch.device("cpu")) < 1e5


def test_an_example_far_longer_than_the_others_is_named(tiny_vlm: Path, tmp_path: Path) -> None:
    config = make_config({"model": tiny_vlm, "data": "d", "output": tmp_path / "run"}, "sft")
    turned = [Turn(str(number), [], "", "", "", "", ()) for number in range(3)]
    assert _length_notes(Lengths([90, 100, 390], [10, 10, 10]), turned, config) == []
    (far,) = _length_notes(Lengths([90, 100, 490], [10, 10, 10]), turned, config)
    assert far.startswith("the longest example, '2', has 500 tokens; the median is 110. ")
    beyond, _ = _length_notes(Lengths([90, 100, 10**6], [10, 10, 10]), turned, config)
    assert beyond.startswith("the longest example, '2', has 1,000,010 tokens, but the model has only ")


def test_the_command(tiny_vlm: Path, chains: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"model: {tiny_vlm}\ndata: {chains}\noutput: o\ntraining: {{num_generations: 4}}\n")
    words = ["plan", str(path), "--gpu", "24", "--max_completion_length", "512"]
    good = CliRunner().invoke(main, [*words, "--per_device_train_batch_size", "8"])
    assert good.exit_code == 0, good.output
    assert "stage: grpo" in good.stdout
    assert re.search(r"  weights: \d+\.\d MiB\n", good.stdout)
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
    assert guess_stage(tmp_path / name, ["--rewards.depth=0"]) == "grpo"


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
    assert (result.exit_code, "contains no adapter" in result.stderr) == (2, True)
