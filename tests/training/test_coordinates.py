"""Training on chains that state boxes from 0 to 1000, or in pixels of the resized image, with real processors."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import read_jsonl, write_jsonl
from sifthinker.prompts import user_prompt
from sifthinker.records import Example, read_examples

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from sifthinker.coordinates import frame_of  # noqa: E402
from sifthinker.models import load_processor  # noqa: E402
from sifthinker.training.data import gold_completion, grpo_dataset, load_examples, sft_dataset  # noqa: E402
from sifthinker.training.lengths import header_sizes  # noqa: E402
from sifthinker.training.plan import make_plan, prompt_problems, resized_problems, template_problems  # noqa: E402
from sifthinker.training.stages import defaults  # noqa: E402

from .test_training import grpo_config, sft_config, unmoved, weights  # noqa: E402


class TestData:
    @pytest.mark.parametrize("space", ["per_mille", "resized"])
    def test_rewards_are_told_the_space(self, space: str, chains_in: Callable[[str], Path]) -> None:
        examples = load_examples(str(chains_in(space)))
        rows = list(grpo_dataset(examples))
        assert [frame_of(row["coordinates"], row["resized"]) for row in rows] == [example.frame for example in examples]

    def test_unit_data_has_no_columns_that_say_so(self, chains_in: Callable[[str], Path]) -> None:
        examples = load_examples(str(chains_in("unit")))
        assert not {"coordinates", "resized"} & set(grpo_dataset(examples).column_names)
        assert sft_dataset(examples).column_names == ["prompt", "completion", "images"]

    def test_two_spaces_are_trained_apart(self, chains_in: Callable[[str], Path], tmp_path: Path) -> None:
        folder = tmp_path / "both"
        shutil.copytree(chains_in("unit"), folder)
        shutil.copytree(chains_in("per_mille"), folder, dirs_exist_ok=True)
        rows = [row for space in ("unit", "per_mille") for _, row in read_jsonl(chains_in(space) / "examples.jsonl")]
        write_jsonl(folder / "examples.jsonl", rows)
        with pytest.raises(
            RecordError, match=r"boxes in different coordinates \(per_mille and unit\); put them in separate datasets"
        ):
            load_examples(str(folder))


def refused(examples: list[Example], processor: Any) -> list[str]:
    return resized_problems(examples, processor, header_sizes(examples))


class TestSizes:
    def test_the_processor_that_the_data_was_built_for(
        self, chains_in: Callable[[str], Path], real_model: Callable[[str], Path]
    ) -> None:
        for family in ("qwen2_vl", "qwen2_5_vl"):
            assert refused(list(read_examples(chains_in("resized"))), load_processor(real_model(family))) == []

    def test_other_bounds_are_refused(self, chains_in: Callable[[str], Path], real_model: Callable[[str], Path]) -> None:
        examples = list(read_examples(chains_in("resized")))
        processor = load_processor(real_model("qwen2_5_vl"), max_pixels=28 * 28)
        processor.image_processor.size = {"shortest_edge": 4, "longest_edge": 784}
        (problem,) = refused(examples, processor)
        words = "6 of 6 chains contain pixels of a different image size than the model sees. "
        assert (
            words + f"The first is {examples[0].id!r}: expected 56×56, but this processor resizes its image to 28×28"
            in problem
        )
        assert "max_pixels 784, multiples of 28" in problem

    def test_another_factor_is_refused(self, chains_in: Callable[[str], Path], real_model: Callable[[str], Path]) -> None:
        """Qwen3-VL resizes to multiples of 32, and at least 65,536 pixels: 64 by 64 becomes 256 by 256."""
        (problem,) = refused(list(read_examples(chains_in("resized"))), load_processor(real_model("qwen3_vl")))
        assert "expected 56×56, but this processor resizes its image to 256×256" in problem

    def test_a_processor_that_resizes_otherwise_is_refused(self, chains_in: Callable[[str], Path], tiny_vlm: Path) -> None:
        processor = load_processor(tiny_vlm)
        (problem,) = refused(list(read_examples(chains_in("resized"))), processor)
        assert re.search(r"SiglipImageProcessor.*does not resize by area", problem)
        for space in ("unit", "per_mille"):
            assert refused(list(read_examples(chains_in(space))), processor) == []

    def test_an_image_that_is_turned_counts_as_it_is_shown(
        self, chains_in: Callable[[str], Path], real_model: Callable[[str], Path], tmp_path: Path
    ) -> None:
        (example, *_) = read_examples(chains_in("resized"))
        turned = Image.Exif()
        turned[0x0112] = 6  # orientation: a quarter turn
        Image.new("RGB", (280, 56)).save(tmp_path / "a.jpg", exif=turned)
        processor = load_processor(real_model("qwen2_5_vl"))
        assert refused([replace(example, images=(str(tmp_path / "a.jpg"),), resized=(56, 280))], processor) == []

    @pytest.mark.parametrize("stage", ["sft", "grpo"])
    def test_the_plan_refuses_what_the_run_would(
        self, stage: str, chains_in: Callable[[str], Path], tiny_vlm: Path, tmp_path: Path
    ) -> None:
        config = {"sft": sft_config, "grpo": grpo_config}[stage](tiny_vlm, chains_in("resized"), tmp_path / "run")
        made = make_plan(config, stage, defaults(stage))
        (refusal,) = made.refusals
        assert refusal in made.problems
        assert "Build the data with coordinates unit or per_mille" in refusal
        if stage == "sft":
            assert make_plan(config.replace(answers_only=True), stage, defaults(stage)).refusals == []

    @pytest.mark.parametrize("stage", ["sft", "grpo"])
    def test_a_run_does_not_start(
        self, stage: str, chains_in: Callable[[str], Path], tiny_vlm: Path, tmp_path: Path
    ) -> None:
        from sifthinker.training import grpo, sft

        config, start = {"sft": (sft_config, sft.sft_trainer), "grpo": (grpo_config, grpo.grpo_trainer)}[stage]
        run = config(tiny_vlm, chains_in("resized"), tmp_path / "run")
        with pytest.raises(ConfigError, match="Build the data with coordinates unit or per_mille"):
            start(run)

    def test_answers_alone_state_no_pixels(self, chains_in: Callable[[str], Path], tiny_vlm: Path, tmp_path: Path) -> None:
        from sifthinker.training.sft import sft_trainer

        sft_trainer(sft_config(tiny_vlm, chains_in("resized"), tmp_path / "run", answers_only=True))


class TestPrompts:
    def asked(self, example: Example, space: str) -> Example:
        prompt = user_prompt(example.problem, with_depth=example.depth is not None, coordinates=space)
        return replace(example, messages=({"role": "user", "content": prompt}, example.messages[1]))

    @pytest.mark.parametrize("space", ["unit", "per_mille", "resized"])
    def test_a_task_of_other_coordinates_than_the_chain(self, space: str, chains_in: Callable[[str], Path]) -> None:
        first, *rest = read_examples(chains_in(space))
        assert prompt_problems([first, *rest]) == []
        for other in {"unit", "per_mille", "resized"} - {space}:
            (problem,) = prompt_problems([*rest, self.asked(first, other)])
            assert problem.startswith(
                "1 example asks for different coordinates than the chain has; "
                f"the first is {first.id!r}: the prompt asks for {other}"
            )
        own = replace(first, messages=({"role": "user", "content": "Say where, in fractions."}, first.messages[1]))
        assert prompt_problems([own]) == []  # a user's own words

    def test_the_plan_says_so(self, chains_in: Callable[[str], Path], tiny_vlm: Path, tmp_path: Path) -> None:
        shutil.copytree(chains_in("per_mille"), tmp_path / "d")
        rows = [self.asked(example, "unit").to_json() for example in read_examples(tmp_path / "d")]
        write_jsonl(tmp_path / "d" / "examples.jsonl", rows)
        made = make_plan(sft_config(tiny_vlm, tmp_path / "d", tmp_path / "run"), "sft", defaults("sft"))
        assert any("6 examples ask for different coordinates than the chain has" in problem for problem in made.problems)
        assert made.refusals == []

    def test_what_a_template_breaks_is_found_in_any_space(self, chains_in: Callable[[str], Path], tiny_vlm: Path) -> None:
        (example, *_) = load_examples(str(chains_in("per_mille")), 1)
        gold = gold_completion(example, load_processor(tiny_vlm))
        assert template_problems([example], {example.id: gold}) == []
        assert "breaks the chain" in template_problems([example], {example.id: gold.replace("<text>", "")})[0]


class TestRuns:
    def test_grpo_reads_completions_in_the_space_of_its_data(
        self,
        chains_in: Callable[[str], Path],
        real_model: Callable[[str], Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Two steps of a tiny Qwen2.5-VL with its real processor; gold chains in place of what it wrote earn everything."""
        from sifthinker.training.grpo import grpo_trainer

        data = chains_in("resized")
        training = {"max_steps": 1, "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8}
        config = grpo_config(real_model("qwen2_5_vl"), data, tmp_path / "run", eval_data=str(data), training=training)
        trainer = grpo_trainer(config)
        assert trainer.held_out.coordinates == "resized"
        logged: dict[str, float] = {}
        monkeypatch.setattr(trainer, "_log_metric", logged.__setitem__)
        monkeypatch.setattr(trainer, "_save_samples", lambda *_: None)
        rows = [row for row in grpo_dataset(list(read_examples(data))) for _ in range(4)]
        chains = [example.chain for example in read_examples(data) for _ in range(4)]
        tokens = [trainer._tokenizer(text, add_special_tokens=False)["input_ids"] for text in chains]
        rewards = trainer._calculate_rewards(rows, [[]] * 24, [[{"role": "assistant", "content": ""}]] * 24, tokens)
        assert rewards.min() >= 1  # format, answer, grounding, depth
        assert logged["chain/steps"] >= 2
        assert logged["chain/box_movement"] > 0
        assert logged["chain/final_hiou"] == 1

    @pytest.mark.parametrize(("family", "space"), [("qwen2_5_vl", "resized"), ("qwen3_vl", "per_mille")])
    def test_both_stages_run_with_real_processors(
        self, family: str, space: str, chains_in: Callable[[str], Path], real_model: Callable[[str], Path], tmp_path: Path
    ) -> None:
        from sifthinker.training.grpo import train_grpo
        from sifthinker.training.sft import sft_trainer

        training: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 2, "bf16": False}
        data, model = chains_in(space), real_model(family)
        trainer = sft_trainer(sft_config(model, data, tmp_path / "sft", training=training, dtype="float32"))
        before = weights(trainer.model)
        trainer.train()
        assert len(unmoved(before, trainer.model)) < len(before)
        training |= {"num_generations": 2, "max_completion_length": 6}
        finished = train_grpo(
            grpo_config(
                model, data, tmp_path / "grpo", training=training, eval_data=str(data), eval_limit=1, dtype="float32"
            )
        )
        assert finished is not None
        assert finished.state.global_step == 1

    def test_a_trained_model_notes_what_it_has_learnt(
        self, chains_in: Callable[[str], Path], tiny_vlm: Path, tmp_path: Path, photo_folder: Path
    ) -> None:
        """In the finished model, an adapter's checkpoint and what is merged from it; not in a model of plain fractions."""
        from sifthinker import evaluate, think
        from sifthinker.ask_settings import ThinkSettings
        from sifthinker.coordinates import recorded_coordinates
        from sifthinker.evaluation.settings import EvalSettings
        from sifthinker.models import merge_adapter
        from sifthinker.training.sft import train_sft

        once = {"max_steps": 1, "per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 1}
        data, run = chains_in("per_mille"), tmp_path / "run"
        train_sft(sft_config(tiny_vlm, data, run, training=once, lora={"r": 2}))
        merge_adapter(run / "checkpoint-1", tmp_path / "merged")
        assert [recorded_coordinates(folder) for folder in (run, run / "checkpoint-1", tmp_path / "merged")] == [
            "per_mille"
        ] * 3
        for folder in (run, run / "checkpoint-1"):  # the cards say so too
            assert "whole numbers from 0 to 1000 (coordinates `per_mille`)" in (folder / "README.md").read_text()
        asked = think(ThinkSettings(model=str(run), max_new_tokens=2), photo_folder / "cat.png", "What is it?")
        assert asked.frame.space == "per_mille"
        # A dataset in fractions does not make it another model.
        how = EvalSettings(data=str(chains_in("unit")), model=str(run), limit=1, max_new_tokens=2)
        assert {row.coordinates for row in evaluate(how).rows} == {"per_mille"}
        train_sft(sft_config(str(run), chains_in("unit"), tmp_path / "again", training=once))
        assert recorded_coordinates(tmp_path / "again") is None
        assert "coordinates" not in (tmp_path / "again" / "README.md").read_text()

    def test_a_run_of_grpo_asks_held_out_questions_in_its_own_space(
        self, chains_in: Callable[[str], Path], tiny_vlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sifthinker.thinker import LocalThinker
        from sifthinker.training.grpo import train_grpo

        asked: list[Any] = []
        think = LocalThinker.think_all

        def watched(self: LocalThinker, tasks: Any, **how: Any) -> Any:
            asked.append(how.get("coordinates"))
            return think(self, tasks, **how)

        monkeypatch.setattr(LocalThinker, "think_all", watched)
        data = chains_in("per_mille")
        training = {"max_steps": 1, "per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 6}
        config = grpo_config(
            tiny_vlm, data, tmp_path / "run", training=training, eval_data=str(data), eval_limit=1, eval_max_new_tokens=4
        )
        assert train_grpo(config) is not None
        assert set(asked) == {"per_mille"}
