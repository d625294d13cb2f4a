from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError, ImageError, ModelError
from sifthinker.models import Generation, complete
from sifthinker.prompts import user_prompt
from sifthinker.thinker import LocalThinker, Thinker, Thought

pytest.importorskip("torch")

IMAGE = Image.new("RGB", (40, 30), (200, 60, 60))
DEPTH = DepthMap(np.full((30, 40), 0.5))
BROKEN = (
    '<think><area>[{"bbox_2d":[0,0,1,1],"depth":0.5}]</area><text>all</text><area>[{"bbox_2d":[0,0,1,1],"depth":0.5}]</area>'
)
GOOD = '<think><area>[{"bbox_2d":[0,0,1,1],"depth":0.5}]</area><text>all</text></think><answer>red</answer>'


@pytest.fixture(scope="module")
def thinker(tiny_vlm: Path) -> Thinker:
    return Thinker.load(tiny_vlm, device="cpu", max_new_tokens=12)


class TestThought:
    def test_what_can_be_read_off_a_broken_chain(self) -> None:
        thought = Thought("q", IMAGE, DEPTH, BROKEN)
        assert [words for _, words in thought.steps] == ["all", ""]
        assert (thought.answer, thought.reading.problems[0].code) == (None, "missing_tag")

    def test_depths_are_read_where_there_is_depth(self) -> None:
        for text, depth in ((GOOD, DEPTH), (GOOD.replace(',"depth":0.5', ""), None)):
            thought = Thought("q", IMAGE, depth, text)
            assert (thought.reading.problems, len(thought.steps), thought.answer) == ((), 1, "red")
            other = Thought("q", IMAGE, None if depth else DEPTH, text)
            assert (other.reading.problems != (), other.steps) == (True, ())

    def test_a_chain_whose_beginning_is_missing_is_broken(self) -> None:
        """What a template opens was put back before; who leaves it out then has written no chain."""
        thought = Thought("q", IMAGE, DEPTH, GOOD.removeprefix("<think>"))
        assert thought.reading.problems[0].code == "missing_tag"

    @pytest.mark.parametrize(
        ("said", "answer"),
        [
            ("<think>It looks red.</think>\n<answer>\nred\n</answer>", "red"),
            ("<answer>red</answer>", "red"),
            ("<answer> </answer>", None),
            ("red</answer>", "red</answer>"),  # tags that are not around it are words
        ],
    )
    def test_a_direct_answer_in_the_tags_of_one(self, said: str, answer: str | None) -> None:
        assert Thought("q", IMAGE, None, said, protocol="direct").answer == answer


class TestThinker:
    def test_one_and_many_agree(self, thinker: Thinker) -> None:
        """Batching pads on the left; it must not change what a model says."""
        tasks = [(IMAGE, "Which is nearer?", DEPTH), (IMAGE, "What colour is the leftmost object of them all?", DEPTH)]
        together = thinker.think_all(tasks)
        alone = [thinker.think(*task) for task in tasks]
        assert [thought.text for thought in together] == [thought.text for thought in alone]
        assert all(thought.seconds > 0 for thought in together)

    def test_running_out_of_tokens_is_told(self, thinker: Thinker) -> None:
        assert thinker.think(IMAGE, "Why?", DEPTH).complete is False

    def test_an_end_is_told(self, thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sifthinker.thinker.complete", lambda *given, **sampling: [Generation("red", True, 9, 2)])
        thought = thinker.think(IMAGE, "Why?", DEPTH)
        assert (thought.text, thought.complete) == ("red", True)

    @pytest.mark.parametrize("direct", [False, True])
    @pytest.mark.parametrize("depth", [DEPTH, None])
    def test_what_the_model_is_shown(
        self, thinker: Thinker, monkeypatch: pytest.MonkeyPatch, depth: DepthMap | None, direct: bool
    ) -> None:
        shown: dict[str, Any] = {}

        def watched(model: Any, processor: Any, talks: Any, images: Any, **sampling: Any) -> list[Generation]:
            found = complete(model, processor, talks, images, **sampling)
            shown.update(talks=talks, images=images, sampling=sampling, tokens=found[0].prompt_tokens)
            return found

        monkeypatch.setattr("sifthinker.thinker.complete", watched)
        brief = LocalThinker(thinker.model, thinker.processor, max_new_tokens=3)
        thought = brief.think(IMAGE, "Why?", depth, protocol="direct" if direct else "chain")
        text = user_prompt("Why?", with_depth=depth is not None, protocol="direct" if direct else "chain")
        pictures = [IMAGE] if depth is None else [IMAGE, depth.view()]
        assert shown["talks"] == [
            [{"role": "user", "content": [{"type": "image"}] * len(pictures) + [{"type": "text", "text": text}]}]
        ]
        assert [picture.tobytes() for picture in shown["images"][0]] == [picture.tobytes() for picture in pictures]
        assert shown["sampling"] == {"max_new_tokens": 3}
        # 16 tokens an image, two marks for begin and end of the turn and the words.
        assert shown["tokens"] >= 16 * len(pictures) + len(thinker.processor.tokenizer(text)["input_ids"])
        assert (thought.question, thought.depth, thought.direct) == ("Why?", depth, direct)

    def test_the_time_of_a_batch_is_shared(self, thinker: Thinker, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter((10.0, 16.0))
        monkeypatch.setattr("sifthinker.thinker.time", SimpleNamespace(monotonic=lambda: next(clock)))
        monkeypatch.setattr("sifthinker.thinker.complete", lambda *given, **sampling: [Generation("red", True, 9, 2)] * 3)
        assert [thought.seconds for thought in thinker.think_all([(IMAGE, "Why?", DEPTH)] * 3)] == [2, 2, 2]

    @pytest.mark.parametrize("token", ["<image>", "</s>", "<pad>"])
    def test_questions_with_special_tokens_are_refused(self, thinker: Thinker, token: str) -> None:
        with pytest.raises(ImageError, match=f"{token}', a special token of this model"):
            thinker.think(IMAGE, f"What does {token} mean?", DEPTH)
        thinker.think(IMAGE, "Is a < b > c <think> or <b>?", DEPTH)

    def test_a_file_is_no_image(self, thinker: Thinker) -> None:
        with pytest.raises(
            ConfigError, match=r"must be a loaded image, got 'nope\.jpg'\. Use sifthinker\.images\.load_image"
        ):
            thinker.think("nope.jpg", "What is it?")
        with pytest.raises(ConfigError, match="question must be text, got None"):
            thinker.think(IMAGE, None)

    def test_half_precision_models_are_fed_their_own_kind(self, tiny_vlm: Path) -> None:
        Thinker.load(tiny_vlm, device="cpu", dtype="bfloat16", max_new_tokens=2).think(IMAGE, "Why?", DEPTH)


@pytest.fixture(scope="module")
def wordy(wordy_vlm: Path) -> Thinker:
    return Thinker.load(wordy_vlm, device="cpu", max_new_tokens=30)


class TestStreams:
    @pytest.mark.parametrize("protocol", ["chain", "structured", "direct"])
    def test_a_stream_ends_with_what_think_gives(self, wordy: Thinker, protocol: Any) -> None:
        *parts, last = wordy.stream(IMAGE, "Which is nearer?", DEPTH, protocol=protocol)
        alone = wordy.think(IMAGE, "Which is nearer?", DEPTH, protocol=protocol)
        for name in ("text", "reply", "faults", "complete", "tokens", "protocol", "frame"):
            assert getattr(last, name) == getattr(alone, name), name
        assert len(parts) > 1
        said = [part.reply or part.text for part in parts]
        assert said == sorted(said, key=len)
        assert all((last.reply or last.text).startswith(text.strip()) for text in said)
        assert not any(part.complete or part.faults for part in parts)

    def test_what_a_template_opens_is_there_from_the_beginning(self, wordy: Thinker) -> None:
        """A model that was made to reason begins behind `<think>`; see `opened_by_template`."""
        opened = LocalThinker(wordy.model, wordy.processor, max_new_tokens=4)
        opened._opening = "<think>\n"
        found = list(opened.stream(IMAGE, "Why?", DEPTH))
        assert all(thought.text.startswith("<think>\n") for thought in found)
        assert found[-1].text == opened.think(IMAGE, "Why?", DEPTH).text

    def test_who_stops_listening_ends_the_generation(self, wordy: Thinker) -> None:
        """It would write 1,000 tokens; it is over after a few, when `close` returns."""
        before = threading.active_count()
        steps = 0

        def counted(*_: Any) -> None:
            nonlocal steps
            steps += 1

        hook = wordy.model.register_forward_hook(counted)
        try:
            patient = LocalThinker(wordy.model, wordy.processor, max_new_tokens=1000)
            growing = patient.stream(IMAGE, "Why?", DEPTH, min_new_tokens=1000)
            assert not next(growing).complete
            growing.close()
        finally:
            hook.remove()
        assert 1 <= steps < 900
        assert threading.active_count() == before

    def test_errors_come_to_the_listener(self, wordy: Thinker) -> None:
        with pytest.raises(ImageError, match="a special token"):
            next(wordy.stream(IMAGE, "What does <image> mean?", DEPTH))
        with pytest.raises(ValueError, match="no_such_option"):
            list(wordy.stream(IMAGE, "Why?", DEPTH, no_such_option=3))


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        Thinker.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load"):
        Thinker.load(tmp_path)
