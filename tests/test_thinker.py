from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sifthinker.depth import DepthMap
from sifthinker.errors import ImageError, ModelError
from sifthinker.thinker import Thinker, Thought

pytest.importorskip("torch")

IMAGE = Image.new("RGB", (40, 30), (200, 60, 60))
DEPTH = DepthMap(np.full((30, 40), 0.5))
BROKEN = (
    '<think><area>[{"bbox_2d":[0,0,1,1],"depth":0.5}]</area><text>all</text><area>[{"bbox_2d":[0,0,1,1],"depth":0.5}]</area>'
)


@pytest.fixture(scope="module")
def thinker(nano: Path) -> Thinker:
    return Thinker.load(nano, device="cpu", max_new_tokens=12)


class TestThought:
    def test_what_can_be_read_off_a_broken_chain(self) -> None:
        thought = Thought("q", IMAGE, DEPTH, BROKEN)
        assert [words for _, words in thought.steps] == ["all", ""]
        assert (thought.answer, thought.reading.problems[0].code) == (None, "missing_tag")


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

    def test_rgb_only(self, thinker: Thinker) -> None:
        assert thinker.think(IMAGE, "Why?").depth is None

    def test_image_placeholders_are_never_said(self, thinker: Thinker) -> None:
        token = thinker.model.config.image_token_id
        bias = thinker.model.get_output_embeddings()
        original = bias.weight.detach().clone()
        try:
            bias.weight.data[token] = bias.weight.data.abs().sum(dim=0) * 100  # would win every step
            thought = thinker.think(IMAGE, "Why?", DEPTH)
        finally:
            bias.weight.data.copy_(original)
        assert "<image>" not in thought.text

    @pytest.mark.parametrize("token", ["<image>", "</s>", "<pad>"])
    def test_questions_with_special_tokens_are_refused(self, thinker: Thinker, token: str) -> None:
        with pytest.raises(ImageError, match=f"{token}', a special token of this model"):
            thinker.think(IMAGE, f"What does {token} mean?", DEPTH)
        thinker.think(IMAGE, "Is a < b > c <think> or <b>?", DEPTH)

    def test_half_precision_models_are_fed_their_own_kind(self, nano: Path) -> None:
        Thinker.load(nano, device="cpu", dtype="bfloat16", max_new_tokens=2).think(IMAGE, "Why?", DEPTH)


def test_folders_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        Thinker.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot load"):
        Thinker.load(tmp_path)
