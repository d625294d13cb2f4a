"""Boxes in a model's own coordinates: read, written, checked; how large Qwen-VL's processors make an image."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sifthinker.boxes import convert
from sifthinker.chain import (
    Chain,
    Region,
    Step,
    check_chain,
    find_regions,
    find_steps,
    is_whole_image,
    other_coordinates,
    parse_chain,
    read_completion,
    render_chain,
)
from sifthinker.coordinates import UNIT, Frame, Resizer, default_for, frame_of
from sifthinker.errors import BoxError, ChainError, ModelError

PER_MILLE = Frame("per_mille")
FRAMES = [UNIT, PER_MILLE, Frame("resized", (644, 476)), Frame("resized", (28, 3024)), Frame("resized", (3584, 1204))]

sides = st.floats(0, 1, allow_nan=False)


@st.composite
def boxes(draw: st.DrawFn, least: float = 1e-3) -> tuple[float, float, float, float]:
    """Any box, also one much thinner than the numbers of a text can tell apart."""
    x1, y1 = draw(st.floats(0, 1 - least)), draw(st.floats(0, 1 - least))
    return x1, y1, draw(st.floats(x1 + least, 1)), draw(st.floats(y1 + least, 1))


@st.composite
def chains(draw: st.DrawFn, frame: Frame) -> Chain:
    width, height = frame.grid()

    def region() -> Region:
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
        box = (x1 / width, y1 / height, x2 / width, y2 / height)
        return Region.within(frame, box, draw(st.integers(0, 1000)) / 1000)

    words = st.sampled_from(["It stands here.", "a", "1 2 3"])
    steps = tuple(Step(tuple(region() for _ in range(draw(st.integers(1, 3)))), draw(words)) for _ in range(2))
    return Chain(steps, draw(words))


def chain_with(box: str, depth: str = "0.5") -> str:
    area = f'[{{"bbox_2d":{box},"depth":{depth}}}]'
    return f"<think><area>{area}</area><text>seen</text></think><answer>yes</answer>"


class TestRoundTrip:
    @pytest.mark.parametrize("frame", FRAMES, ids=str)
    def test_every_reader_undoes_render(self, frame: Frame) -> None:
        @given(chains(frame))
        @settings(max_examples=30, deadline=None)
        def holds(chain: Chain) -> None:
            text = render_chain(chain, frame=frame)
            assert parse_chain(text, frame=frame) == chain
            assert check_chain(text, frame=frame) == []
            assert find_regions(text, frame=frame) == [step.regions for step in chain.steps]
            assert find_steps(text, frame=frame) == [(step.regions, step.text) for step in chain.steps]
            assert list(read_completion(text, frame=frame).areas) == [step.regions for step in chain.steps]
            assert render_chain(parse_chain(text, frame=frame), frame=frame) == text

        holds()

    @given(boxes(), st.sampled_from(FRAMES))
    def test_a_box_is_off_by_half_a_step_at_most(self, box: tuple[float, ...], frame: Frame) -> None:
        text = render_chain(Chain((Step((Region.within(frame, box),), "a"),), "b"), frame=frame)
        (read,) = parse_chain(text, with_depth=False, frame=frame).steps[0].regions
        width, height = frame.grid()
        for before, after, steps in zip(box, read.box, (width, height) * 2, strict=True):
            # A sliver that is kept open is off by a step.
            assert abs(before - after) <= 1 / steps + 1e-9
            if box[2] - box[0] > 1 / width and box[3] - box[1] > 1 / height:
                assert abs(before - after) <= 0.5 / steps + 1e-9

    @given(boxes(1e-9), st.sampled_from(FRAMES[1:]))
    def test_no_side_vanishes_in_whole_numbers(self, box: tuple[float, ...], frame: Frame) -> None:
        x1, y1, x2, y2 = map(int, frame.write(box))
        width, height = frame.scale
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height

    def test_thin_and_border_boxes(self) -> None:
        frame = Frame("resized", (644, 476))
        # 0.9999 · 644 = 643.9 rounds to 644, the border itself: the box takes the last pixel.
        assert frame.write((0.9999, 0.9999, 1, 1)) == ["643", "475", "644", "476"]
        assert frame.write((0.5001, 0, 0.5002, 1)) == ["322", "0", "323", "476"]
        assert PER_MILLE.write((0.12345, 0, 1, 1)) == ["123", "0", "1000", "1000"]
        assert UNIT.write((0.12345, 0, 1, 1)) == ["0.123", "0.000", "1.000", "1.000"]

    def test_pixels_of_large_images_are_not_rounded_to_thousandths(self) -> None:
        frame = Frame("resized", (3584, 1204))
        (region,) = find_regions(chain_with("[1001,7,1002,8]"), frame=frame)[0]
        assert region.box == (1001 / 3584, 7 / 1204, 1002 / 3584, 8 / 1204)
        assert render_chain(Chain((Step((region,), "a"),), "b"), frame=frame).count("[1001,7,1002,8]") == 1

    @pytest.mark.parametrize(("frame", "box"), [(PER_MILLE, "[0,0,1000,1000]"), (FRAMES[2], "[0,0,644,476]")], ids=str)
    def test_the_whole_image_is_known(self, frame: Frame, box: str) -> None:
        assert is_whole_image(read_completion(chain_with(box), frame=frame).areas[0])

    def test_thousandths_are_the_fractions_that_a_unit_text_states(self) -> None:
        for number in range(1000):
            (read,) = find_regions(chain_with(f"[{number},0,1000,1000]"), frame=PER_MILLE)[0]
            assert read.box[0] == float(f"0.{number:03d}")


class TestStrictness:
    @pytest.mark.parametrize(
        ("frame", "box", "code"),
        [
            (PER_MILLE, "[0.1,0.2,0.3,0.4]", "number_form"),
            (PER_MILLE, "[1,2,3,4.0]", "number_form"),
            (PER_MILLE, "[-1,2,3,4]", "number_form"),
            (PER_MILLE, "[1e2,2,300,4]", "number_form"),
            (PER_MILLE, "[0,0,1001,4]", "box_range"),
            (PER_MILLE, "[0,0," + "9" * 400 + ",4]", "box_range"),
            (PER_MILLE, "[5,0,5,4]", "box_order"),
            (PER_MILLE, '["5",0,6,4]', "bad_box"),
            (PER_MILLE, "[true,0,6,4]", "bad_box"),
            (Frame("resized", (644, 476)), "[0,0,645,476]", "box_range"),
            (Frame("resized", (644, 476)), "[0,0,644,477]", "box_range"),
            (Frame("resized", (644, 476)), "[0.5,0,644,476]", "number_form"),
            (UNIT, "[0,0,500,500]", "box_range"),
        ],
    )
    def test_numbers_of_another_space_are_problems(self, frame: Frame, box: str, code: str) -> None:
        text = chain_with(box)
        assert [problem.code for problem in check_chain(text, frame=frame)] == [code]
        assert find_regions(text, frame=frame) == []
        assert read_completion(text, frame=frame).problems[0].code == code
        with pytest.raises(ChainError):
            parse_chain(text, frame=frame)

    def test_problems_say_what_is_wanted(self) -> None:
        (problem,) = check_chain(chain_with("[0.1,0,1,1]"), frame=PER_MILLE)
        assert "must have whole numbers from 0 to 1000, got" in str(problem)
        (problem,) = check_chain(chain_with("[0,0,700,1]"), frame=Frame("resized", (644, 476)))
        assert "must have whole pixels up to 644 and 476, got" in str(problem)

    def test_depth_stays_a_fraction(self) -> None:
        assert check_chain(chain_with("[0,0,1000,1000]", "0.583"), frame=PER_MILLE) == []
        assert check_chain(chain_with("[0,0,1000,1000]", "583"), frame=PER_MILLE)[0].code == "depth_range"

    @given(st.text(alphabet='<>/[]{}"bbox_2dpth:,.0123456789 areatxhinks', max_size=200), st.sampled_from(FRAMES))
    def test_no_text_raises(self, text: str, frame: Frame) -> None:
        read_completion(text, frame=frame)
        read_completion(chain_with(text), frame=frame)

    def test_a_reading_in_one_frame_is_not_taken_for_another(self) -> None:
        text = chain_with("[0,0,1,1]")
        whole = read_completion(text).areas[0][0].box
        corner = read_completion(text, frame=PER_MILLE).areas[0][0].box
        assert (whole, corner) == ((0, 0, 1, 1), (0, 0, 0.001, 0.001))
        assert read_completion(text, frame=Frame("per_mille")) is read_completion(text, frame=PER_MILLE)


class TestOtherSpaces:
    """What numbers look like that cannot be those of their frame."""

    @pytest.mark.parametrize(
        ("frame", "boxes", "looks"),
        [
            (UNIT, ["[0,0,1000,1000]", "[500,20,600,90]"], "per_mille"),
            (UNIT, ["[0,0,1288,900]", "[500,20,600,90]"], "pixels"),
            (UNIT, ["[500,20,600,90]"], "per_mille) or pixels (resized)"),
            (UNIT, ["[0,0,1,1]", "[0.5,0.2,0.6,0.9]"], ""),
            (UNIT, ["[0,0,1,1]", "[0.5,0.2,0.6,0.9]", "[5,2,6,9]"], ""),  # one slip is no other space
            (UNIT, [], ""),
            (PER_MILLE, ["[0,0,1,1]", "[0.5,0.2,0.6,0.9]"], "unit"),
            (PER_MILLE, ["[0,0,1000,1000]", "[0,0,1,1]", "[5,2,6,9]"], ""),
            (PER_MILLE, ["[0,0,1288,900]", "[0,0,1200,900]"], "pixels (resized)"),
            (Frame("resized", (644, 476)), ["[0,0,1,1]", "[0.5,0.2,0.6,0.9]"], "unit"),
            (Frame("resized", (644, 476)), ["[0,0,1000,1000]", "[500,20,660,90]"], "per_mille"),
            (Frame("resized", (644, 476)), ["[0,0,1288,900]", "[500,20,660,90]"], "pixels of another size"),
            (Frame("resized", (644, 476)), ["[0,0,644,476]"], ""),
            (PER_MILLE, ["[-400,-300,-20,-5]", "[-9,-8,1,1]"], ""),  # negative numbers are fractions of nothing
            (PER_MILLE, ["[-400,-300,-20,-5]", "[0,0,1,1]", "[0,0.5,1,1]"], "unit"),
            (UNIT, ["[" + "9" * 400 + ",0,1,1]", "[true,0,1,1]", '["a",0,1,1]', "[1,2,3]", "7"], ""),
        ],
    )
    def test_looks(self, frame: Frame, boxes: list[str], looks: str) -> None:
        text = "".join(f'<area>[{{"bbox_2d":{box},"depth":0.5}}]</area><text>a</text>' for box in boxes)
        found = other_coordinates(text, frame)
        assert looks in found
        assert bool(found) == bool(looks)

    @given(st.text(alphabet='<>/[]{}"bbox_2dpth:,.0123456789 areatxhinks', max_size=200))
    def test_no_text_raises(self, text: str) -> None:
        other_coordinates(text)
        other_coordinates(f"<area>{text}</area>", PER_MILLE)


class TestFrame:
    @pytest.mark.parametrize(
        ("space", "size", "words"),
        [
            ("pixels", None, "must be one of unit, per_mille, resized, got 'pixels'"),
            ("resized", None, "must be the \\[width, height\\]"),
            ("resized", (0, 28), "resized must be the"),
            ("resized", (28.5, 28), "resized must be the"),
            ("resized", "28x28", "resized must be the"),
            ("resized", (28, 28, 28), "resized must be the"),
            ("resized", (True, 28), "resized must be the"),
            ("per_mille", (28, 28), "Remove it"),
            ("unit", (28, 28), "Remove it"),
        ],
    )
    def test_what_is_no_frame(self, space: Any, size: Any, words: str) -> None:
        with pytest.raises(BoxError, match=words):
            Frame(space, size)

    def test_sides_may_be_numbers_of_numpy(self) -> None:
        assert Frame("resized", (np.int64(644), np.float32(476))) == Frame("resized", (644, 476))  # type: ignore[arg-type]
        with pytest.raises(BoxError, match="resized must be the"):
            Frame("resized", (np.True_, np.int64(28)))  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "reads",
        [
            lambda frame: parse_chain("", frame=frame),
            lambda frame: check_chain("", frame=frame),
            lambda frame: read_completion("", frame=frame),
            lambda frame: find_regions("", frame=frame),
            lambda frame: other_coordinates("", frame),
            lambda frame: render_chain(Chain((Step((Region((0, 0, 1, 1)),), "a"),), "a"), frame=frame),
            lambda frame: Region.within(frame, (0, 0, 1, 1)),
        ],
    )
    def test_a_name_is_no_frame(self, reads: Any) -> None:
        with pytest.raises(BoxError, match=r"frame must be a Frame, such as Frame\('per_mille'\), got 'per_mille'"):
            reads("per_mille")
        with pytest.raises(BoxError, match=r"frame must be a Frame, .*, got \['unit'\]"):
            reads(["unit"])

    @pytest.mark.parametrize("frame", FRAMES, ids=str)
    def test_columns_and_pickles_give_it_back(self, frame: Frame) -> None:
        assert frame_of(**json.loads(json.dumps(frame.columns()))) == frame
        assert pickle.loads(pickle.dumps(frame)) == frame

    def test_columns_of_tables(self) -> None:
        assert frame_of("resized", np.array([644.0, 476.0])) == FRAMES[2]
        assert frame_of(None, None) is frame_of("", None) is UNIT

    def test_region_within_a_frame_wants_a_box(self) -> None:
        for box in ((0, 0, 1.5, 1), (0.5, 0, 0.5, 1), (0, 0, 1)):
            with pytest.raises(ChainError):
                Region.within(PER_MILLE, box)
        with pytest.raises(ChainError, match="depth"):
            Region.within(PER_MILLE, (0, 0, 1, 1), 2)


QWEN25 = {  # as published: with bounds of their own
    "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2,
    "min_pixels": 3136, "max_pixels": 12845056,
}  # fmt: skip
QWEN3 = {
    "image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 16, "merge_size": 2,
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
}  # fmt: skip


class TestResizer:
    @pytest.mark.parametrize(
        ("config", "found"),
        [
            (QWEN25, Resizer(28, 3136, 12845056)),
            (QWEN3, Resizer(32, 65536, 16777216)),
            ({"image_processor_type": "Qwen2VLImageProcessorPil"}, Resizer(28, 3136, 1003520)),
            ({**QWEN25, "size": {"shortest_edge": 1, "longest_edge": 2}}, Resizer(28, 3136, 12845056)),
            (
                {"image_processor_type": "Qwen2VLImageProcessor", "size": {"min_pixels": 5, "max_pixels": 9}},
                Resizer(28, 5, 9),
            ),
        ],
    )
    def test_files_of_every_version(self, config: dict[str, Any], found: Resizer, tmp_path: Path) -> None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
        assert Resizer.of_model(tmp_path) == found
        # As transformers 5 writes it; it comes before the older file.
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor"}))
        (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": config, "processor_class": "Q"}))
        assert Resizer.of_model(tmp_path) == found

    def test_what_is_no_such_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ModelError, match="contains no image processor"):
            Resizer.of_model(tmp_path)
        for content, words in (
            ('{"image_processor_type": "CLIPImageProcessor"}', "Use unit or per_mille"),
            ("[]", "contains no image processor"),
            ("{", r"preprocessor_config\.json: cannot read: "),
            (json.dumps({**QWEN25, "max_pixels": "many"}), "cannot read the size in its image processor file, got"),
        ):
            (tmp_path / "preprocessor_config.json").write_text(content)
            with pytest.raises(ModelError, match=words):
                Resizer.of_model(tmp_path)
        for name in ("runs/none", "./none", "none"):
            with pytest.raises(ModelError, match="no such model folder"):
                Resizer.of_model(name)

    def test_a_name_of_the_hub_whose_files_are_in_its_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Qwen2.5-VL has no processor_config.json; nothing is asked for it when the older file is here."""
        constants = pytest.importorskip("huggingface_hub.constants")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(
            ModelError,
            match="Qwen/Tiny: its image processor is not in the local cache, and the Hugging Face Hub cannot be reached",
        ):
            Resizer.of_model("Qwen/Tiny")
        snapshot = tmp_path / "models--Qwen--Tiny" / "snapshots" / ("0" * 40)
        snapshot.mkdir(parents=True)
        (snapshot / "preprocessor_config.json").write_text(json.dumps(QWEN25))
        (tmp_path / "models--Qwen--Tiny" / "refs").mkdir()
        (tmp_path / "models--Qwen--Tiny" / "refs" / "main").write_text("0" * 40)
        assert Resizer.of_model("Qwen/Tiny") == Resizer(28, 3136, 12845056)
        with pytest.raises(ModelError, match=r"Qwen/\.\.bad: cannot download"):
            Resizer.of_model("Qwen/..bad")

    def test_bounds(self) -> None:
        resizer = Resizer().within(max_pixels=262144)
        assert resizer == Resizer(28, 3136, 262144)
        width, height = resizer.size((4000, 3000))
        assert width * height <= 262144
        assert resizer.frame((4000, 3000)) == Frame("resized", (width, height))

    @pytest.mark.parametrize(
        "bounds", [{"max_pixels": 0}, {"max_pixels": -1}, {"min_pixels": -1}, {"factor": 0}, {"max_pixels": "9"}]
    )
    def test_bounds_that_no_image_fits_in(self, bounds: Any) -> None:
        with pytest.raises(BoxError, match=f"{next(iter(bounds))} must be a positive number of pixels, got"):
            Resizer(**bounds)
        with pytest.raises(BoxError, match="must be a positive number of pixels"):
            convert([[0, 0, 30, 30]], source="resized", target="unit", size=(30, 30), **bounds)

    @pytest.mark.parametrize("name", ["qwen2_vl.image_processing_pil_qwen2_vl"])
    @pytest.mark.parametrize("options", [{}, {"max_pixels": 262144}, {"patch_size": 16, "max_pixels": 10**6}])
    def test_as_the_real_processor_resizes(self, name: str, options: dict[str, int], tmp_path: Path) -> None:
        """The grid of patches that transformers' processor makes of an image, against our size for it."""
        made = pytest.importorskip(f"transformers.models.{name}").Qwen2VLImageProcessorPil(**options)
        resizer = Resizer.of_processor(made)
        assert resizer is not None
        made.save_pretrained(tmp_path)
        assert Resizer.of_model(tmp_path) == resizer
        for height, width in ((480, 640), (30, 30), (1200, 1801), (28, 2000)):
            _, rows, columns = made(np.zeros((height, width, 3), np.uint8))["image_grid_thw"][0]
            assert resizer.size((width, height)) == (columns * made.patch_size, rows * made.patch_size)

    def test_other_processors_do_not_resize_by_area(self) -> None:
        assert Resizer.of_processor(object()) is None


@pytest.mark.parametrize(
    ("model", "space"),
    [
        ("Qwen/Qwen2.5-VL-7B-Instruct", "resized"), ("qwen2_5_vl", "resized"), ("qwen2.5vl:7b", "resized"),
        ("Qwen/Qwen2-VL-2B-Instruct", "per_mille"), ("qwen2_vl", "per_mille"),
        ("Qwen/Qwen3-VL-30B-A3B-Instruct", "per_mille"), ("qwen3_vl_moe", "per_mille"), ("qwen3_5", "per_mille"),
        ("Qwen/Qwen3.5-27B", "per_mille"), ("OpenGVLab/InternVL3-8B-hf", "per_mille"), ("internvl", "per_mille"),
        ("Qwen/Qwen3.6-35B", "per_mille"), ("Qwen/Qwen3.8-Flash-Next", "per_mille"), ("qwen3_5_moe", "per_mille"),
        ("qwen3.6:9b", "per_mille"), ("Qwen/Qwen3-8B", "unit"), ("qwen3", "unit"), ("qwen3_8b", "unit"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", "unit"),
        ("llava-hf/llava-1.5-7b-hf", "unit"), ("Qwen/Qwen2.5-7B-Instruct", "unit"), ("gpt-4o", "unit"), ("", "unit"),
        ("gemini-2.5-pro", "per_mille"), ("google/gemini-3-pro", "per_mille"), ("zai-org/GLM-4.5V", "per_mille"),
        ("glm4v", "per_mille"), ("glm-4.6v-flash", "per_mille"), ("zai-org/GLM-4.6", "unit"), ("gemma3", "unit"),
    ],
)  # fmt: skip
def test_family_defaults(model: str, space: str) -> None:
    assert default_for(model) == space


def test_frames_name_every_coordinates_literal() -> None:
    from typing import get_args

    from sifthinker.literals import Coordinates, Space

    assert set(get_args(Coordinates)) == {frame.space for frame in FRAMES} < set(get_args(Space))
    assert all(re.search("[0-9]", frame.numbers) for frame in FRAMES)
