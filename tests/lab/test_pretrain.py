"""Nano's lessons, how a scene's share its images, and that pretraining goes on where it stopped."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.chain import check_chain, find_regions
from sifthinker.lab.lessons import LIST_QUESTION, Course, lessons, regions_of
from sifthinker.lab.questions import FAMILIES, SPLITS, WorldQuestion, ask
from sifthinker.lab.scenes import LEVELS, sample_scene

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

SHAPE = {"width": 32, "vision_layers": 1, "text_layers": 1}


class TestLessons:
    @given(st.integers(0, 10**9), st.sampled_from(sorted(LEVELS)), st.booleans(), st.sampled_from(get_args(Course)))
    @settings(max_examples=100)
    def test_they_are_true_and_hold_no_chain(self, seed: int, level: str, with_depth: bool, course: Course) -> None:
        scene = sample_scene(seed, level)
        known = {
            thing.name: region for thing, region in zip(scene.objects, regions_of(scene, with_depth=with_depth), strict=True)
        }
        taught = list(lessons(scene, seed, level, with_depth=with_depth, course=course))
        assert taught == list(lessons(scene, seed, level, with_depth=with_depth, course=course))
        typical = {"see": "list", "find": "name", "conclude": "describe"}[course]
        assert {"locate", typical} <= {lesson.kind for lesson in taught}
        for lesson in taught:
            if lesson.kind == "repeat":  # pieces of the syntax among other words, in no order that makes a chain
                assert lesson.question == f"Repeat: {lesson.reply}"
                assert check_chain(lesson.reply, with_depth=with_depth)
                continue
            assert "<" not in lesson.reply
            if lesson.kind == "read":
                assert lesson.reply in lesson.question.partition("?")[0]
            question = _question_in(lesson.question, seed, level)
            if lesson.kind == "conclude":
                assert question is not None
                numbers = (
                    [f"{known[scene.objects[index].name].depth:.2f}" for index in question.targets] if with_depth else []
                )
                reason = question.reason.format(*numbers) if with_depth else question.plain
                assert lesson.reply == question.answer or reason.endswith(lesson.reply)
                continue
            written = [line[line.find("[") :] for line in lesson.reply.split("\n")]
            areas = [area for text in written for area in find_regions(f"<area>{text}</area>", with_depth=with_depth)]
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
                found = [
                    find_regions(f"<area>{line.partition('] ')[0]}]</area>", with_depth=with_depth)[0][0] for line in lines
                ]
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


def _question_in(text: str, seed: int, level: str) -> WorldQuestion | None:
    """The question of the scene that a lesson's question holds, if any."""
    asked = (ask(seed, family, level, slot=slot) for family in FAMILIES for slot in range(12))
    return next((question for question in asked if question is not None and question.text in text), None)


@pytest.fixture(scope="module")
def processor() -> object:
    from sifthinker.lab.nano import build_processor

    return build_processor()


class TestSharedImages:
    def test_each_lesson_is_scored_and_learnt_as_if_it_stood_alone(self, processor: object) -> None:
        """The lessons of three scenes, one of them without depth, in one batch; each alone, as the chat template writes it:
        the same logits where there is something to learn, and the same gradient of their summed loss."""
        from PIL import Image

        from sifthinker.lab.nano import build_model
        from sifthinker.lab.pretrain import Lessons, collate, lesson_logits
        from sifthinker.prompts import user_prompt

        model = build_model(processor, **SHAPE).eval()
        dataset = Lessons(processor, 24, run=1)
        tokenizer = processor.tokenizer
        chosen = (0, 2, 7)
        found, expected = {}, {}  # the tokens of a reply → its logits
        summed = torch.zeros(())
        batch = collate([dataset[index] for index in chosen], padding=tokenizer.pad_token_id)
        for chunk, (logits, labels) in zip(batch["lessons"], lesson_logits(model, batch), strict=True):
            summed = summed + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            taught = [[token for token in row if token != -100] for row in chunk["labels"].tolist()]
            assert [token for reply in taught for token in reply] == labels.tolist()
            parts = logits.detach().split([len(reply) for reply in taught])
            for row, tokens, reply, part in zip(chunk["rows"], chunk["input_ids"].tolist(), taught, parts, strict=True):
                if reply:
                    found[int(row), tuple(tokens[: len(tokens) - tokens[::-1].index(reply[-1])])] = part
        summed.backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters()}
        model.zero_grad()
        for row, index in enumerate(chosen):
            level, depth, seed = list(LEVELS)[index % 3], index != 7, SPLITS["base"] + index
            scene = sample_scene(seed, level)
            image, map_, _ = scene.reference
            shown: list[Image.Image] = [image, map_.view()] if depth else [image]
            for lesson in lessons(scene, seed, level, with_depth=depth):
                text = [{"type": "text", "text": user_prompt(lesson.question, with_depth=depth, protocol="direct")}]
                turns = [
                    {"role": "user", "content": [{"type": "image"}] * len(shown) + text},
                    {"role": "assistant", "content": lesson.reply},
                ]
                whole = processor.apply_chat_template([turns], tokenize=False)
                alone = processor(text=whole, images=[shown], return_tensors="pt", add_special_tokens=False)
                reply = tokenizer(lesson.reply + "</s>")["input_ids"]
                logits = model(**alone).logits[0, -len(reply) - 1 : -1]
                torch.nn.functional.cross_entropy(logits, torch.tensor(reply), reduction="sum").backward()
                asked = alone["input_ids"][0, 1 + len(shown) * 16 :].tolist()
                expected[row, tuple(asked)] = logits.detach()
        assert found.keys() == expected.keys()
        for key, logits in expected.items():
            assert torch.allclose(found[key], logits, atol=1e-4)
        for name, weight in model.named_parameters():
            if weight.grad is None:
                assert gradients[name] is None, name
            else:
                assert torch.allclose(gradients[name], weight.grad, atol=1e-3, rtol=1e-3), name

    def test_chunks_hold_every_lesson_once_in_few_shapes(self, processor: object) -> None:
        """Four batches of six scenes: every lesson is there once, what is added is nothing but padding, and a chunk's shape
        is one of a few, so that no kernel is compiled for each batch."""
        from sifthinker.lab.pretrain import Lessons, collate

        dataset = Lessons(processor, 24, course="conclude")
        shapes, chunks = set(), 0
        for start in range(0, 24, 6):
            items = [dataset[index] for index in range(start, start + 6)]
            given = sorted((row, tuple(tokens)) for row, item in enumerate(items) for tokens, _ in item["lessons"])
            held = []
            for chunk in collate(items, padding=processor.tokenizer.pad_token_id)["lessons"]:
                shapes.add(tuple(chunk["input_ids"].shape))
                chunks += 1
                for row, tokens, labels in zip(chunk["rows"].tolist(), chunk["input_ids"], chunk["labels"], strict=True):
                    taught = (labels != -100).nonzero()
                    length = int(taught.max()) + 1 if len(taught) else 0  # a reply ends its lesson
                    assert (tokens[length:] == processor.tokenizer.pad_token_id).all()
                    if length:
                        held.append((row, tuple(tokens[:length].tolist())))
            assert sorted(held) == given
        assert all(rows % 16 == 0 and length % 8 == 0 for rows, length in shapes)
        assert len(shapes) < chunks

    def test_mixed_precision_reaches_the_lessons(self, processor: object, tmp_path: Path) -> None:
        """Trainer puts it into the forward pass of the model it wraps; lessons go through the model's parts."""
        from transformers import TrainingArguments

        from sifthinker.lab.nano import build_model
        from sifthinker.lab.pretrain import Lessons, _PretrainTrainer, collate

        model = build_model(processor, **SHAPE)
        arguments = TrainingArguments(output_dir=str(tmp_path), bf16=True, use_cpu=True, report_to="none")
        trainer = _PretrainTrainer(model=model, args=arguments, processing_class=processor)
        seen = []
        model.lm_head.register_forward_hook(lambda module, given, logits: seen.append(logits.dtype))
        trainer.compute_loss(model, collate([Lessons(processor, 1)[0]], padding=processor.tokenizer.pad_token_id))
        assert seen
        assert set(seen) == {torch.bfloat16}

    def test_only_replies_are_learnt(self, processor: object) -> None:
        from sifthinker.lab.pretrain import Lessons

        item = Lessons(processor, 1)[0]
        taught = list(lessons(sample_scene(SPLITS["base"], "easy"), SPLITS["base"], "easy"))
        kept = [[token for token in labels if token != -100] for _, labels in item["lessons"]]
        assert [processor.tokenizer.decode(reply) for reply in kept] == [lesson.reply + "</s>" for lesson in taught]


def test_a_resumed_pretraining_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in its second part, of two; the first is not done again."""
    from sifthinker.lab import pretrain as pretraining
    from sifthinker.lab.pretrain import Part, collate, pretrain
    from sifthinker.models import load_model

    curriculum = [Part("see", 12, 4e-3, 2e-3, rgb_only=8), Part("find", 16, 4e-3, 2e-3, rgb_only=2)]
    how = {"curriculum": curriculum, "batch_size": 4, "workers": 0, **SHAPE}
    pretrain(tmp_path / "whole", **how)
    batches = []

    def counting(items: list, *, padding: int) -> dict:
        batches.append(len(items))
        if len(batches) == 5:
            signal.raise_signal(signal.SIGINT)
        return collate(items, padding=padding)

    monkeypatch.setattr(pretraining, "collate", counting)
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


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their gradients would not meet: lessons go through the model's parts, not through what wraps it."""
    from transformers import TrainingArguments

    from sifthinker.errors import ConfigError
    from sifthinker.lab.pretrain import Part, pretrain

    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(ConfigError, match="needs a single process, got 2"):
        pretrain(tmp_path, curriculum=[Part("see", 4, 4e-3, 2e-3, rgb_only=8)], batch_size=4, workers=0, **SHAPE)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Parts are finished without being trained; yields the folders of those that would have been."""
    from sifthinker.lab import pretrain as pretraining

    trained: list[str] = []

    def train(part: object, first: int, model: object, processor: object, output: Path, *_: object) -> None:
        trained.append(output.name)
        output.mkdir(exist_ok=True)
        (output / "finished.json").write_text("{}")

    monkeypatch.setattr(pretraining, "_train", train)
    monkeypatch.setattr(pretraining, "load_model", lambda *_, **__: None)
    return trained


class TestWhoseRun:
    """A folder goes on with its own pretraining, and with no other."""

    def run(self, folder: Path, *, scenes: int = 4, muon_lr: float = 4e-3, **change: int) -> None:
        from sifthinker.lab.pretrain import Part, pretrain

        curriculum = [Part("see", scenes, muon_lr, 2e-3, rgb_only=8), Part("find", scenes, 4e-3, 2e-3, rgb_only=2)]
        pretrain(folder, curriculum=curriculum, **{"batch_size": 4, "workers": 0, **SHAPE, **change})

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"scenes": 8}, r"curriculum\[0\]\.scenes was 4, now 8"),
            ({"muon_lr": 1e-3}, r"curriculum\[0\]\.muon_lr was 0\.004, now 0\.001"),
            ({"batch_size": 2}, "batch_size was 4, now 2"),
            ({"seed": 1}, "seed was 0, now 1"),
            ({"width": 64}, "width was 32, now 64"),
        ],
    )
    @pytest.mark.parametrize("finished", [True, False])
    def test_another_one_is_refused(
        self, tmp_path: Path, untrained: list[str], change: dict, words: str, finished: bool
    ) -> None:
        from sifthinker.errors import ConfigError

        self.run(tmp_path / "run")
        if not finished:  # interrupted in its last part
            (tmp_path / "run" / "finished.json").unlink()
        untrained.clear()
        with pytest.raises(ConfigError, match=f"contains another run: {words}"):
            self.run(tmp_path / "run", **change)
        assert untrained == []
        self.run(tmp_path / "run", save_steps=7)  # which changes no result
        assert untrained == ([] if finished else ["run"])

    def test_other_parts_are_refused_too(self, tmp_path: Path, untrained: list[str]) -> None:
        """Interrupted in the first part, whose folder the other curriculum does not have."""
        from sifthinker.errors import ConfigError
        from sifthinker.lab.pretrain import Part, pretrain

        self.run(tmp_path / "run")
        (tmp_path / "run" / "finished.json").unlink()
        with pytest.raises(ConfigError, match=r"curriculum\[0\]\.course was 'see', now 'find'"):
            pretrain(
                tmp_path / "run", curriculum=[Part("find", 4, 4e-3, 2e-3, rgb_only=8)], batch_size=4, workers=0, **SHAPE
            )

    def test_a_folder_of_sft_is_refused_and_the_other_way_round(self, tmp_path: Path, untrained: list[str]) -> None:
        from sifthinker.errors import ConfigError
        from sifthinker.training.runs import claim, record
        from sifthinker.training.settings import make_config

        config = make_config({"model": "nano", "data": "d", "output": tmp_path / "sft"}, "sft")
        record(config, claim(config, "sft"))
        (tmp_path / "sft" / "checkpoint-1").mkdir()
        with pytest.raises(ConfigError, match="stage was 'sft', now 'pretrain'"):
            self.run(tmp_path / "sft")
        self.run(tmp_path / "run")
        with pytest.raises(ConfigError, match="stage was 'pretrain', now 'sft'"):
            claim(make_config({"model": "nano", "data": "d", "output": tmp_path / "run"}, "sft"), "sft")

    def test_a_folder_of_an_older_version_goes_on(
        self, tmp_path: Path, untrained: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        self.run(tmp_path / "run")
        for name in ("run.json", "finished.json"):
            (tmp_path / "run" / name).unlink()
        untrained.clear()
        self.run(tmp_path / "run")
        assert untrained == ["run"]
        assert "as in older versions" in caplog.text

    def test_the_command_refuses_another_scale(self, tmp_path: Path, untrained: list[str]) -> None:
        from click.testing import CliRunner

        from sifthinker.cli.main import main

        command = ["world", "pretrain", "-o", str(tmp_path / "run"), "--scale"]
        assert CliRunner().invoke(main, [*command, "0.001"]).exit_code == 0
        result = CliRunner().invoke(main, [*command, "0.01"])
        assert result.exit_code == 2
        assert "curriculum[0].scenes was 72, now 720" in result.stderr
