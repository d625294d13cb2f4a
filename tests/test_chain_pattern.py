"""The grammar of chains that servers hold a model to while it decodes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.chain import TAG, Chain, Region, Step, chain_pattern, check_chain, render_chain
from sifthinker.coordinates import UNIT, Frame
from sifthinker.errors import BoxError

FRAMES = [UNIT, Frame("per_mille"), Frame("resized", (644, 476))]
# Words that hold no `<` where a tag could begin.
words = st.text(min_size=1, max_size=30).filter(lambda text: text.strip() and not re.search(r"<(?:[</ta]|\Z)", text.strip()))


@st.composite
def chains(draw: st.DrawFn, frame: Frame, with_depth: bool) -> Chain:
    width, height = frame.grid()

    def region() -> Region:
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
        depth = draw(st.integers(0, 1000)) / 1000 if with_depth else None
        return Region.within(frame, (x1 / width, y1 / height, x2 / width, y2 / height), depth)

    steps = tuple(
        Step(tuple(region() for _ in range(draw(st.integers(1, 4)))), draw(words)) for _ in range(draw(st.integers(1, 4)))
    )
    return Chain(steps, draw(words))


@pytest.mark.parametrize("with_depth", [True, False])
@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.space)
def test_it_matches_every_chain_that_is_rendered(frame: Frame, with_depth: bool) -> None:
    pattern = re.compile(chain_pattern(with_depth=with_depth, frame=frame))

    @given(chains(frame, with_depth))
    def holds(chain: Chain) -> None:
        text = render_chain(chain, frame=frame)
        assert pattern.fullmatch(text)
        assert pattern.fullmatch(text.replace(">\n<", "><"))

    holds()


@pytest.mark.parametrize("with_depth", [True, False])
@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame.space)
def test_what_it_matches_is_a_chain(frame: Frame, with_depth: bool) -> None:
    """But for boxes without area, blank words and pixels past the border."""

    @given(st.from_regex(chain_pattern(with_depth=with_depth, frame=frame), fullmatch=True))
    def holds(text: str) -> None:
        allowed = {"box_order", "blank_text", "blank_answer", *(["box_range"] if frame.space == "resized" else [])}
        assert {problem.code for problem in check_chain(text, with_depth=with_depth, frame=frame)} <= allowed

    holds()


@pytest.mark.parametrize(
    ("number", "frame", "taken"),
    [
        ("0", UNIT, True), ("1", UNIT, True), ("0.5", UNIT, True), ("1.000", UNIT, True),
        ("1.001", UNIT, False), ("0.1234", UNIT, False), ("2", UNIT, False), (".5", UNIT, False), ("00", UNIT, False),
        ("0", FRAMES[1], True), ("7", FRAMES[1], True), ("999", FRAMES[1], True), ("1000", FRAMES[1], True),
        ("1001", FRAMES[1], False), ("007", FRAMES[1], False), ("0.5", FRAMES[1], False), ("-1", FRAMES[1], False),
        ("0", FRAMES[2], True), ("476", FRAMES[2], True), ("012", FRAMES[2], False), ("100000", FRAMES[2], False),
    ],
)  # fmt: skip
def test_numbers(number: str, frame: Frame, taken: bool) -> None:
    text = f'<think><area>[{{"bbox_2d":[{number},0,1,1]}}]</area><text>a</text></think><answer>b</answer>'
    assert bool(re.fullmatch(chain_pattern(with_depth=False, frame=frame), text)) == taken


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("0.2 < 0.4", True), ("a > b", True), ("x <= y", True), ("<b>", True), ("two\nlines", True), ("“Größe”", True),
        ("", False), ("<area>", False), ("</text>", False), ("a <", False), ("<apple", False), ("1 << 2", False),
    ],
)  # fmt: skip
def test_words(said: str, taken: bool) -> None:
    assert TAG.search(said) is None or not taken
    text = f'<think><area>[{{"bbox_2d":[0,0,1,1]}}]</area><text>{said}</text></think><answer>{said}</answer>'
    assert bool(re.fullmatch(chain_pattern(with_depth=False), text)) == taken


def test_it_comes_to_an_end() -> None:
    """Sixteen steps and 32 regions are the most, so that a model that repeats itself ends."""
    region = '{"bbox_2d":[0,0,1,1]}'

    def chain(steps: int, regions: int) -> str:
        step = f"<area>[{','.join([region] * regions)}]</area><text>a</text>"
        return f"<think>{step * steps}</think><answer>b</answer>"

    pattern = re.compile(chain_pattern(with_depth=False))
    assert pattern.fullmatch(chain(16, 32))
    assert not pattern.fullmatch(chain(17, 1))
    assert not pattern.fullmatch(chain(1, 33))
    assert not pattern.fullmatch(chain(0, 1))


def test_depth_is_stated_where_there_is_depth() -> None:
    with_depth = '<think><area>[{"bbox_2d":[0,0,1,1],"depth":0.5}]</area><text>a</text></think><answer>b</answer>'
    assert re.fullmatch(chain_pattern(), with_depth)
    assert not re.fullmatch(chain_pattern(with_depth=False), with_depth)
    assert not re.fullmatch(chain_pattern(), with_depth.replace(',"depth":0.5', ""))


def test_it_uses_what_all_servers_know() -> None:
    """No lookaround, back references, possessive or lazy repetition, and no classes by name."""
    for frame in FRAMES:
        assert not re.search(r"\(\?|[*+}][?+]", chain_pattern(frame=frame))
        assert "".join(set(re.findall(r"\\([a-zA-Z])", chain_pattern(frame=frame)))) == "n"


def test_the_name_of_coordinates_is_no_frame() -> None:
    with pytest.raises(BoxError, match="frame must be a Frame"):
        chain_pattern(frame="per_mille")  # type: ignore[arg-type]
