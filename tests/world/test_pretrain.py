"""Nano's lessons, how they are packed, and that pretraining goes on where it stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.chain import check_chain, find_regions
from sifthinker.world.lessons import LIST_QUESTION, Course, lessons, regions_of
from sifthinker.world.questions import FAMILIES, SPLITS, Question, ask
from sifthinker.world.scenes import LEVELS, sample_scene

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

SHAPE = {"width": 32, "vision_layers": 1, "text_layers": 1}


class TestLessons:
    @given(st.integers(0, 10**9), st.sampled_from(sorted(LEVELS)), st.booleans(), st.sampled_from(get_args(Course)))
    @settings(max_examples=100)
    def test_they_are_true_and_hold_no_chain(self, seed: int, level: str, depth: bool, course: Course) -> None:
        scene = sample_scene(seed, level)
        known = {thing.name: region for thing, region in zip(scene.objects, regions_of(scene, depth=depth), strict=True)}
        taught = list(lessons(scene, seed, level, depth=depth, course=course))
        assert taught == list(lessons(scene, seed, level, depth=depth, course=course))
        typical = {"see": "list", "find": "name", "conclude": "describe"}[course]
        assert {"locate", typical} <= {lesson.kind for lesson in taught}
        for lesson in taught:
            if lesson.kind == "repeat":  # pieces of the syntax among other words, in no order that makes a chain
                assert lesson.question == f"Repeat: {lesson.reply}"
                assert check_chain(lesson.reply, depth=depth)
                continue
            assert "<" not in lesson.reply
            if lesson.kind == "read":
                assert lesson.reply in lesson.question.partition("?")[0]
            question = _question_in(lesson.question, seed, level)
            if lesson.kind == "conclude":
                assert question is not None
                numbers = [f"{known[scene.objects[index].name].depth:.2f}" for index in question.targets] if depth else []
                reason = question.reason.format(*numbers) if depth else question.plain
                assert lesson.reply == question.answer or reason.endswith(lesson.reply)
                continue
            written = [line[line.find("[") :] for line in lesson.reply.split("\n")]
            areas = [area for text in written for area in find_regions(f"<area>{text}</area>", depth=depth)]
            boxes = [region for area in areas for region in area]
            named = [name for name in known if f"the {name}" in lesson.question]
            if lesson.kind == "locate" and question is not None:
                assert boxes == [known[scene.objects[index].name] for index in question.targets]
            elif lesson.kind in ("locate", "name") and named:
                asked = sorted(named, key=lesson.question.index)
                assert boxes == [known[name] for name in asked]
                if lesson.kind == "name":
                    lines = lesson.reply.split("\n")
                    assert [line.removeprefix("The ").partition(":")[0] for line in lines] == asked
            elif lesson.kind == "locate" and "Where are the " in lesson.question:
                kind = lesson.question.removeprefix("Where are the ").removesuffix("?")
                fitting = [
                    thing.name
                    for thing in scene.objects
                    if kind
                    in (
                        f"{thing.shape}s",
                        f"{thing.colour} objects",
                        f"objects with {'stripes' if thing.striped else 'no stripes'}",
                        f"objects with {'a' if thing.dot else 'no'} dot",
                    )
                ]
                assert boxes == sorted((known[name] for name in fitting), key=lambda region: region.box[0])
            elif lesson.kind == "locate":
                assert len(boxes) == 1
            if lesson.kind == "list":
                lines = lesson.reply.split("\n")
                assert lesson.question == LIST_QUESTION
                found = [find_regions(f"<area>{line.partition('] ')[0]}]</area>", depth=depth)[0][0] for line in lines]
                assert found == [known[line.rpartition("}] ")[2]] for line in lines]
                assert [region.box[0] for region in found] == sorted(region.box[0] for region in found)

    def test_a_conclusion_does_not_say_its_answer_in_the_question(self) -> None:
        """The question of the scene taken away, what is left is evidence; every form of the lesson occurs."""
        forms = set()
        for seed in range(60):
            for lesson in lessons(sample_scene(seed), seed, "medium", course="conclude"):
                question = _question_in(lesson.question, seed, "medium")
                if lesson.kind == "conclude" and question is not None:
                    forms.add((lesson.question.startswith(question.text), lesson.reply == question.answer))
                    if question.family in ("nearer", "front", "size"):
                        assert ", so" not in lesson.question
                    if question.family in ("count", "side", "front", "detail"):
                        said = lesson.question.replace(question.text, "")
                        assert question.answer not in [word.strip(".,:") for word in said.split()]
        assert forms == {(True, False), (False, True)}

    def test_numbers_are_compared_rightly(self) -> None:
        compared = 0
        for seed in range(40):
            for lesson in lessons(sample_scene(seed), seed, "medium", course="find"):
                if lesson.kind == "compare":
                    first, _, sign, _, second = lesson.reply.removesuffix(".").split()
                    assert sign == ("less" if float(first) < float(second) else "more")
                    compared += 1
        assert compared > 3


def _question_in(text: str, seed: int, level: str) -> Question | None:
    """The question of the scene that a lesson's question holds, if any."""
    asked = (ask(seed, family, level, slot=slot) for family in FAMILIES for slot in range(12))
    return next((question for question in asked if question is not None and question.text in text), None)


@pytest.fixture(scope="module")
def processor() -> object:
    from sifthinker.world.nano import build_processor

    return build_processor()


class TestPacking:
    def test_a_packed_lesson_is_scored_as_if_it_stood_alone(self, processor: object) -> None:
        """The lessons of three scenes, one of them without depth, packed; each alone, as the chat template writes it."""
        from PIL import Image

        from sifthinker.prompts import user_prompt
        from sifthinker.world.nano import build_model
        from sifthinker.world.pretrain import Collator, Lessons

        model = build_model(processor, **SHAPE).eval()
        dataset = Lessons(processor, 24, run=1)
        tokenizer = processor.tokenizer
        chosen = (0, 2, 7)
        batch = Collator(model, tokenizer.pad_token_id)([dataset[index] for index in chosen])
        with torch.inference_mode():
            logits = model(**batch).logits
        for row, index in enumerate(chosen):
            level, depth, seed = list(LEVELS)[index % 3], index != 7, SPLITS["base"] + index
            scene = sample_scene(seed, level)
            image, map_, _ = scene.reference
            shown: list[Image.Image] = [image, map_.view()] if depth else [image]
            segments = dataset[index]["segments"]
            for number, lesson in enumerate(lessons(scene, seed, level, depth=depth), 1):
                text = [{"type": "text", "text": user_prompt(lesson.question, depth=depth, direct=True)}]
                turns = [
                    {"role": "user", "content": [{"type": "image"}] * len(shown) + text},
                    {"role": "assistant", "content": lesson.reply},
                ]
                whole = processor.apply_chat_template([turns], tokenize=False)
                alone = processor(text=whole, images=[shown], return_tensors="pt", add_special_tokens=False)
                at = [place for place, segment in enumerate(segments) if segment == number]
                assert batch["input_ids"][row, at].tolist() == alone["input_ids"][0, -len(at) :].tolist()
                with torch.inference_mode():
                    expected = model(**alone).logits[0, -len(at) :]
                assert torch.allclose(logits[row, at], expected, atol=1e-4)

    def test_only_replies_are_learnt(self, processor: object) -> None:
        from sifthinker.world.pretrain import Lessons

        item = Lessons(processor, 1)[0]
        taught = list(lessons(sample_scene(SPLITS["base"], "easy"), SPLITS["base"], "easy"))
        kept = [token for token in item["labels"] if token != -100]
        assert processor.tokenizer.decode(kept) == "".join(lesson.reply + "</s>" for lesson in taught)


def test_a_resumed_pretraining_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in its second part, of two; the first is not done again."""
    from sifthinker.models import load_model
    from sifthinker.world.pretrain import Collator, Part, pretrain

    recipe = [Part("see", 12, 4e-3, 2e-3, rgb_only=8), Part("find", 16, 4e-3, 2e-3, rgb_only=2)]
    how = {"recipe": recipe, "batch_size": 4, "workers": 0, **SHAPE}
    pretrain(tmp_path / "whole", **how)
    batches, original = [], Collator.__call__

    def counting(self: Collator, items: list) -> dict:
        batches.append(len(items))
        if len(batches) == 5:
            signal.raise_signal(signal.SIGINT)
        return original(self, items)

    monkeypatch.setattr(Collator, "__call__", counting)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "cut", **how)
    assert (tmp_path / "cut" / "0-see" / "finished.json").is_file()
    assert not (tmp_path / "cut" / "finished.json").exists()
    done = len(batches)
    pretrain(tmp_path / "cut", **how)
    assert len(batches) - done < 4
    whole, resumed = (load_model(tmp_path / name, dtype="float32") for name in ("whole", "cut"))
    for (name, a), (_, b) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name
    assert "muon_lr: 0.004" in (tmp_path / "whole" / "README.md").read_text()
