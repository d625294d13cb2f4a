"""Boxes that are plausibly in another space than their file says: of records before a build, and of finished chains."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sifthinker.boxes import suspect_space
from sifthinker.cli.main import main
from sifthinker.coordinates import Resizer
from sifthinker.engine.checks import FINDINGS, _resized_from, check_dataset
from sifthinker.engine.exports import export
from sifthinker.engine.settings import SourceSettings
from sifthinker.engine.spaces import Records, check_records, holds_records
from sifthinker.files import write_jsonl
from sifthinker.prompts import user_prompt


def sif(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def write(folder: Path, boxes: list[list[float]], **more: Any) -> Path:
    rows = [
        {"id": str(n), "image": "a.png", "question": f"What is {n}?", "answer": "cat", "boxes": [box], **more}
        for n, box in enumerate(boxes)
    ]
    write_jsonl(folder / "records.jsonl", rows)
    return folder / "records.jsonl"


class TestWholeFiles:
    """12 boxes: none of them wrong by itself."""

    PER_MILLE = [[[10 * n, 20, 500, 900 + 9 * n]] for n in range(12)]

    def test_thousandths_said_to_be_pixels(self) -> None:
        (said,) = suspect_space(self.PER_MILLE, "pixel", [(4000, 3000)] * 12)
        assert said == (
            "no box of 12 images with a side longer than 1,250 pixels reaches past 999. They may be thousandths (box space "
            "per_mille)"
        )
        assert suspect_space(self.PER_MILLE, "resized", [(4000, 3000)] * 12)

    def test_pixels_of_large_images(self) -> None:
        pixels = [*self.PER_MILLE, [[0, 0, 1400, 20]]]
        assert suspect_space(pixels, "pixel", [(4000, 3000)] * 13) == []
        assert suspect_space(self.PER_MILLE, "pixel", [(1000, 1000)] * 12) == []  # nothing is larger
        assert suspect_space(self.PER_MILLE, "pixel", [None] * 12) == []  # nobody knows
        assert suspect_space(self.PER_MILLE[:9], "pixel", [(4000, 3000)] * 9) == []  # too few to say

    def test_pixels_said_to_be_thousandths(self) -> None:
        pixels = [[[10 * n, 20, 400, 300 + n]] for n in range(12)]
        (said,) = suspect_space(pixels, "per_mille", [(640, 480)] * 12)
        assert said.startswith("no box of 12 images with a side shorter than 800 pixels")
        assert said.endswith("They may be pixels (box space pixel)")
        assert suspect_space([*pixels, [[0, 0, 400, 900]]], "per_mille", [(640, 480)] * 13) == []

    def test_boxes_past_the_border(self) -> None:
        unit = [[[0, 0, 0.5, 1]]] * 12
        past = [[0, 0, 1.5, 1]]
        (said,) = suspect_space(unit, "unit", [None] * 12, past=past * 10)
        assert said == (
            "10 of 12 boxes end past the image (10 would be clipped). They may be in another space than unit or pixels of "
            "images of another size"
        )
        assert suspect_space(unit, "unit", [None] * 12, past=past * 6) == []  # half of them, and fewer than 10
        assert suspect_space([], "unit", []) == []

    def test_rejected_boxes_count_too(self) -> None:
        """3 clipped and 4 rejected of 3 + 4 + 1."""
        (said,) = suspect_space([[[0, 0, 9, 9]]] * 4, "pixel", [(10, 10)] * 4, past=[[5, 5, 1001, 9]] * 7, rejected=4)
        assert said.startswith("7 of 8 boxes end past the image (3 would be clipped, 4 rejected). They may be in another")
        (said,) = suspect_space([], "pixel", [], past=[[5, 5, 1000, 9]], rejected=1)
        assert said.startswith("1 of 1 boxes end past the image (1 rejected). None of their numbers exceeds 1000")


class TestRecords:
    def test_each_that_cannot_be_read(self, photo_folder: Path) -> None:
        source = write(
            photo_folder.rename(photo_folder.with_name("p")), [[0, 0, 0.5, 1], [10, 10, 30, 20], [0.5, 0, 0.5, 1]]
        )
        Image.new("RGB", (40, 20)).save(source.parent / "a.png")
        gathered = Records()
        found = list(check_records(SourceSettings(file=str(source)), gathered=gathered))
        assert [finding.code for finding in found] == ["bad_box", "degenerate_box"]
        assert "looks like pixels or thousandths" in found[0].message
        assert (gathered.records, gathered.warnings()) == (1, [])

    @pytest.mark.parametrize(
        ("space", "boxes", "code", "warning"),
        [
            ("pixel", [[0.1, 0.1, 0.5, 1.0]] * 12, "12 × bad_box", ""),  # fractions
            ("unit", [[100, 100, 500, 1000]] * 12, "12 × bad_box", ""),  # thousandths
            ("per_mille", [[0, 0, 0.5, 1.0]] * 12, "12 × bad_box", ""),  # fractions
            ("pixel", [[0, 0, 500, 990 - n] for n in range(12)], "", "may be thousandths"),
            ("pixel", [[0, 0, 500, 1100 - n] for n in range(12)], "", ""),
            ("unit", [[0, 0, 1.5, 1.2]] * 12, "", "12 of 12 boxes end past the image"),
            ("per_mille", [[0, 0, 640, 1400 + n] for n in range(12)], "", "12 of 12 boxes end past the image"),
            ("per_mille", [[0, 0, 640, 2001]] * 12, "12 × bad_box", ""),  # pixels
        ],
    )
    def test_the_command(self, space: str, boxes: list[list[float]], code: str, warning: str, tmp_path: Path) -> None:
        Image.new("RGB", (2000, 1500)).save(tmp_path / "a.png")
        source = write(tmp_path, boxes)
        found = sif("data", "check", source, "--box-space", space)
        assert found.exit_code == (3 if code else 0), found.output
        assert code in found.stderr
        assert ("warning: " in found.stderr) == bool(warning)
        assert warning in found.stderr
        said = "12 of them with findings (12 findings)" if code else "0 findings"
        assert f"12 records, {said}\n" in found.stderr
        if code:
            assert "--box-space" in found.stdout  # what to do
            assert found.stdout.splitlines()[0].count("records.jsonl:1") == 1
            assert "its numbers look like another box space" in found.stderr

    def test_a_short_file_whose_boxes_cannot_be_thousandths(self, tmp_path: Path) -> None:
        Image.new("RGB", (2000, 1500)).save(tmp_path / "a.png")
        found = sif("data", "check", write(tmp_path, [[0, 0, 500, 1200 + n] for n in range(9)]), "--box-space", "per_mille")
        assert "warning: 9 of 9 boxes end past the image (9 would be clipped). They may be in another space" in found.stderr

    def test_thousandths_of_small_images_said_to_be_pixels(self, tmp_path: Path) -> None:
        """Of 14 boxes on 400 by 300 pixels, 4 lie wholly outside; the file's numbers tell what they may be."""
        Image.new("RGB", (400, 300)).save(tmp_path / "a.png")
        boxes = [*([[100, 100, 900, 950 + n] for n in range(10)]), *([[500, 400, 600, 990 + n] for n in range(4)])]
        found = sif("data", "check", write(tmp_path, boxes), "--box-space", "pixel")
        assert "4 × box_outside" in found.stderr
        assert (
            "warning: 14 of 14 boxes end past the image (10 would be clipped, 4 rejected). None of their numbers "
            "exceeds 1000, so they may be thousandths (box space per_mille)"
        ) in found.stderr

    def test_a_file_that_says_nothing_of_its_space(self, tmp_path: Path) -> None:
        """Records are known by their rows; without an option they are fractions, as for a build."""
        source = write(tmp_path, [[0, 0, 0.5, 1.0]] * 2)
        found = sif("data", "check", source)
        assert found.exit_code == 3
        assert "2 × missing_image: the image is missing" in found.stderr
        assert sif("data", "check", source, "--no-files").exit_code == 0
        source.write_text("")
        found = sif("data", "check", source, "--box-space", "unit")
        assert (found.exit_code, found.stderr.splitlines()[-1]) == (2, f"sif: {source}: contains no records")

    def test_a_wrong_path_and_a_file_without_records(self, tmp_path: Path) -> None:
        found = sif("data", "check", tmp_path / "none.jsonl")
        wanted = "no such file or folder. Give a file of records, or a dataset folder of `sif data build`"
        assert (found.exit_code, found.stderr) == (2, f"sif: {tmp_path / 'none.jsonl'}: {wanted}\n")
        (tmp_path / "notes.jsonl").write_text("one\n\ntwo\n")
        found = sif("data", "check", tmp_path / "notes.jsonl")
        assert found.stderr.splitlines()[-1] == "2 lines, 2 of them with findings (2 findings)"

    def test_images_of_records_that_state_a_size(self, tmp_path: Path) -> None:
        """A stated size is no reason not to look: the image may be missing, broken or another one."""
        Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
        Image.new("RGB", (80, 40)).save(tmp_path / "copy.png")  # a scaled copy, which a build accepts
        Image.new("RGB", (30, 40)).save(tmp_path / "other.png")
        (tmp_path / "broken.png").write_bytes(b"rubbish")
        names = ["a", "copy", "none", "broken", "other", "../a"]
        rows = [
            {"id": name, "image": f"{name}.png", "question": f"{name}?", "answer": "cat", "boxes": [[0, 0, 0.5, 1]]}
            for name in names
        ]
        write_jsonl(tmp_path / "records.jsonl", [{**row, "size": [40, 20]} for row in rows])
        found = sif("data", "check", tmp_path / "records.jsonl", "-o", tmp_path / "f.jsonl")
        findings = {row["id"]: row for row in map(json.loads, (tmp_path / "f.jsonl").read_text().splitlines())}
        assert {name: row["code"] for name, row in findings.items()} == {
            "none": "missing_image",
            "broken": "broken_image",
            "other": "size_mismatch",
            "../a": "path_outside_root",
        }
        assert findings["other"]["message"] == (
            "other.png must have the shape 40×20 as stated by the source, got 30×40. Check that it is the right image"
        )
        assert (found.exit_code, found.stderr.splitlines()[-1]) == (3, "6 records, 4 of them with findings (4 findings)")
        assert sif("data", "check", tmp_path / "records.jsonl", "--no-files").exit_code == 0

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("data/refcoco/REC_refcoco_unc_testB.jsonl", "5,095 records, 0 findings"),
            ("data/viscot/vsr_cot_train.jsonl", "3,376 records, 0 findings"),
            ("data/viscot/benchmark/vsr.json", "404 × missing_image"),
            ("cases/02-coco-same-stem-other-folder/instances.json", "records, 0 findings"),
            ("cases/14-viscot-mixed/mixed.json", "no_box"),
        ],
    )
    def test_every_form_that_a_build_recognises(self, name: str, words: str, shared: Path) -> None:
        assert holds_records(shared / name)
        assert words in sif("data", "check", shared / name, "--no-files").stderr

    def test_a_saved_dataset_is_a_table(self, tmp_path: Path) -> None:
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved" / "state.json").write_text("{}")
        assert holds_records(tmp_path / "saved")
        assert holds_records("hf://owner/name:train")

    def test_coco_captions_are_reported_as_such(self, tmp_path: Path) -> None:
        value = {"images": [], "annotations": [{"image_id": 1, "caption": "A cat."}], "categories": []}
        (tmp_path / "captions.json").write_text(json.dumps(value))
        found = sif("data", "check", tmp_path / "captions.json")
        assert found.exit_code == 2
        assert "expected records, got COCO captions" in " ".join(found.stderr.split())

    def test_a_dataset_is_no_file_of_records(self, chains: Path, tmp_path: Path) -> None:
        assert not holds_records(chains / "examples.jsonl")
        assert not holds_records(chains)
        assert not holds_records(tmp_path / "none.jsonl")
        (tmp_path / "x.jsonl").write_text("rubbish\n[1]\n")
        assert not holds_records(tmp_path / "x.jsonl")
        assert sif("data", "check", tmp_path / "x.jsonl").exit_code == 3
        assert sif("data", "check", chains).exit_code == 0
        for path in (chains, chains / "examples.jsonl"):
            found = sif("data", "check", path, "--box-space", "pixel", "--limit", 3)
            assert found.exit_code == 2
            assert "is a finished dataset" in found.stderr
            assert "apply only to files of records: --box-space, --limit" in " ".join(found.stderr.split())

    def test_tables(self, tmp_path: Path) -> None:
        Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
        (tmp_path / "r.csv").write_text('image,ask,answer,boxes\na.png,What?,cat,"[[1, 1, 20, 20]]"\n')
        found = sif("data", "check", tmp_path / "r.csv", "--columns", "question=ask", "--box-space", "pixel")
        assert (found.exit_code, found.stderr.splitlines()[-1]) == (0, "1 record, 0 findings")


class TestChains:
    def dataset(self, folder: Path, change: Callable[[dict], object], tmp_path: Path) -> Path:
        shutil.copytree(folder, tmp_path / "d")
        rows = [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]
        for row in rows:
            change(row)
        write_jsonl(tmp_path / "d" / "examples.jsonl", rows)
        return tmp_path / "d"

    def said(self, said: dict[str, Any], folder: Path, tmp_path: Path) -> Path:
        """A dataset whose lines say this of their coordinates, whatever these are."""

        def change(row: dict[str, Any]) -> None:
            row.pop("coordinates", None)
            row.pop("resized", None)
            row.update(said)

        return self.dataset(folder, change, tmp_path)

    @pytest.mark.parametrize(
        ("written", "said", "looks"),
        [
            ("per_mille", {}, "look like whole numbers from 0 to 1000 (per_mille)"),
            ("per_mille", {"coordinates": "resized", "resized": [56, 56]}, "whole numbers from 0 to 1000 (per_mille)"),
            ("unit", {"coordinates": "per_mille"}, "look like fractions of the image (unit)"),
            ("unit", {"coordinates": "resized", "resized": [56, 56]}, "look like fractions of the image (unit)"),
            (
                "resized",
                {"coordinates": "resized", "resized": [28, 28]},
                "look like whole numbers from 0 to 1000 (per_mille) or pixels of another size",
            ),
        ],
    )
    def test_another_space_than_the_lines_say(
        self, written: str, said: dict[str, Any], looks: str, chains_in: Callable[[str], Path], tmp_path: Path
    ) -> None:
        found = list(check_dataset(self.said(said, chains_in(written), tmp_path)))
        others = [finding for finding in found if finding.code == "other_space"]
        assert len({finding.where for finding in others}) == 6
        assert looks in others[0].message
        assert f"coordinates is {said.get('coordinates', 'unit')!r}" in others[0].message
        # The cause stands for the numbers that cannot be read; some of another size can.
        assert {finding.code for finding in found} - {"boxes_disagree"} == {"other_space"} <= set(FINDINGS)

    @pytest.mark.parametrize(
        ("written", "said", "fits"),
        [
            ("per_mille", {}, "whole numbers from 0 to 1000 (per_mille)"),
            ("unit", {"coordinates": "per_mille"}, "fractions of the image (unit)"),
            ("resized", {"coordinates": "per_mille"}, "pixels of the image at 56×56 (resized)"),
            ("per_mille", {"coordinates": "resized", "resized": [1120, 1120]}, "whole numbers from 0 to 1000 (per_mille)"),
            ("resized", {"coordinates": "resized", "resized": [112, 112]}, "pixels of the image at 56×56 (resized)"),
        ],
    )
    def test_the_space_in_which_a_chain_is_its_target_boxes_is_named(
        self, written: str, said: dict[str, Any], fits: str, chains_in: Callable[[str], Path], tmp_path: Path
    ) -> None:
        """Whole pixels of 56 are thousandths just as well: their numbers alone do not tell."""
        found = list(check_dataset(self.said(said, chains_in(written), tmp_path)))
        assert [finding.code for finding in found] == ["other_space"] * 6
        assert all(finding.message.endswith(f"its last area equals the target boxes in {fits}") for finding in found)

    def test_pixels_of_the_image_itself(self, chains_in: Callable[[str], Path], tmp_path: Path) -> None:
        """Resized from 64 to 56: chains in pixels of 64 are not what the line says."""

        def change(row: dict[str, Any]) -> None:
            (left, upper, right, lower), turn = row["boxes"][0], row["messages"][1]
            area = json.dumps([{"bbox_2d": [round(side * 64) for side in (left, upper, right, lower)]}])
            row["boxes"] = [[round(side * 64) / 64 for side in (left, upper, right, lower)]]
            turn["content"] = f"<think><area>{area}</area><text>It.</text></think><answer>{row['answer']}</answer>"
            row.update(depth=None, images=row["images"][:1])

        found = list(check_dataset(self.dataset(chains_in("resized"), change, tmp_path)))
        assert {finding.code for finding in found} <= {"other_space", "bad_chain"}
        assert any(
            f.message.endswith("its last area equals the target boxes in pixels of the image itself, 64×64") for f in found
        )

    @pytest.mark.parametrize("space", ["unit", "per_mille", "resized"])
    def test_a_prompt_that_asks_for_other_coordinates(
        self, space: str, chains_in: Callable[[str], Path], tmp_path: Path
    ) -> None:
        other = "unit" if space != "unit" else "per_mille"

        def change(row: dict[str, Any]) -> None:
            row["messages"][0]["content"] = user_prompt(row["problem"], coordinates=other)

        found = list(check_dataset(self.dataset(chains_in(space), change, tmp_path)))
        assert [finding.code for finding in found] == ["other_prompt"] * 6
        assert found[0].message == f"the prompt asks for {other}, but coordinates is {space!r}"

    def test_a_prompt_in_a_users_own_words(self, chains_in: Callable[[str], Path], tmp_path: Path) -> None:
        def change(row: dict[str, Any]) -> None:
            row["messages"][0]["content"] = f"Look closely, in fractions. {row['problem']}"

        assert list(check_dataset(self.dataset(chains_in("per_mille"), change, tmp_path))) == []

    def test_a_dataset_in_two_spaces(
        self, chains_in: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Training refuses it; other trainers are told row by row, and whoever exports it hears of it."""
        mixed = self.dataset(chains_in("unit"), lambda row: None, tmp_path)
        shutil.copytree(chains_in("per_mille"), mixed, dirs_exist_ok=True)
        rows = [
            json.loads(line)
            for space, count in (("unit", 6), ("per_mille", 2))
            for line in (chains_in(space) / "examples.jsonl").read_text().splitlines()[:count]
        ]
        write_jsonl(mixed / "examples.jsonl", [{**row, "id": str(number)} for number, row in enumerate(rows)])
        (finding,) = check_dataset(mixed)
        assert (finding.where, finding.code) == ("examples.jsonl", "mixed_coordinates")
        assert finding.message == "chains use per_mille (2) and unit (6). Train them separately"
        assert export(mixed, tmp_path / "out", "swift") == 8
        (record,) = caplog.records
        assert "the chains use per_mille (2) and unit (6)" in record.getMessage()
        assert export(chains_in("unit"), tmp_path / "plain", "swift") == 6
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("size", [(640, 480), (480, 640), (64, 64), (1300, 90)])
    @pytest.mark.parametrize("resizer", [Resizer(), Resizer(32, 65536, 16777216), Resizer(max_pixels=28 * 28 * 9)], ids=str)
    def test_every_size_that_a_processor_makes_is_right(self, size: tuple[int, int], resizer: Resizer) -> None:
        assert _resized_from(size, resizer.size(size))

    @given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([28, 32]), st.integers(1, 2000))
    def test_rounding_is_allowed_for(self, width: int, height: int, factor: int, most: int) -> None:
        if max(width, height) <= 200 * min(width, height):
            resizer = Resizer(factor, 4 * factor**2, max(4, most) * factor**2)
            assert _resized_from((width, height), resizer.size((width, height)))

    @pytest.mark.parametrize(
        ("size", "resized"),
        [((640, 480), (588, 28)), ((640, 480), (644, 644)), ((640, 480), (476, 644)), ((64, 64), (560, 448))],
    )
    def test_another_shape_is_found(self, size: tuple[int, int], resized: tuple[int, int]) -> None:
        assert not _resized_from(size, resized)

    def test_target_boxes_in_another_space_are_told_what_to_do(
        self, chains_in: Callable[[str], Path], tmp_path: Path
    ) -> None:
        """Fractions in a finished dataset, whatever its chains state: no option says that they are anything else."""

        def change(row: dict[str, Any]) -> None:
            row["boxes"] = [[1000 * side for side in box] for box in row["boxes"]]

        first, *_ = check_dataset(self.dataset(chains_in("per_mille"), change, tmp_path))
        assert first.code == "bad_box"
        assert first.message.endswith("divide pixels by the image's width and height, and thousandths by 1000")
        assert "box-space" not in first.message

    def test_one_slip_is_a_bad_chain(self, chains_in: Callable[[str], Path], tmp_path: Path) -> None:
        def change(row: dict[str, Any]) -> None:
            turn = row["messages"][1]
            turn["content"] = turn["content"].replace("[0.00,0.00,1.00,1.00]", "[0,0,1000,1000]", 1)

        codes = {finding.code for finding in check_dataset(self.dataset(chains_in("unit"), change, tmp_path))}
        assert codes == {"bad_chain"}

    def test_a_size_with_its_sides_swapped(self, tmp_path: Path, photo_folder: Path) -> None:
        from sifthinker.coordinates import Resizer
        from sifthinker.engine.build import Engine
        from sifthinker.engine.estimators import NoDepth
        from sifthinker.records import Record

        from ..small_data import BlockTeacher

        extra = {"subject": "it", "reason": "It is here."}
        record = Record(id="a", image="cat.png", question="What?", answer="cat", boxes=((0, 0, 0.5, 1),), extra=extra)
        engine = Engine(photo_folder, NoDepth(), BlockTeacher(), coordinates="resized", resizer=Resizer())
        engine.build(lambda: iter([record]), tmp_path / "out")
        assert list(check_dataset(tmp_path / "out")) == []
        line = json.loads((tmp_path / "out" / "examples.jsonl").read_text())
        assert line["resized"] == [84, 56]
        write_jsonl(tmp_path / "out" / "examples.jsonl", [{**line, "resized": [56, 84]}])
        found = {finding.code: finding.message for finding in check_dataset(tmp_path / "out")}
        assert found["size_mismatch"].endswith(".png is 40×20, but resized (56, 84)")
