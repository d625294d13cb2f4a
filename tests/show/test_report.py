from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image, ImageFont

from sifthinker.depth import DepthMap
from sifthinker.evaluation.completions import Scored
from sifthinker.evaluation.metrics import Result
from sifthinker.scoring.rewards import Score, Scores
from sifthinker.show import report
from sifthinker.show.report import (
    Card,
    Chart,
    _wrapped,
    render_page,
    run_page,
    scored_page,
    thought_page,
    write_page,
    write_picture,
)
from sifthinker.thinker import Thought

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'"
CHAIN = (
    '<think><area>[{{"bbox_2d":[0.1,0.2,0.5,0.6],"depth":0.25}}]</area><text>{words}</text></think><answer>{answer}</answer>'
)


class Tags(HTMLParser):
    """Every tag of a page with its attributes; fails on what browsers would have to repair."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def thought(words: str = "seen", answer: str = "yes", with_depth: bool = True) -> Thought:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 100, 3), dtype=np.uint8))
    text = CHAIN.format(words=words, answer=answer)
    if not with_depth:
        text = text.replace(',"depth":0.25', "")
    return Thought("Is it?", image, DepthMap(np.full((50, 100), 0.25)) if with_depth else None, text)


class TestThoughtPage:
    def test_boxes_are_drawn_over_both_images(self) -> None:
        tags = Tags(thought_page(thought()))
        rectangles = tags.named("rect")
        assert len(rectangles) == 2
        for rectangle in rectangles:
            sides = [float(rectangle[name]) for name in ("x", "y", "width", "height")]
            assert sides == pytest.approx([10, 10, 40, 20])
        assert len(tags.named("image")) == 2

    def test_target_boxes_are_outlined_and_lie_on_top(self) -> None:
        card = Card(thought(), boxes=[(0, 0, 1, 1)], choices=("<yes>", "no"))
        page = render_page("thought.html", title="t", cards=[report._card(card, 0)])
        drawn = [(tag["stroke"], "stroke-dasharray" in tag) for tag in Tags(page).named("rect")]
        # On each of the two pictures the box of the model, then the target: dark, and white dashes on it.
        assert drawn == [(report._PALETTE[0], False), ("#000", False), ("#fff", True)] * 2
        assert "Choices: &lt;yes&gt; · no" in page

    def test_it_is_self_contained(self) -> None:
        tags = Tags(thought_page(thought()))
        for _, attributes in tags.found:
            for name in ("src", "href"):
                assert re.match(r"data:image/|#", attributes.get(name) or "#")
        assert not tags.named("script")

    def test_text_of_models_and_data_is_shown_not_run(self) -> None:
        page = thought_page(Thought(EVIL, thought().image, None, CHAIN.format(words=EVIL, answer=EVIL)), note=EVIL)
        tags = Tags(page)
        assert not tags.named("script")
        assert not tags.named("img")
        assert "&lt;script&gt;" in page

    def test_rubbish_is_shown_with_its_reason(self) -> None:
        page = thought_page(Thought("q", thought().image, None, "I do not know", complete=False))
        assert "No steps can be read" in page
        assert "stray_text" in page
        assert "reached the token limit" in page

    def test_rgb_only(self) -> None:
        page = thought_page(thought(with_depth=False))
        assert len(Tags(page).named("image")) == 1
        assert "depth" not in page.split("</style>")[1].split("Raw text")[0].replace("depth-", "")

    def test_a_value_that_a_template_lacks_is_a_fault(self) -> None:
        """Not an empty place in a page that nobody looks at twice."""
        with pytest.raises(UndefinedError, match="'shown' is undefined"):
            render_page("scored.html", title="t", cards=[])

    def test_photographs_are_bounded(self) -> None:
        large = Thought(
            "q", Image.fromarray(np.random.default_rng(0).integers(0, 255, (3000, 4000, 3), dtype=np.uint8)), None, "x"
        )
        page = thought_page(large)
        assert len(page) < 1_500_000
        (shown,) = Tags(page).named("image")
        kind, _, data = (shown["href"] or "").partition(";base64,")
        assert (kind, Image.open(io.BytesIO(base64.b64decode(data))).size) == ("data:image/jpeg", (640, 480))

    def test_small_pictures_stay_exact(self) -> None:
        (shown, _) = Tags(thought_page(thought())).named("image")
        kind, _, data = (shown["href"] or "").partition(";base64,")
        assert kind == "data:image/png"
        assert Image.open(io.BytesIO(base64.b64decode(data))).tobytes() == thought().image.tobytes()


class TestPicture:
    def drawn(self, tmp_path: Path, card: Card) -> Image.Image:
        write_picture(tmp_path / "p.png", card)
        with Image.open(tmp_path / "p.png") as picture:
            return picture.convert("RGB")

    def test_boxes_are_drawn_over_both_images(self, tmp_path: Path) -> None:
        both = self.drawn(tmp_path, Card(thought()))
        rgb = self.drawn(tmp_path, Card(thought(with_depth=False)))
        # One step: the box once over RGB, once more over depth, where 50 rows by 100 become 110 by 220.
        red = [sum(pixel == (228, 87, 46) for pixel in picture.get_flattened_data()) for picture in (rgb, both)]
        assert red[0] > 100
        assert red[1] > 1.8 * red[0]
        assert both.height - rgb.height == 110 + 14
        # Depths are written over depth alone: the rows of the title and of the RGB panel are the same.
        above = (0, 0, rgb.width, 14 + 29 + 4 + 110)
        assert rgb.crop(above).tobytes() == both.crop(above).tobytes()

    @pytest.mark.parametrize("text", ["", "a few words that fit", "x" * 300, "a " + "longer" * 30 + " word", "漢字" * 40])
    def test_lines_are_no_longer_than_asked_for(self, text: str) -> None:
        font = ImageFont.load_default(13)
        lines = _wrapped(text, font, 220, most=99)
        assert max(map(font.getlength, lines)) <= 220
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        cut = _wrapped("word " * 300, font, 220, most=4)
        assert (len(cut), cut[-1].endswith(" …")) == (4, True)

    @pytest.mark.parametrize("text", ["", "no chain", "x" * 3000, EVIL, "\n" * 50, "漢字 " * 400])
    def test_any_text_fits(self, tmp_path: Path, text: str) -> None:
        image = Image.new("RGB", (640, 480))
        picture = self.drawn(tmp_path, Card(Thought(text, image, None, text), truth="yes", correct=False))
        assert picture.width == 2 * 220 + 3 * 14  # room for a text without steps
        assert picture.height < 1200


class TestScoredPage:
    def test_verdicts_rewards_and_target_boxes(self) -> None:
        verdicts = [
            Score(1.0, {"s": 1.0}),
            Score(2 / 3, {"s": 2 / 3}, ("judged_token_f1",)),
            Score(None, {}, ("no_verdict",)),
        ]
        area = Score(0.5)
        text = CHAIN.format(words="seen", answer="yes")
        boxes = np.array([[0.1, 0.2, 0.5, 0.8]])
        scored = [
            Scored(f"r{number}", text, "Is it?", "yes", boxes, None, (), Scores(area, verdict, area, Score(None)))
            for number, verdict in enumerate(verdicts)
        ]
        page = scored_page(scored, title="t", total=9)
        tags = Tags(page)
        assert "3 of 9 completions" in page
        assert "3 completions" in scored_page(scored, title="t", total=3)
        answers = [tag["class"] for tag in tags.named("p") if (tag.get("class") or "").startswith("answer")]
        assert answers == ["answer right", "answer wrong", "answer"]  # partly right is wrong, unjudged is neither
        assert "format 0.50 · answer 0.67 (judged_token_f1) · grounding 0.50 · depth –" in page
        assert "answer – (no_verdict)" in page
        # Of 256 × 256 where there is no image; its step states a depth, of which RGB-only work knows nothing.
        (dashed, *others) = [tag for tag in tags.named("rect") if "stroke-dasharray" in tag]
        sides = [float(dashed[name] or 0) for name in ("x", "y", "width", "height")]
        assert sides == pytest.approx([25.6, 51.2, 102.4, 153.6])
        assert len(others) == 2


class TestRunPage:
    def test_everything_is_there(self) -> None:
        result = Result(0.5, 70, 0.4, 0.6)
        page = run_page(
            title="Run",
            summary="What it means.",
            table={"before": {}, "after": {"final HIoU": result}},
            metrics={"final HIoU": "of the last area"},
            families={"before": {"side": result}, "after": {"side": result}},
            charts=[
                Chart("loss", {"loss": [(1, 2.0), (2, 1.0)]}),
                Chart("empty", {"none": []}),
                Chart("one", {"p": [(3, 0.0)]}),
            ],
            groups=[("family", [Card(thought(answer=EVIL), "after", truth="yes", correct=False, boxes=[(0, 0, 1, 1)])])],
        )
        tags = Tags(page)
        assert "0.500" in page
        assert "0.400 to 0.600, n 70" in page
        assert [line["points"] for line in tags.named("polyline")] == ["0.0,0.0 360.0,80.0", "0.0,160.0"]
        assert "No values were logged." in page
        assert "right answer: yes" in page
        assert not tags.named("script")

    def test_an_unwritable_place(self, tmp_path: Path) -> None:
        from sifthinker.errors import SIFError

        (tmp_path / "file").write_text("")
        with pytest.raises(SIFError, match="file"):
            write_page(tmp_path / "file" / "page.html", "x")
