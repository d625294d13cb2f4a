from __future__ import annotations

import json
import math
import os
import threading
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sifthinker.errors import RecordError, SIFError
from sifthinker.files import atomic_write, inside, json_lines, read_jsonl, sweep, to_json, write_jsonl
from sifthinker.records import (
    Example,
    Record,
    as_number,
    as_text,
    as_whole,
    find_placeholder,
    read_choices,
    read_examples,
    write_choices,
)
from sifthinker.scoring.trl import answer_reward
from sifthinker.training.data import grpo_dataset

ROW = {"id": "a", "image": "a.jpg", "question": "q?", "answer": "b", "boxes": [[0, 0, 0.5, 1]]}


class TestRecord:
    def test_round_trip(self) -> None:
        row = {**ROW, "depth": "a.depth.png", "choices": ["b", "c"], "size": [4, 2], "extra": {"k": 1}, "family": "f"}
        record = Record.from_json(row, "f.jsonl:1")
        again = Record.from_json(json.loads(to_json(record.to_json())))
        assert again == record
        assert again.source == "f.jsonl:1"

    def test_a_mistyped_key_gets_a_suggestion(self) -> None:
        row = {**ROW, "anwser": "blue", "box": [], "x" * 1000: 1}
        with pytest.raises(RecordError, match=r"f\.jsonl:7: unknown key 'anwser'; did you mean 'answer'\?") as caught:
            Record.from_json(row, "f.jsonl:7")
        assert "unknown key 'box'; did you mean 'boxes'?" in str(caught.value)
        assert len(str(caught.value)) < 1000
        with pytest.raises(RecordError, match=r"did you mean 'size'\? Put other data under 'extra'$"):
            Record.from_json({**ROW, "sise": [1, 2]}, "f.jsonl:7")

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"boxes": []}, "no_box"),
            ({"boxes": [[0, 0, 2, 1]]}, "bad_box"),
            ({"boxes": [[0.5, 0, 0.5, 1]]}, "bad_box"),
            ({"boxes": "none"}, "bad_box"),
            ({"question": " "}, "blank_question"),
            ({"answer": ""}, "blank_answer"),
            ({"image": 5}, "blank_image"),
            ({"id": None}, "blank_id"),
            ({"colour": "red"}, "unknown_key"),
            ({"answer": "<text>"}, "tag_in_answer"),
            *(
                ({field: "half \ud800"}, "bad_text")
                for field in ("id", "image", "question", "answer", "dataset", "split", "family")
            ),
            ({"choices": ["b", "half \ud800"]}, "bad_text"),
            ({"depth": 5}, "bad_record"),
            ({"choices": "cat"}, "bad_record"),
            ({"choices": ["a", ""]}, "bad_record"),
            ({"size": ["a", "b"]}, "bad_record"),
            ({"size": [40, 20, 3]}, "bad_record"),
            ({"size": [0, 0]}, "bad_record"),
            ({"size": [10**9 + 1, 1]}, "bad_record"),
            ({"extra": "x"}, "bad_record"),
            ({"boxes": [[0, 0, 10**400, 1]]}, "bad_box"),
        ],
    )
    def test_faults_have_codes(self, change: dict, code: str) -> None:
        with pytest.raises(RecordError) as caught:
            Record.from_json({**ROW, **change}, "f.jsonl:7")
        assert caught.value.code == code
        assert "f.jsonl:7" in str(caught.value)

    @pytest.mark.parametrize("text", ["\u200b", "\ufeff", "\xad", "\0", " \u200d\n", "\u2800", "\u3164", "\ufe0f"])
    @pytest.mark.parametrize("field", ["id", "question", "answer", "choices"])
    def test_what_nobody_can_see_is_blank(self, field: str, text: str) -> None:
        with pytest.raises(RecordError) as caught:
            Record.from_json({**ROW, field: ["b", text] if field == "choices" else text}, "f.jsonl:7")
        assert caught.value.code == ("bad_record" if field == "choices" else f"blank_{field}")

    @pytest.mark.parametrize("text", ["👩\u200d🚀", "❤\ufe0f", "می\u200cخواهم", "−", "$"])
    def test_what_shows_is_text(self, text: str) -> None:
        assert Record.from_json({**ROW, "answer": text}).answer == text

    @pytest.mark.parametrize(
        ("number", "text"),
        [
            (2.0, "2"), (-0.0, "0"), (2.5, "2.5"), (float(2**53), "9007199254740992"), (2.0**53 + 2, "9007199254740994"),
            (1e16, "1e+16"), (Decimal("2.00"), "2"), (Decimal("9007199254740993"), "9007199254740993"),
            (Decimal("2.50"), "2.5"),
        ],
    )  # fmt: skip
    def test_whole_floats_have_no_point(self, number: float | Decimal, text: str) -> None:
        assert as_text(number, "answer", "f.jsonl:7") == text

    def test_a_boolean_is_told_what_its_field_wants(self) -> None:
        with pytest.raises(RecordError, match=r'answer must be one text such as "yes" or "no", got true$'):
            Record.from_json({**ROW, "answer": True})
        with pytest.raises(RecordError, match=r"id must be one text, got true$"):
            Record.from_json({**ROW, "id": True})

    def test_what_is_empty_is_not_written(self) -> None:
        bare = {**ROW, "boxes": [[0.0, 0.0, 0.5, 1.0]], "dataset": "custom", "split": "train"}
        assert Record.from_json(ROW).to_json() == bare
        full = {**bare, "depth": "d.png", "choices": ("b", "c"), "family": "f", "size": (4, 2), "extra": {"k": 1}}
        full |= {"notes": ("n",), "source": "f:1"}
        assert Record.from_json(full).to_json() == full

    def test_missing_keys_are_named(self) -> None:
        with pytest.raises(RecordError, match="lacks image, boxes"):
            Record.from_json({"id": "a", "question": "q", "answer": "b"})
        with pytest.raises(RecordError, match="object"):
            Record.from_json([1])

    def test_numbers_are_fine_as_ids_and_answers(self) -> None:
        record = Record.from_json({**ROW, "id": 7, "answer": 4})
        assert (record.id, record.answer) == ("7", "4")


LONG = 200_000


@pytest.mark.parametrize(
    "text", ["1" * LONG + "x", "1." + "1" * LONG + "x", "1e" + "1" * LONG + "x", " " * LONG + "x", "1" * LONG]
)
def test_long_digits_are_read_in_linear_time(text: str) -> None:
    assert as_number(text) is None  # quadratic time would be minutes
    assert as_whole(text) is None


TOKENS = """
    <image> <video> <audio> <Image> </image> <image1> <image/> <img> </img> <video_3> <__media__> <ImageHere> <IMG_CONTEXT>
    <|image_pad|> <|video_pad|> <|vision_start|> <|im_end|> <|endoftext|> <|eot_id|> <|image_1|> <|image> <turn|>
    <image_soft_token> <start_of_image> <global-img> <fake_token_around_image> <｜end▁of▁sentence｜>
    <s> </s> <eos> <pad> <end_of_turn> <end_of_utterance> <loc0012> <loc_12> <unused99> <box> </ref> <extra_id_0>
    [IMG] [IMG_END] [INST] [/INST] [PAD] [CLS] [UNK] [MASK] [gMASK] [sMASK] [UNUSED_TOKEN_146] [unused12]
    <row_1_col_1> <grounding> <sop> <eop> <eot> <eoa> <slice_start> <slice_end> <reserved_0>
"""
ORDINARY = """
    I <3 you; a < b > c; a<b>c; 1 < 2 || 3 > 2; x <| y |> z; ||<>||; <>; <imagery>; <title>; <div>; <img src="a.png">; image
    [image]; [1]; [sic]; [NASA]; an image > a video; <image of a dog>; <h1>; <mouse-pad>; <imagine>; i<j, k>l; -> <-
    ; <object>; <point>; <unit>; <row>; <phrase>; [A1]; [Mask]; [unused]
"""


class TestPlaceholders:
    @pytest.mark.parametrize("token", [*TOKENS.split(), "<image 1>"])
    def test_tokens_of_models_are_found_anywhere(self, token: str) -> None:
        assert find_placeholder(token) == token
        assert find_placeholder(f"a<b, see ![figure]({token}) and <image>") == token

    @pytest.mark.parametrize("text", ["", *ORDINARY.split(";"), *(part * 5000 for part in ("<", "<a", "<|", "[A"))])
    def test_ordinary_text_is_left_alone(self, text: str) -> None:
        assert find_placeholder(text) is None

    @pytest.mark.parametrize(
        "text", ["<\u200b|im_end|>", "<|im_\u200bend|>", "<ima\u00adge>", "[IM\ufeffG]", "<|im_end|\u2060>"]
    )
    def test_invisible_letters_hide_no_token(self, text: str) -> None:
        assert find_placeholder(f"a {text}") in ("<|im_end|>", "<image>", "[IMG]")

    @pytest.mark.parametrize("field", ["question", "answer", "choices"])
    def test_no_text_that_reaches_training_may_hold_one(self, field: str) -> None:
        value = "the <|im_end|> there"
        with pytest.raises(RecordError, match=rf"f\.jsonl:7: {field} contains <\|im_end\|>") as caught:
            Record.from_json({**ROW, field: ["b", value] if field == "choices" else value}, "f.jsonl:7")
        assert caught.value.code == "bad_text"


EXAMPLE = {
    "id": "a",
    "dataset": "d",
    "split": "train",
    "problem": "q?",
    "answer": "b",
    "boxes": [[0, 0, 0.5, 1]],
    "images": ["images/a.png", "depth_view/a.png"],
    "messages": [{"role": "user", "content": "q?"}, {"role": "assistant", "content": "chain"}],
    "depth": "depth/a.png",
    "choices": "",
    "family": "",
    "provenance": {},
}


class TestExamples:
    def test_paths_become_absolute(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "examples.jsonl", [EXAMPLE])
        (example,) = read_examples(tmp_path)
        assert example.images[0] == str(tmp_path / "images" / "a.png")
        assert example.depth == str(tmp_path / "depth" / "a.png")
        assert (example.prompt, example.chain) == ("q?", "chain")
        assert json.loads(to_json(Example.from_json(EXAMPLE).to_json())) == EXAMPLE

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"images": ["../secret.png"]}, "path_outside_root"),
            ({"depth": "/etc/passwd"}, "path_outside_root"),
            ({"images": []}, "bad_images"),
            ({"images": ["a.png"] * 3}, "bad_images"),
            ({"images": "a.png"}, "bad_images"),
            ({"messages": [{"role": "user", "content": "q"}]}, "bad_messages"),
            ({"messages": "hello"}, "bad_messages"),
            ({"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "a"}]}, "bad_messages"),
            ({"surprise": 1}, "not_an_example"),
            ({"depth": 5}, "not_an_example"),
            ({"answer": None}, "not_an_example"),
            ({"messages": [*EXAMPLE["messages"], "more"]}, "bad_messages"),
        ],
    )
    def test_faults_have_codes(self, tmp_path: Path, change: dict, code: str) -> None:
        write_jsonl(tmp_path / "examples.jsonl", [{**EXAMPLE, **change}])
        with pytest.raises(RecordError) as caught:
            list(read_examples(tmp_path))
        assert caught.value.code == code
        assert "examples.jsonl:1" in str(caught.value)

    def test_a_folder_without_examples(self, tmp_path: Path) -> None:
        with pytest.raises(RecordError, match="sif data build"):
            list(read_examples(tmp_path))


class TestChoices:
    @given(st.lists(st.text(min_size=1), max_size=4))
    def test_a_table_column_holds_any_choices(self, choices: list[str]) -> None:
        assert read_choices(write_choices(choices)) == tuple(choices)

    def test_a_choice_may_hold_a_line_break(self, tmp_path: Path) -> None:
        choices = ["red\nand blue", "green"]
        example = Example.from_json({**EXAMPLE, "choices": choices})
        write_jsonl(tmp_path / "examples.jsonl", [example.to_json()])
        (read,) = read_examples(tmp_path)
        assert read.choices == ("red\nand blue", "green")
        column = grpo_dataset([replace(read, images=())]).with_format(None)["choices"]
        assert answer_reward(["<answer>(B)</answer>"], ["green"], column) == [1.0]

    def test_earlier_versions_wrote_a_choice_a_line(self) -> None:
        assert read_choices("red\nblue") == ("red", "blue")
        assert read_choices("[a]\n[b]") == ("[a]", "[b]")
        assert (read_choices(""), read_choices(None)) == ((), ())

    @pytest.mark.parametrize("value", [5, {"a": 1}, [["a"]], [None], [True], "[[1]]"])
    def test_what_is_no_list_of_texts_is_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match="choices must be a list"):
            read_choices(value)


class TestFiles:
    def test_symlinks_do_not_lead_out(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("s")
        root = tmp_path / "root"
        root.mkdir()
        (root / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(RecordError, match="outside"):
            inside(root, "link")

    def test_a_failed_write_leaves_the_old_file(self, tmp_path: Path) -> None:
        atomic_write(tmp_path / "f", "old")
        with pytest.raises(ValueError, match="JSON compliant"):
            write_jsonl(tmp_path / "f", [{"x": float("nan")}])
        assert (tmp_path / "f").read_text() == "old"
        assert [path.name for path in tmp_path.iterdir()] == ["f"]

    def test_an_unwritable_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SIFError, match="file"):
            atomic_write(tmp_path / "file" / "below", "x")

    def test_a_link_stays_one(self, tmp_path: Path) -> None:
        (tmp_path / "far").mkdir()
        (tmp_path / "far" / "f").write_text("old")
        (tmp_path / "link").symlink_to("far/f")
        atomic_write(tmp_path / "link", "new")
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "far" / "f").read_text() == "new"

    def test_a_pipe_is_written_to_as_it_is(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
        try:
            atomic_write(tmp_path / "pipe", "words")
            assert os.read(reader, 99) == b"words"
        finally:
            os.close(reader)
        assert [path.name for path in tmp_path.iterdir()] == ["pipe"]
        with pytest.raises(SIFError, match="cannot write"):
            atomic_write(tmp_path, "a folder is none")

    def test_others_may_read_what_is_written(self, tmp_path: Path) -> None:
        """Temporary files are the writer's alone; datasets are not. The longest name that a file may have is fine."""
        path = tmp_path / ("x" * 255)
        atomic_write(path, "half a pair: \ud800")
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.read_text() == "half a pair: ?"

    def test_an_interrupted_write_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*paths: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("sifthinker.files.os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            atomic_write(tmp_path / "f", "x")
        assert list(tmp_path.iterdir()) == []

    def test_only_unfinished_files_are_swept(self, tmp_path: Path) -> None:
        for name in (".sif-abc-f", ".hidden", "f", "x.sif-f"):
            (tmp_path / name).write_text("")
        sweep(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "f", "x.sif-f"]

    def test_a_folder_whose_name_only_begins_alike_is_outside(self, tmp_path: Path) -> None:
        for name in ("root", "root-of-another"):
            (tmp_path / name).mkdir()
        (tmp_path / "link").symlink_to("root")
        assert inside(tmp_path / "link", "a/../b") == tmp_path / "root" / "b"  # roots may be links
        for path in ("../root-of-another/f", str(tmp_path / "root-of-another")):
            with pytest.raises(RecordError, match="leads outside") as caught:
                inside(tmp_path / "root", path)
            assert caught.value.code == "path_outside_root"

    @pytest.mark.parametrize(
        ("value", "text"), [("é", '"é"'), ("\ud800", '"\\ud800"'), ({"b": 1, "a": [1, 2]}, '{"b":1,"a":[1,2]}')]
    )
    def test_a_line_of_json(self, value: object, text: str) -> None:
        assert to_json(value) == text
        assert json.loads(to_json(value).encode()) == value
        for number in (float("nan"), float("inf")):
            with pytest.raises(ValueError, match="JSON compliant"):
                to_json([number])

    @pytest.mark.parametrize(
        ("line", "fault"),
        [(text, "not a line of JSON: ") for text in ("[" * 100_000, "{", "NaN x", "1 2")]
        + [('"\ud800', "not UTF-8. Save the file as UTF-8")]
        + [('{"id": "x" "image": 1}', r"not a line of JSON: expecting ',' delimiter at column 12$")]
        + [('{"id": "x', r"not a line of JSON: unterminated string starting at column 8$")],
    )
    def test_lines_that_are_no_json(self, tmp_path: Path, line: str, fault: str) -> None:
        (tmp_path / "f.jsonl").write_bytes(b"1\n" + line.encode("utf-8", "surrogatepass"))
        with pytest.raises(RecordError, match=rf"f\.jsonl:2: {fault}") as caught:
            list(read_jsonl(tmp_path / "f.jsonl"))
        assert caught.value.code == "not_json"

    def test_windows_line_ends_and_blank_lines(self, tmp_path: Path) -> None:
        (tmp_path / "f.jsonl").write_bytes(b'{"a":1}\r\n\r\n{"a":2}\r\n')
        assert list(read_jsonl(tmp_path / "f.jsonl")) == [(1, {"a": 1}), (3, {"a": 2})]

    def test_reading_goes_on_after_a_line_that_is_no_json(self, tmp_path: Path) -> None:
        """Lines 2 and 5 are broken, 3 is blank; 4 begins with the mark of a file that was joined to this one."""
        (tmp_path / "f.jsonl").write_bytes(b'\xef\xbb\xbf{"a":1}\n{"a":\n  \n\xef\xbb\xbf{"a":"\xc3\xa9"}\n"\xe9"\nNaN\n')
        found = list(json_lines(tmp_path / "f.jsonl"))
        assert [(line.number, line.value) for line in found[:-1]] == [(1, {"a": 1}), (2, None), (4, {"a": "é"}), (5, None)]
        assert (found[-1].number, math.isnan(found[-1].value)) == (6, True)
        assert [line.fault.partition(":")[0] for line in found] == [
            "", "not a line of JSON", "", "not UTF-8. Save the file as UTF-8", "",
        ]  # fmt: skip
        assert [line.text for line in found[1:4]] == ['{"a":\n', '{"a":"é"}\n', ""]

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_what_editors_of_other_systems_save(self, tmp_path: Path, encoding: str) -> None:
        """U+0A85 holds the byte of a newline, U+2028 is a line end to some."""
        (tmp_path / "f.jsonl").write_text('{"a":"\u0a85\u2028"}\r\n\r\n[2]\r\n', encoding=encoding, newline="")
        assert list(read_jsonl(tmp_path / "f.jsonl")) == [(1, {"a": "\u0a85\u2028"}), (3, [2])]

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
    def test_a_pipe_is_read_once(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_bytes, args=(b'{"a":1}\n{"a":2}\n',))
        writer.start()
        assert list(read_jsonl(pipe)) == [(1, {"a": 1}), (2, {"a": 2})]
        writer.join()

    def test_a_broken_line_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "f.jsonl").write_text('{"a":1}\n{"a":\n')
        with pytest.raises(RecordError, match=r"f\.jsonl:2"):
            list(read_jsonl(tmp_path / "f.jsonl"))
        with pytest.raises(RecordError, match="cannot read"):
            list(read_jsonl(tmp_path / "none.jsonl"))


def test_a_path_that_cannot_be_used_is_told_in_short(tmp_path: Path) -> None:
    with pytest.raises(RecordError) as caught:
        inside(tmp_path, "x" * 9000)
    assert caught.value.code == "bad_path"
    assert len(str(caught.value)) < 250
