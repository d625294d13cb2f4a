"""Tables as pandas, spreadsheets and `datasets` write them."""

from __future__ import annotations

import base64
import builtins
import csv
import io
import json
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.engine.sources import read_source
from sifthinker.engine.sources.tables import _boxes, _texts
from sifthinker.errors import ConfigError, RecordError
from sifthinker.records import Record, Reject

from .test_published import codes

BOX = "[[0.1,0.1,0.5,0.5]]"


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)
    return path


def answers(path: Path) -> list[str]:
    """Answers, or codes of rejects."""
    return [item.answer if isinstance(item, Record) else item.code for item in read_source(path)]


class TestNumbers:
    @pytest.mark.parametrize(
        ("cells", "wanted"),
        [
            # An empty cell makes floats of a column of whole numbers; 2.5 is what it is.
            (["2.0", "", "1998.0"], ["2", "blank_answer", "1998"]),
            (["2.0", "", "2.5", "-3.0"], ["2", "blank_answer", "2.5", "-3"]),
            (["2.0", "nan"], ["2", "blank_answer"]),
            # All whole: the rows with empty cells were dropped.
            (["2.0", "3.0"], ["2", "3"]),
            # Versions, prices and mixed columns say what they say.
            (["2.0", "2.1"], ["2.0", "2.1"]),
            (["2.0", "red", ""], ["2.0", "red", "blank_answer"]),
            (["2.0", "2.50", ""], ["2.0", "2.50", "blank_answer"]),
            (["007", ""], ["007", "blank_answer"]),
            (["2", "3"], ["2", "3"]),
        ],
    )
    def test_whole_floats_of_csv_go_by_their_column(self, tmp_path: Path, cells: list[str], wanted: list[str]) -> None:
        rows = [{"image": "a.jpg", "question": "How many?", "answer": cell, "boxes": BOX} for cell in cells]
        assert answers(write_csv(tmp_path / "t.csv", rows)) == wanted

    def test_whole_floats_of_typed_columns_are_whole(self, tmp_path: Path) -> None:
        values = [2.0, None, 2.5, 1998.0, float("nan"), float("inf"), 1e20]
        columns = {"image": ["a.jpg"] * 7, "question": ["q?"] * 7, "answer": values, "boxes": [BOX] * 7}
        wanted = ["2", "blank_answer", "2.5", "1998", "blank_answer", "blank_answer", "1e+20"]
        assert answers(write_parquet(tmp_path / "t.parquet", columns)) == wanted
        lines = [
            json.dumps({"id": str(n), "image": "a.jpg", "question": "q?", "answer": value, "boxes": json.loads(BOX)})
            for n, value in enumerate(values)
        ]
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
        assert answers(tmp_path / "t.jsonl") == wanted

    def test_ids_and_sizes_too(self, tmp_path: Path) -> None:
        row = {"id": "7.0", "image": "a.jpg", "question": "q", "answer": "a", "boxes": "[10, 10, 60, 30]"}
        rows = [{**row, "width": "100.0", "height": "50.0"}, {**row, "id": "", "width": "100.5", "height": "50"}]
        record, reject = read_source(write_csv(tmp_path / "t.csv", rows), box_space="pixel")
        assert (record.id, record.size) == ("7", (100, 50))
        assert "width must be a whole number of pixels, got '100.5'" in reject.reason


class TestBooleans:
    @pytest.mark.parametrize(
        ("cells", "wanted"),
        [
            (["True", "False"], ["bad_record"] * 2),
            (["TRUE", ""], ["bad_record", "blank_answer"]),
            (["True", "red"], ["True", "red"]),  # a column of text
            (["true", "false"], ["true", "false"]),
        ],
    )
    def test_a_csv_column_of_them_is_judged_as_a_typed_one(
        self, tmp_path: Path, cells: list[str], wanted: list[str]
    ) -> None:
        rows = [{"image": "a.jpg", "question": "q", "answer": cell, "boxes": BOX} for cell in cells]
        assert answers(write_csv(tmp_path / "t.csv", rows)) == wanted
        if wanted[0] == "bad_record":
            columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
            columns["answer"] = [{"True": True, "TRUE": True, "False": False}.get(cell) for cell in cells]
            assert answers(write_parquet(tmp_path / "t.parquet", columns)) == wanted


class TestEmptyCells:
    @pytest.mark.parametrize(
        "cell",
        [
            "",
            " ",
            "nan",
            "NaN",
            "<NA>",
            "NaT",
            "None",
            "null",
            "inf",
            "-inf",
            "NA",
            "N/A",
            "n/a",
            "Inf",
            "-Infinity",
            "-nan",
            "1.#QNAN",
        ],
    )
    def test_are_no_answers_in_csv(self, tmp_path: Path, cell: str) -> None:
        rows = [{"image": "a.jpg", "question": "q", "answer": value, "boxes": BOX} for value in (cell, "red")]
        assert answers(write_csv(tmp_path / "t.csv", rows)) == ["blank_answer", "red"]

    @pytest.mark.parametrize(("cell", "wanted"), [("nan", "blank_answer"), ("<NA>", "blank_answer"), ("None", "None")])
    def test_in_a_typed_table_text_is_mostly_text(self, tmp_path: Path, cell: str, wanted: str) -> None:
        path = write_parquet(tmp_path / "t.parquet", {"image": ["a"], "question": ["q"], "answer": [cell], "boxes": [BOX]})
        assert answers(path) == [wanted]

    @pytest.mark.parametrize(
        "cell", ["#N/A", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NULL!", "#NUM!", "#WERT!", "#NOM?", "#NV", "Err:502"]
    )
    def test_failed_formulas_are_no_answers_in_any_table(self, tmp_path: Path, cell: str) -> None:
        rows = [{"image": "a.jpg", "question": "q", "answer": value, "boxes": BOX} for value in (cell, "#1", "#hashtag!")]
        assert answers(write_csv(tmp_path / "t.csv", rows)) == ["blank_answer", "#1", "#hashtag!"]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        assert answers(write_parquet(tmp_path / "t.parquet", columns)) == ["blank_answer", "#1", "#hashtag!"]

    def test_a_failed_formula_elsewhere_is_named(self, tmp_path: Path) -> None:
        row = {"image": "a.jpg", "question": "q", "answer": "red", "boxes": BOX, "choices": "#REF!"}
        (found,) = read_source(write_csv(tmp_path / "t.csv", [row]))
        assert found.source == "t.csv:2"
        assert found.reason.startswith("choices is '#REF!', the result of a failed formula in a spreadsheet. Fix it")

    @pytest.mark.parametrize("answer", ["nan", "Nan", "none", "inf"])
    def test_in_json_text_is_text(self, tmp_path: Path, answer: str) -> None:
        row = {"id": "a", "image": "a.jpg", "question": "Which bread?", "answer": answer, "boxes": json.loads(BOX)}
        (tmp_path / "t.jsonl").write_text(json.dumps(row))
        assert answers(tmp_path / "t.jsonl") == [answer]


class TestLists:
    @pytest.mark.parametrize(
        "cell",
        [
            "[10, 10, 60, 30]",
            "[[10, 10, 60, 30]]",
            '["10", "10", "60", "30"]',
            "(10, 10, 60, 30)",
            "[(10, 10, 60, 30)]",
            "10 10 60 30",
            "10,10,60,30",
            "10, 10, 60, 30",
            "[10. 10. 60. 30.]",
            "[[10. 10. 60. 30.]]",
            "[10 10\n 60 30]",
            "array([10., 10., 60., 30.])",
            "array([[10, 10, 60, 30]], dtype=float32)",
            "np.array([10, 10, 60, 30])",
            "[array([10, 10, 60, 30])]",
            "tensor([10., 10., 60., 30.], device='cuda:0')",
            "[np.float64(10.0), np.float64(10.0), np.float64(60.0), np.float64(30.0)]",
            "[1e1, +10, 6.0e1, 30]",
        ],
    )
    def test_boxes_in_every_usual_notation(self, cell: str) -> None:
        assert _boxes(cell, "xyxy", "bbox", "t") == [[10, 10, 60, 30]]

    @pytest.mark.parametrize(
        "cell",
        [
            "[[1 2 3 4]\n [5 6 7 8]]",
            "1,2,3,4;5,6,7,8",
            "[(1, 2, 3, 4), (5, 6, 7, 8)]",
            "[1,2,3,4];[5,6,7,8]",
            "1 2 3 4\n5 6 7 8",
        ],
    )
    def test_several_boxes(self, cell: str) -> None:
        assert _boxes(cell, "xyxy", "bbox", "t") == [[1, 2, 3, 4], [5, 6, 7, 8]]
        assert _boxes(cell, "xywh", "bbox", "t") == [[1, 2, 4, 6], [5, 6, 12, 14]]

    @pytest.mark.parametrize(
        ("cell", "words"),
        [
            ("1 2 3", "column 'bbox' must be boxes of four numbers, such as [[10, 10, 60, 30]], got '1 2 3'"),
            ("1 2 3 4 5 6 7 8", "must be boxes of four numbers, such as"),
            ("0,1;0,2;0,6;0,6", "must be boxes of four numbers, such as"),
            ("[[1, 2, 3, 4]", "must be boxes of four numbers, such as"),
            ("[0.1 0.2 ... 0.6]", "must be boxes of four numbers, such as"),
            ("10(20) 30 40 50", "must be boxes of four numbers, such as"),
            ("10-20 30 40", "must be boxes of four numbers, such as"),
            ("{'x1': 1}", "must be boxes of four numbers, such as"),
            ('{"x1": 1}', "must be boxes of four numbers, such as"),
            ("left", "must be boxes of four numbers, such as"),
            ("[1, 2, NaN, 4]", "a box must be four finite numbers, got [1, 2, nan, 4]"),
            ("[[1, 2, true, 4]]", "a box must be four finite numbers, got [1, 2, True, 4]"),
            ([{"xmin": 1}], "a box must be four finite numbers, got an object with the keys xmin"),
            ({"xmin": [1]}, "boxes must be a list of [x1, y1, x2, y2], got an object with the keys xmin"),
            (7, "boxes must be a list of [x1, y1, x2, y2], got 7"),
            ("[]", "boxes is empty"),
            (
                "[335, 320, -4, 22]",
                "column 'bbox': box [335.0, 320.0, -4.0, 22.0] has no area; width and height must be above",
            ),
            ("[335, 320, 4, 0]", "column 'bbox': box [335.0, 320.0, 4.0, 0.0] has no area"),
        ],
    )
    def test_other_boxes_name_the_column_and_what_is_wanted(self, cell: object, words: str) -> None:
        with pytest.raises(RecordError) as caught:
            _boxes(cell, "xywh", "bbox", "t.csv[0]")
        assert words in str(caught.value)
        assert str(caught.value).startswith("t.csv[0]: ")

    @pytest.mark.parametrize(
        "cell",
        [
            '["red", "it\'s blue"]',
            "['red', \"it's blue\"]",
            "('red', \"it's blue\")",
            "['red' \"it's blue\"]",
            "array(['red', \"it's blue\"], dtype=object)",
            "['red', 'it\\'s blue']",
            "red;it's blue",
            "red | it's blue",
        ],
    )
    def test_choices_in_every_usual_notation(self, cell: str) -> None:
        assert _texts(cell, "options", "t") == ["red", "it's blue"]

    @pytest.mark.parametrize(
        "cell",
        ["red", "red, blue", "[red, blue]", "['red''blue']", "{'A': 'red'}", '{"A": "red"}', "a;b|c", "a;;b", "['a', None]"],
    )
    def test_other_choices_name_the_column_and_what_is_wanted(self, cell: str) -> None:
        with pytest.raises(RecordError, match=r"t: column 'options' must be a JSON list such as .*, got "):
            _texts(cell, "options", "t")

    def test_a_whole_file(self, tmp_path: Path) -> None:
        row = {"image": "a.jpg", "question": "q", "answer": "red", "bbox": "[10 10 60 30]", "width": "100", "height": "50"}
        rows = [{**row, "options": cell} for cell in ("['red', 'blue']", "red;blue", "[1.0, 2]", "nan", "", "oops")]
        found = list(
            read_source(
                write_csv(tmp_path / "t.csv", rows), columns={"boxes": "bbox", "choices": "options"}, box_space="pixel"
            )
        )
        assert [item.choices for item in found[:5]] == [("red", "blue"), ("red", "blue"), ("1", "2"), (), ()]
        np.testing.assert_allclose([item.boxes[0] for item in found[:5]], [[0.1, 0.2, 0.6, 0.6]] * 5)
        assert found[5].source == "t.csv:7"
        assert found[5].reason == "column 'options' must be a JSON list such as [\"red\", \"blue\"], got 'oops'"


class TestCSVFiles:
    def lines(self, *rows: str, header: str = "image,question,answer,boxes") -> str:
        return "\r\n".join((header, *rows)) + "\r\n"

    GOOD = f'a.jpg,q,red,"{BOX}"'

    def test_a_long_cell_is_read_and_the_limit_of_the_process_stays(self, tmp_path: Path) -> None:
        before = 131_072  # Python's own
        csv.field_size_limit(before)
        (tmp_path / "t.csv").write_text(self.lines(self.GOOD, f'a.jpg,{"x" * 140_000},red,"{BOX}"', self.GOOD))
        seen = []
        for item in read_source(tmp_path / "t.csv"):
            seen.append(len(item.question))
            assert csv.field_size_limit() == before
        assert seen == [1, 140_000, 1]

    def test_bad_rows_are_rejects_that_name_their_line(self, tmp_path: Path) -> None:
        text = self.lines(
            self.GOOD, f'a.jpg,why, oh why,red,"{BOX}"', "a.jpg,q", "", f'a.jpg,"two\nlines",red,"{BOX}"', self.GOOD
        )
        (tmp_path / "t.csv").write_bytes(text.encode() + b"a.jpg,caf\xe9,red,\n" + self.GOOD.encode())
        found = list(read_source(tmp_path / "t.csv"))
        assert codes(found) == ["ok", "bad_record", "blank_answer", "ok", "ok", "bad_record", "ok"]
        # Line 5 is blank, and the row of lines 6 and 7 has a line end in a cell.
        assert [item.source for item in found] == [f"t.csv:{line}" for line in (2, 3, 4, 6, 8, 9, 10)]
        assert "the row has 5 cells, but the header has 4" in found[1].reason
        assert "the row is not UTF-8. Save the file as UTF-8" in found[5].reason

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
    @pytest.mark.parametrize("mark", [",", ";", "\t"])
    def test_encodings_and_delimiters(self, tmp_path: Path, encoding: str, mark: str) -> None:
        text = mark.join(("image", "question", " answer", "boxes")) + "\r\n" + mark.join(("a.jpg", "é?", "bleu", f'"{BOX}"'))
        (tmp_path / "t.csv").write_bytes(text.encode(encoding))
        (record,) = read_source(tmp_path / "t.csv")
        assert (record.question, record.answer) == ("é?", "bleu")

    @pytest.mark.parametrize(
        ("content", "error", "words"),
        [
            (b"", ConfigError, "The table has no columns"),
            (b"image,question,answer,answer,boxes\n", ConfigError, "several columns have the name 'answer'"),
            (b"im\xe9ge,question,answer,boxes\n", RecordError, r"t\.csv: the header is not UTF-8. Save the file as UTF-8"),
        ],
    )
    def test_headers_that_cannot_be_used(self, tmp_path: Path, content: bytes, error: type[Exception], words: str) -> None:
        (tmp_path / "t.csv").write_bytes(content)
        with pytest.raises(error, match=words):
            list(read_source(tmp_path / "t.csv"))


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (100, 50), "red").save(stream, "PNG")
    return stream.getvalue()


class TestImages:
    @pytest.mark.parametrize(
        ("cell", "wanted"),
        [
            (png, ".png"),
            (lambda: {"bytes": png(), "path": None}, ".png"),
            (lambda: {"bytes": png(), "path": ""}, ".png"),
            (lambda: {"bytes": None, "path": "a.png"}, "a.png"),
            (lambda: {"bytes": b"", "path": "a.png"}, "a.png"),
            (lambda: [{"bytes": png(), "path": "b.png"}], ".png"),
            (lambda: [png()], ".png"),
            (lambda: ["a.png"], "a.png"),
            (list, "missing_image: image must be one image, got a list of 0"),
            (lambda: [png(), png()], "bad_record: image must be one image, got a list of 2"),
            (
                lambda: {"bytes": None, "path": None},
                "missing_image: image must be a path, image bytes or {bytes, path}, got an object with bytes null and "
                "path null",
            ),
            (
                lambda: {"url": "x"},
                "missing_image: image must be a path, image bytes or {bytes, path}, got an object with bytes null and "
                "path null",
            ),
            (lambda: 7, "missing_image: image must be a path, image bytes or {bytes, path}, got 7"),
            (lambda: b"rubbish", "broken_image: the image is broken"),
        ],
    )
    def test_in_every_form(self, tmp_path: Path, cell: Callable[[], object], wanted: str) -> None:
        columns = {"pic": [cell()], "question": ["q"], "answer": ["a"], "boxes": [BOX]}
        path = write_parquet(tmp_path / "t.parquet", columns)
        (found,) = read_source(path, images=tmp_path / "kept", columns={"image": "pic"})
        if isinstance(found, Reject):
            assert f"{found.code}: {found.reason}".startswith(wanted)
            assert found.source == f"{path.name}[0]"  # no lines; the index in Python
        else:
            assert found.image.endswith(wanted)
            assert wanted == "a.png" or Image.open(tmp_path / "kept" / found.image).size == (100, 50)

    def test_a_list_of_images_in_a_saved_dataset(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        features = datasets.Features(
            {
                "image": datasets.List(datasets.Image()),
                **dict.fromkeys(("question", "answer", "boxes"), datasets.Value("string")),
            }
        )
        rows = {"image": [[Image.new("RGB", (100, 50))]], "question": ["q"], "answer": ["a"], "boxes": [BOX]}
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "t")
        (record,) = read_source(tmp_path / "t", images=tmp_path / "kept")
        assert Image.open(tmp_path / "kept" / record.image).size == (100, 50)


@pytest.mark.parametrize(("name", "package"), [("t.parquet", "pyarrow"), ("t", "datasets"), ("hf://owner/name", "datasets")])
def test_a_package_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "state.json").write_text("{}")
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    real = builtins.__import__

    def without(module: str, *rest: Any) -> Any:
        if module.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(module, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=rf"needs {package}: pip install 'sifthinker\[train\]'"):
        list(read_source(name if name.startswith("hf:") else tmp_path / name))


def test_readers_in_threads_leave_the_limit_as_it_was(tmp_path: Path) -> None:
    before = 131_072
    csv.field_size_limit(before)
    rows = [{"image": "a.jpg", "question": "q" * 200_000, "answer": "a", "boxes": BOX}] * 20
    path = write_csv(tmp_path / "t.csv", rows)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(list(read_source(path))))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (found, csv.field_size_limit()) == ([20] * 4, before)


def test_a_column_that_cannot_be_decoded_spoils_its_rows_alone(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    answer = pyarrow.Array.from_buffers(
        pyarrow.string(), 2, [None, pyarrow.py_buffer(np.array([0, 1, 2], np.int32).tobytes()), pyarrow.py_buffer(b"a\xff")]
    )
    path = write_parquet(
        tmp_path / "t.parquet", {"image": ["a", "b"], "question": ["q"] * 2, "answer": answer, "boxes": [BOX] * 2}
    )
    assert answers(path) == ["a", "bad_record"]


class TestQuotes:
    HEAD = "image,question,answer,boxes"

    def read(self, tmp_path: Path, *lines: str) -> list[Record | Reject]:
        (tmp_path / "t.csv").write_text("\n".join((self.HEAD, *lines)) + "\n")
        return list(read_source(tmp_path / "t.csv"))

    def test_one_that_is_never_closed_is_named_with_the_lines_that_it_took(self, tmp_path: Path) -> None:
        box = "0.1 0.2 0.3 0.6"
        good, *rest = self.read(
            tmp_path, f"a.jpg,q,red,{box}", f'a.jpg,"q,red,{box}', f"a.jpg,q3,red,{box}", f"a.jpg,q4,red,{box}"
        )
        assert isinstance(good, Record)
        assert [item.code for item in rest] == ["bad_record"]
        assert "the quote that opens at line 3 is never closed, so the 2 lines after it" in rest[0].reason

    def test_it_may_open_after_another_cell_of_several_lines(self, tmp_path: Path) -> None:
        (found,) = self.read(tmp_path, 'a.jpg,"two', 'lines","red', "a.jpg,q,red,0 0 1 1")
        assert "the quote that opens at line 3 is never closed, so the 1 lines after it" in found.reason

    def test_one_in_the_last_line_took_nothing(self, tmp_path: Path) -> None:
        good, found = self.read(tmp_path, f'a.jpg,q,red,"{BOX}"', 'a.jpg,q,red,"0 0 1 1')
        assert isinstance(good, Record)
        assert "the quote that opens at line 3 is never closed. Close it" in found.reason

    def test_one_that_the_next_rows_quote_closes(self, tmp_path: Path) -> None:
        # Read leniently, lines 2 and 3 are one row of four cells.
        found, good = self.read(tmp_path, 'a.jpg,"q,red,0 0 1 1', 'a.jpg,"q3",red,0 0 1 1', "a.jpg,q4,red,0 0 1 1")
        assert "lines 2 to 3 were read as one row" in found.reason
        assert isinstance(good, Record)

    def test_cells_of_several_lines_and_doubled_quotes_are_fine(self, tmp_path: Path) -> None:
        (record,) = self.read(tmp_path, 'a.jpg,"two ""big""', 'lines",red,0 0 1 1')
        assert record.question == 'two "big"\nlines'

    def test_a_header_that_is_not_closed_keeps_the_message_short(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text('image,question,"answer,boxes\n' + "a.jpg,q,a,0 0 1 1\n" * 1000)
        with pytest.raises(ConfigError, match="--columns question=…,boxes=…") as caught:
            list(read_source(tmp_path / "t.csv"))
        assert len(str(caught.value)) < 1200


class TestDelimiters:
    @pytest.mark.parametrize(
        ("name", "format"),
        [("t.tsv", "auto"), ("t.TSV", "table"), ("t.txt", "table"), ("t.tab", "table"), ("t.dat", "table"), ("t", "table")],
    )
    def test_files_with_tabs(self, tmp_path: Path, name: str, format: Any) -> None:
        (tmp_path / name).write_text("image\tquestion\tanswer\tboxes\na.jpg\tq, r; s\tred\t0.1,0.1,0.5,0.5\n")
        (record,) = read_source(tmp_path / name, format=format)
        assert (record.question, record.answer) == ("q, r; s", "red")

    @pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
    def test_excels_line_names_the_delimiter(self, tmp_path: Path, first: str) -> None:
        (tmp_path / "t.csv").write_text(
            f"{first}\r\nimage;question;answer;boxes\r\na.jpg;a, b;red;0.1,0.1,0.5,0.5\r\na;b;c;d;e\r\n"
        )
        record, reject = read_source(tmp_path / "t.csv")
        assert (record.question, record.answer) == ("a, b", "red")
        assert (reject.source, "the row has 5 cells" in reject.reason) == ("t.csv:4", True)

    @pytest.mark.parametrize("mark", ["|", "\t", ","])
    def test_whatever_it_is(self, tmp_path: Path, mark: str) -> None:
        rows = ("image", "question", "answer", "boxes"), ("a.jpg", "q", "red", "0 0 1 1")
        (tmp_path / "t.csv").write_text("\n".join((f"sep={mark}", *(mark.join(row) for row in rows))))
        assert answers(tmp_path / "t.csv") == ["red"]


LONG = 100_000


@pytest.mark.parametrize(
    "cell",
    [
        "(" + "1" * LONG,
        "1" * LONG + "x",
        "(" * LONG,
        "array(" * LONG,
        ", dtype='" * LONG,
        "(1)" * LONG,
        "1." + "1" * LONG + "x",
    ],
)
def test_long_cells_of_boxes_take_linear_time(cell: str) -> None:
    # Quadratic time would be minutes.
    with pytest.raises(RecordError, match="must be boxes of four numbers, such as"):
        _boxes(cell, "xyxy", "bbox", "t")


@pytest.mark.parametrize(
    "cell",
    [
        "array(" + ", dtype=a" * LONG + "x",
        "array(" + ", dtype=a" * LONG + ")",
        "[" + "'a' " * LONG + "x]",
        "[" + "1" * LONG + "x]",
    ],
)
def test_long_cells_of_choices_take_linear_time(cell: str) -> None:
    with pytest.raises(RecordError, match="must be a JSON list"):
        _texts(cell, "options", "t")


class TestImagesAsText:
    @pytest.mark.parametrize("head", ["data:image/png;base64,", "DATA:image/png;charset=x;base64,", "", "\n"])
    @pytest.mark.parametrize("width", [0, 76])
    def test_base64_is_decoded(self, tmp_path: Path, head: str, width: int) -> None:
        text = base64.b64encode(png()).decode()
        text = "\n".join(textwrap.wrap(text, width)) if width else text
        rows = [{"image": head + text, "question": "q", "answer": "a", "boxes": BOX}]
        (record,) = read_source(write_csv(tmp_path / "t.csv", rows), images=tmp_path / "kept")
        assert (tmp_path / "kept" / record.image).read_bytes() == png()

    @pytest.mark.parametrize(
        ("cell", "code"),
        [
            ("data:image/png;base64,%%%", "broken_image"),
            ("data:image/svg+xml,<svg/>", "broken_image"),
            ("data:image/png;base64," + "QUJD" * 100, "broken_image"),
            ("iVBORw0KGgo" + "A" * 60 + "!", "broken_image"),
        ],
    )
    def test_what_is_no_image_is_a_short_reject(self, tmp_path: Path, cell: str, code: str) -> None:
        rows = [{"image": cell, "question": "q", "answer": "a", "boxes": BOX}]
        (reject,) = read_source(write_csv(tmp_path / "t.csv", rows), images=tmp_path / "kept")
        assert reject.code == code
        assert len(reject.reason) < 300 + len(str(tmp_path))

    def test_without_a_folder_for_images(self, tmp_path: Path) -> None:
        rows = [{"image": base64.b64encode(png()).decode(), "question": "q", "answer": "a", "boxes": BOX}]
        (reject,) = read_source(write_csv(tmp_path / "t.csv", rows))
        assert reject.code == "missing_image_root"

    @pytest.mark.parametrize("image", ["/9j/" + "a" * 30 + ".jpg", "R0lGOD/a.gif", "data/a.png", "database.png"])
    def test_paths_stay_paths(self, tmp_path: Path, image: str) -> None:
        rows = [{"image": image, "question": "q", "answer": "a", "boxes": BOX}]
        (record,) = read_source(write_csv(tmp_path / "t.csv", rows))
        assert record.image == image


def test_a_folder_of_several_splits_is_told_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(
        ConfigError, match=r"d: the dataset has several splits \(train, test\). Choose one, such as .*d/train$"
    ):
        list(read_source(tmp_path / "d"))
    (tmp_path / "e").mkdir()
    with pytest.raises(RecordError, match=r"e: expected a file or a folder written by .*, got another folder"):
        list(read_source(tmp_path / "e"))


def test_missing_columns_name_the_option_and_the_key_of_recipes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,ask,answer,boxes\n")
    with pytest.raises(
        ConfigError, match=r"Map fields to columns with --columns question=…,boxes=… \(in a recipe: columns: "
    ):
        list(read_source(tmp_path / "t.csv"))
