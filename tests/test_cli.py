"""The command as its users type it, real records and bad input included."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from sifthinker import depth_files
from sifthinker.boxes import round_boxes
from sifthinker.chain import check_chain, parse_chain
from sifthinker.cli.main import main
from sifthinker.cli.terminal import bar
from sifthinker.depth import DepthMap
from sifthinker.records import read_examples
from sifthinker.thinker import Thought

from .small_data import write_records
from .stand_in import explain, serve

KEY = "planted-secret-key"


def sif(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def cats(photo_folder: Path) -> Path:
    """A records file with one record about `cat.png`."""
    row = {"id": "cat", "image": "cat.png", "question": "What is it?", "answer": "cat", "boxes": [[0.1, 0.2, 0.6, 0.8]]}
    return write_rows(photo_folder / "records.jsonl", [row])


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch):
    """A stand-in teacher; yields the options that point at it."""
    monkeypatch.setenv("SIF_TEST_KEY", KEY)
    with serve(explain) as (url, requests):
        yield ["--base-url", url, "--model", "vlm", "--api-key-env", "SIF_TEST_KEY"], requests


class TestPaths:
    def test_plain_records(self, cats: Path, tmp_path: Path) -> None:
        result = sif("data", "paths", cats, "-o", tmp_path / "paths.jsonl")
        assert result.exit_code == 0
        assert "1 accepted, 0 of them clipped, 0 rejected" in result.stderr
        (row,) = lines(tmp_path / "paths.jsonl")
        assert list(row) == ["id", "question", "answer", "boxes", "path"]
        assert row["path"][-1] == {"kind": "target", "boxes": [[0.1, 0.2, 0.6, 0.8]]}
        assert row["path"][0]["boxes"] == [[0, 0, 1, 1]]

    def test_the_input_is_not_written_over(self, cats: Path) -> None:
        before = cats.read_bytes()
        result = sif("data", "paths", cats, "-o", cats)
        assert (result.exit_code, "is an input and would be overwritten" in result.stderr) == (2, True)
        assert cats.read_bytes() == before

    @pytest.mark.parametrize(
        "mine",
        [
            '{"source": "a", "note": "mine"}\n',
            "[1]\n",
            "notes\n",
            '{"source":"a","id":"","code":"not_json","reason":"r","kept":false}\nnotes\n',
            b"\xff\xfe",
        ],
    )
    def test_rejects_of_somebody_else_stay_as_they_are(self, cats: Path, tmp_path: Path, mine: str | bytes) -> None:
        rejects = tmp_path / "x.rejects.jsonl"
        rejects.write_bytes(before := mine if isinstance(mine, bytes) else mine.encode())
        result = sif("data", "paths", cats, "-o", tmp_path / "x.jsonl")
        assert result.exit_code == 2
        assert "x.rejects.jsonl: rejects go to this file, but it exists" in result.stderr
        assert rejects.read_bytes() == before
        assert not (tmp_path / "x.jsonl").exists()

    def test_a_recipe_is_not_read_as_a_file_of_records(self, cats: Path, tmp_path: Path) -> None:
        (tmp_path / "mine.YAML").write_text("sources:\n  - file: parts/one.jsonl\n")
        (tmp_path / "wrong.yml").write_text("sources: 3\n")
        for name, example in (("mine.YAML", str(tmp_path / "parts/one.jsonl")), ("wrong.yml", "FILE")):
            recipe = tmp_path / name
            for command, more in (("paths", ("-o", tmp_path / "x.jsonl")), ("check", ()), ("check", ("--format", "jsonl"))):
                found = sif("data", command, recipe, *more)
                words = " ".join(found.stderr.split())
                assert found.exit_code == 2
                assert f"{recipe} is a recipe, and recipes are only for `sif data build`" in words
                assert f"Run `sif data {command}` on each of its files, for example {example}." in words
            for command, more in (
                ("stats", ()),
                ("show", ("-o", tmp_path / "pages")),
                ("export", ("--to", "trl", "-o", tmp_path / "trl")),
            ):
                found = sif("data", command, recipe, *more)
                assert found.exit_code == 2
                assert f"Build the dataset first: sif data build {recipe} -o FOLDER" in " ".join(found.stderr.split())
        assert not (tmp_path / "x.jsonl").exists()

    def test_the_place_of_a_reject_is_printed_once(self, cats: Path, tmp_path: Path) -> None:
        row = {**json.loads(cats.read_text()), "id": "past", "boxes": [[0.5, 0, 1.2, 1]]}
        cats.write_text(cats.read_text() + "rubbish\n" + json.dumps(row) + "\n")
        found = sif("data", "paths", cats, "-o", tmp_path / "x.jsonl")
        (first,) = (line for line in found.stderr.splitlines() if "not_json" in line)
        assert first.count(f"{cats.name}:2") == 1
        rejects = lines(tmp_path / "x.rejects.jsonl")
        assert [(row["source"], row["code"]) for row in rejects] == [
            (f"{cats.name}:2", "not_json"),
            (f"{cats.name}:3", "clipped"),
        ]
        assert not any(cats.name in row["reason"] for row in rejects)

    def test_some_rejects_fail_unless_allowed_and_all_rejects_fail(self, cats: Path, tmp_path: Path) -> None:
        command = ["data", "paths", cats, "-o", tmp_path / "x.jsonl"]
        good = cats.read_text()
        cats.write_text(good + good)  # the second has the id of the first
        assert (sif(*command).exit_code, sif(*command, "--allow-rejects").exit_code) == (3, 0)
        cats.write_text(good.replace("0.6", "0.1"))
        assert (sif(*command).exit_code, sif(*command, "--allow-rejects").exit_code) == (3, 3)

    def test_each_form_of_a_reason_is_printed(self, cats: Path, tmp_path: Path) -> None:
        """What differs only in names and numbers is one form; the last of four forms is only counted."""
        row = lines(cats)[0]
        changes = (
            *({"boxes": [[0.1 * n, 0, 0.05, 1]]} for n in (1, 2)),
            {"size": "big"}, {"size": "small"}, {"extra": 5}, {"notes": 5}, {"choices": "red"}, {"family": 3},
        )  # fmt: skip
        write_rows(cats, [{**row, "id": f"r{n}", **change} for n, change in enumerate(changes)])
        found = sif("data", "paths", cats, "-o", tmp_path / "x.jsonl").stderr.splitlines()
        assert found[1:] == [
            "  6 × bad_record; the first: records.jsonl:3: size must be a list, got 'big'",
            "    also records.jsonl:5: extra must be an object, got 5",
            "    also records.jsonl:6: notes must be a list, got 5",
            "    … and 2 more forms; see " + str(tmp_path / "x.rejects.jsonl"),
            "  2 × degenerate_box; the first: records.jsonl:1: box [0.1, 0.0, 0.05, 1.0] has no area, expected x1 < x2 and "
            "y1 < y2",
            f"  complete list: {tmp_path / 'x.rejects.jsonl'}",
        ]

    def test_rejects_of_an_earlier_run_are_replaced(self, cats: Path, tmp_path: Path) -> None:
        good = cats.read_text()
        for text, number in ((good + "rubbish\n", 1), (good + "rubbish\nmore\n", 2), (good, 0), (good + "rubbish\n", 1)):
            cats.write_text(text)
            assert sif("data", "paths", cats, "-o", tmp_path / "x.jsonl").exit_code == (3 if number else 0)
            assert len(lines(tmp_path / "x.rejects.jsonl")) == number

    def test_published_metadata(self, shared: Path, tmp_path: Path) -> None:
        out = tmp_path / "dude.jsonl"
        result = sif("data", "paths", shared / "data/viscot/dude_cot_train.jsonl", "-o", out)
        assert result.exit_code == 3
        assert "4 × degenerate_box" in result.stderr
        named = lines(tmp_path / "dude.rejects.jsonl")
        assert len(lines(out)) + sum(not row["kept"] for row in named) == 11735
        assert len({row["source"] for row in named}) == len([row for row in named if not row["kept"]]) + sum(
            row["kept"] for row in {row["source"]: row for row in named}.values()
        )

    def test_conversations_without_images(self, shared: Path, tmp_path: Path) -> None:
        result = sif("data", "paths", shared / "data/viscot/benchmark/vsr.json", "-o", tmp_path / "o.jsonl")
        assert result.exit_code == 3
        assert "404 × missing_image_root" in result.stderr
        assert "--images" in result.stderr


class TestBuild:
    @pytest.mark.parametrize("failure", ["refused connection", "status 500"])
    def test_a_server_that_always_fails_gives_one_message(self, failure: str, tmp_path: Path) -> None:
        """Eight requests fail at once. In a process of its own, because asyncio logs unhandled exceptions late."""
        rows = [
            {"id": str(n), "image": "images/0.png", "question": f"What is {n}?", "answer": "cat", "boxes": [[0, 0, 0.5, 1]]}
            for n in range(60)
        ]
        write_records(tmp_path, 1)
        source = write_rows(tmp_path / "questions.jsonl", rows)
        with serve(lambda request, number: (500, {}, "broken")) as (url, _), socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # bound, but it does not listen
            if failure == "refused connection":
                url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
            words = ["data", "build", source, "-o", tmp_path / "out", "--depth", "none", "--model", "vlm", "--retries", 0]
            command = [sys.executable, "-m", "sifthinker.cli", *map(str, words), "--base-url", url, "--concurrency", "8"]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 2
        assert "Traceback" not in found.stderr
        assert "never retrieved" not in found.stderr
        assert found.stderr.count("sif: ") == 1, found.stderr
        assert len(found.stderr) < 1000

    def test_photographs_with_a_served_teacher(self, shared: Path, tmp_path: Path, teacher) -> None:
        options, requests = teacher
        photos = tmp_path / "photos"
        shutil.copytree(shared / "photos", photos)
        photos.chmod(0o755)
        for path in photos.glob("*.jpg"):
            width, height = Image.open(path).size
            ramp = np.tile(np.linspace(0.9, 0.1, height)[:, None], (1, width))
            DepthMap(ramp).write(photos / f"{path.stem}.depth.png")
        result = sif("data", "build", photos / "photos.jsonl", "-o", tmp_path / "out", *options)
        assert result.exit_code == 0, result.output
        records = {row["id"]: row for row in lines(photos / "photos.jsonl")}
        examples = list(read_examples(tmp_path / "out"))
        assert {example.id for example in examples} == set(records)
        for example in examples:
            assert check_chain(example.chain) == []
            boxes = [list(region.box) for region in parse_chain(example.chain).steps[-1].regions]
            assert boxes == records[example.id]["boxes"] == round_boxes(boxes).tolist()
        assert requests[0]["_headers"]["Authorization"] == f"Bearer {KEY}"
        for path in (tmp_path / "out").rglob("*.json*"):
            assert KEY not in path.read_text()
        assert KEY not in result.output

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda root: (root / "cat.png").unlink(), "no such image"),
            (lambda root: _photo(root, cut=True), "broken"),
            (lambda root: DepthMap(np.zeros((5, 5))).write(root / "cat.depth.png"), "the size of its image, 40×20, got 5×5"),
            (lambda root: _nan(root), "no pixel has a depth"),
            (lambda root: _change(root, boxes=[]), "boxes is empty"),
            (lambda root: _change(root, boxes=[[0.5, 0, 0.5, 1]]), "no area"),
            (lambda root: _change(root, image="../cat.png"), "outside"),
        ],
    )
    def test_bad_input_is_named_and_fails(self, cats: Path, tmp_path: Path, spoil, words: str, teacher) -> None:
        spoil(cats.parent)
        result = sif("data", "build", cats, "-o", tmp_path / "out", *teacher[0])
        assert result.exit_code != 0
        assert words in result.stderr
        assert len(lines(tmp_path / "out" / "rejects.jsonl")) == 1
        if words in ("no such image", "outside"):
            assert result.stderr.count("--images") == 1  # what to do
        result = sif("data", "stats", tmp_path / "out")
        assert (result.exit_code, "rejected records" in result.stdout) == (0, True)
        result = sif("data", "export", tmp_path / "out", "--to", "coco", "-o", tmp_path / "coco")
        wanted = f"sif: {tmp_path / 'out'}: contains no example. The reasons are in {tmp_path / 'out' / 'rejects.jsonl'}\n"
        assert (result.exit_code, result.stderr) == (2, wanted)

    def test_some_rejects_fail_unless_allowed(self, cats: Path, tmp_path: Path, teacher) -> None:
        rows = lines(cats)
        write_rows(cats, [*rows, {**rows[0], "id": "dog", "image": "dog.png"}])
        command = ["data", "build", cats, "-o", tmp_path / "out", *teacher[0]]
        result = sif(*command)
        assert result.exit_code == 3
        assert "1 accepted, 0 of them clipped, 1 rejected" in result.stderr
        assert sif(*command, "--allow-rejects").exit_code == 0

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--teacher", "openai"], "--model NAME"),
            (["--model", "m", "--base-url", "localhost"], "http://"),
            (["--model", "m", "--alpha", "2"], "past the border"),
            (["--model", "m", "--images", "/none"], "no such image folder"),
        ],
    )
    def test_misuse(self, cats: Path, tmp_path: Path, options: list[str], words: str) -> None:
        result = sif("data", "build", cats, "-o", tmp_path / "out", *options)
        assert result.exit_code == 2
        assert words in result.stderr
        assert "Traceback" not in result.output

    def test_a_folder_that_cannot_be_written(self, cats: Path, teacher) -> None:
        (cats.parent / "file").write_text("")
        result = sif("data", "build", cats, "-o", cats.parent / "file" / "out", *teacher[0])
        assert (result.exit_code, "cannot make the folder" in result.stderr) == (2, True)

    def test_no_such_file(self, tmp_path: Path) -> None:
        result = sif("data", "build", tmp_path / "none.jsonl", "-o", tmp_path / "out", "--model", "m")
        assert (result.exit_code, "cannot read" in result.stderr) == (2, True)


def _photo(root: Path, *, cut: bool) -> None:
    path = root / "cat.png"
    noise = np.random.default_rng(0).integers(0, 255, (20, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    if cut:
        path.write_bytes(path.read_bytes()[:700])


def _nan(root: Path) -> None:
    (root / "cat.depth.png").unlink()
    np.save(root / "cat.depth.npy", np.full((20, 40), np.nan))


def _change(root: Path, **fields: object) -> None:
    write_rows(root / "records.jsonl", [{**lines(root / "records.jsonl")[0], **fields}])


class TestRecordsToModel:
    def test_chains_training_and_thinking(self, tiny_vlm: Path, tmp_path: Path, teacher) -> None:
        pytest.importorskip("trl")
        out, run = tmp_path / "chains", tmp_path / "run"
        records = write_records(tmp_path / "raw", 7)
        result = sif("data", "build", records, "-o", out, "--decimals", 2, *teacher[0])
        assert result.exit_code == 0, result.output
        config = tmp_path / "sft.yaml"
        config.write_text(f"model: {tiny_vlm}\ndata: {out}\noutput: nowhere\ntraining:\n  save_strategy: 'no'\n")
        result = sif("train", "sft", config, "--output", run, "--max_steps=1", "--per-device-train-batch-size", 2)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(run)
        image = tmp_path / "raw" / "images" / "0.png"
        result = sif("think", image, "What is nearest?", "--model", run, "--max-new-tokens", 5, "-o", tmp_path / "p.html")
        assert result.exit_code == 0, result.output
        assert "answer: (none)" in result.stdout
        assert "What is nearest?" in (tmp_path / "p.html").read_text()


CHAIN = '<think><area>[{"bbox_2d":[0.1,0.2,0.6,0.8]}]</area><text>a</text></think><answer>cat</answer>'


class TestNames:
    @pytest.mark.parametrize(("kind", "hint"), [("qwen3_vl", True), ("llava", False)])
    def test_boxes_in_another_space_name_the_familys_own(
        self, cats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, hint: bool
    ) -> None:
        """A model that has not learnt chains states boxes as it was trained to."""
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        text = CHAIN.replace("0.1,0.2,0.6,0.8", "100,200,600,1000")
        monkeypatch.setattr(
            "sifthinker.thinking.think", lambda settings, image, question: Thought(question, Image.open(image), None, text)
        )
        result = sif(
            "think", cats.parent / "cat.png", "What?", "--model", tmp_path, "--depth", "none", "-o", tmp_path / "p.html"
        )
        said = (
            "boxes look like whole numbers from 0 to 1000 (per_mille); set --coordinates to the format that the model was "
            "trained on"
        )
        assert said + (" (published models of its family write per_mille)\n" if hint else "\n") in result.stderr

    def test_a_page_is_no_photo(self, tmp_path: Path) -> None:
        """Said before the image is opened or a model loaded."""
        result = sif("think", tmp_path / "a.png", "What is it?", "-o", tmp_path / "th.jpg")
        assert (result.exit_code, "expected a name that ends in .html or .png" in result.stderr) == (2, True)

    def test_paths_are_written_to_a_file(self) -> None:
        help_text = sif("data", "paths", "--help").output
        assert "JSONL file to write" in help_text
        assert "Dataset folder" not in help_text
        assert "choice of records" not in help_text

    @pytest.mark.parametrize("name", ["build_from_records", "draw_chain", "evaluate", "train"])
    def test_examples_say_how_they_are_called(self, name: str) -> None:
        path = Path(__file__).parents[1] / "examples" / f"{name}.py"
        result = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)
        assert (result.returncode, f"python examples/{name}.py" in result.stderr) == (1, True)


class TestInputs:
    @pytest.mark.parametrize(
        "words",
        [
            ["think", "cat.png", "What is it?", "-o", "cat.png"],
            ["think", "cat.png", "What is it?", "--depth", "cat.depth.png", "-o", "cat.depth.png"],
            ["rewards", "records.jsonl", "-o", "records.jsonl"],
            ["data", "check", "records.jsonl", "-o", "./records.jsonl"],
            ["data", "check", ".", "-o", "examples.jsonl"],
            ["data", "stats", ".", "-o", "examples.jsonl"],
            ["data", "paths", "records.jsonl", "-o", "records.jsonl"],
        ],
    )
    def test_what_a_command_reads_is_not_written_over(
        self, cats: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
    ) -> None:
        monkeypatch.chdir(cats.parent)
        Path("examples.jsonl").write_text("mine\n")
        before = {path.name: path.read_bytes() for path in Path().iterdir()}
        result = sif(*words)
        assert (result.exit_code, "is an input and would be overwritten" in result.stderr) == (2, True)
        assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


class TestRewards:
    def test_completions_of_a_dataset(self, chains: Path, tmp_path: Path) -> None:
        rows = []
        for number, example in enumerate(read_examples(chains)):
            text = example.chain if number % 2 else "I <script>do</script> not know"
            rows.append({"id": example.id, "completion": text})
        file = write_rows(tmp_path / "completions.jsonl", rows)
        result = sif("rewards", file, "--data", chains, "-o", tmp_path / "page.html", "--most", 5)
        assert result.exit_code == 0, result.output
        table = " ".join(result.stdout.split())
        assert "18 completions" in table
        assert "stray_text 9" in table
        page = (tmp_path / "page.html").read_text()
        assert "5 of 18 completions" in page
        assert page.count("<article") == 5
        assert "<script>" not in page

    def test_completions_with_their_own_references(self, photo_folder: Path) -> None:
        text = '<think><area>[{"bbox_2d":[0.1,0.2,0.6,0.8],"depth":0.5}]</area><text>a</text></think><answer>cat</answer>'
        row = {
            "completion": text, "answer": "cat", "boxes": [[0.1, 0.2, 0.6, 0.8]], "depth": "cat.depth.png",
            "images": ["cat.png"], "problem": "What is it?",
        }  # fmt: skip
        result = sif("rewards", write_rows(photo_folder / "c.jsonl", [row]), "-o", photo_folder / "page.html")
        assert result.exit_code == 0, result.output
        assert "What is it?" in (photo_folder / "page.html").read_text()

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({"text": "a"}, "completion"),
            ({"completion": "a"}, "lacks answer, boxes"),
            ({"completion": CHAIN, "answer": "b", "boxes": [[1, 1, 0, 0]]}, "no area"),
            (
                {"completion": CHAIN, "answer": "b", "boxes": [[100, 200, 600, 800]]},
                "expected fractions in [0, 1]; ground-truth boxes are always fractions, whatever a completion states: "
                "divide pixels by the image's width and height, and thousandths by 1000\n",
            ),
            ({"completion": "a", "answer": "b", "boxes": [[0, 0, 1, 1]], "depth": "none.png"}, "no such depth file"),
        ],
    )
    def test_lines_that_cannot_be_scored(self, tmp_path: Path, row: dict, words: str) -> None:
        result = sif("rewards", write_rows(tmp_path / "c.jsonl", [row]))
        assert result.exit_code == 2
        assert words in result.stderr
        assert "c.jsonl:1" in result.stderr

    def test_an_empty_file_and_an_unknown_id(self, chains: Path, tmp_path: Path) -> None:
        result = sif("rewards", write_rows(tmp_path / "c.jsonl", []))
        assert (result.exit_code, "contains no completions" in result.stderr) == (2, True)
        result = sif("rewards", write_rows(tmp_path / "c.jsonl", [{"id": "x", "completion": ""}]), "--data", chains)
        assert (result.exit_code, "no example 'x'" in result.stderr) == (2, True)


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["think", "none.png", "q", "--model", "m/m"], "no such image"),
            (["think", "cat.png", "q", "--model", "./nowhere"], "no such model folder"),
            (["think", "cat.png", "q", "--model", "empty"], "config.json is missing"),
            (["think", "cat.png", "q", "--model", "m/m", "--depth", "small.png"], "the size of its image, 40×20, got 8×8"),
            (["think", "bare.png", "q", "--model", "m/m", "--depth", "given"], "--depth none"),
            (["train", "sft", "bad.yaml"], "did you mean 'learning_rate'"),
            (["train", "grpo", "none.yaml"], "cannot read"),
        ],
    )
    def test_each_has_a_message_and_an_exit_status(
        self, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
    ) -> None:
        pytest.importorskip("trl")
        monkeypatch.chdir(photo_folder)
        Path("empty").mkdir()
        DepthMap(np.zeros((8, 8))).write("small.png")
        Image.new("RGB", (4, 4)).save("bare.png")
        Path("bad.yaml").write_text("model: m\ndata: d\noutput: o\ntraining: {learning_rte: 1}\n")
        result = sif(*words)
        assert result.exit_code == 2
        assert said in result.stderr
        assert "Traceback" not in result.output

    def test_overrides_are_pairs(self, tmp_path: Path) -> None:
        for words, said in ((["output", "x"], "Write overrides as --key value"), (["--output"], "--output has no value")):
            result = sif("train", "sft", tmp_path / "c.yaml", *words)
            assert (result.exit_code, said in result.stderr) == (2, True), result.stderr

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here that is always full")
    def test_a_disk_that_is_full(self, cats: Path) -> None:
        result = sif("data", "paths", cats, "-o", "/dev/full")
        assert (result.exit_code, "/dev/full: cannot write: No space left on device" in result.stderr) == (2, True)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_read_only_folder(self, cats: Path, tmp_path: Path) -> None:
        (tmp_path / "locked").mkdir(mode=0o500)
        result = sif("data", "paths", cats, "-o", tmp_path / "locked" / "o.jsonl")
        assert (result.exit_code, "cannot write" in result.stderr) == (2, True)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_progress_bar_leaves_room_for_its_numbers(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with bar("questions, after GRPO-SIF", 4000) as advance:
        advance(900, "812 accepted, 88 rejected, 140 asked again, 1,130 requests, 2.25 USD")
    shown = capsys.readouterr().err
    assert "questions, after GRPO-SIF" in shown
    assert "900/4000" in shown
    assert {"accepted,", "rejected,", "requests,", "USD"} <= set(shown.split())
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width


def test_a_warning_is_labelled(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A 16-bit file without a mark may be depth or disparity."""
    monkeypatch.setattr(depth_files, "_warned", set())
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    Image.fromarray(ramp).save(photo_folder / "cat.depth.png")
    record = {"id": "cat", "image": "cat.png", "question": "What is it?", "answer": "cat", "boxes": [[0.1, 0.2, 0.6, 0.8]]}
    path = write_rows(photo_folder / "records.jsonl", [record])
    with serve(explain) as (url, _):
        result = sif("data", "build", path, "-o", photo_folder / "out", "--base-url", url, "--model", "m", "--allow-rejects")
    (line,) = [line for line in result.stderr.splitlines() if "no sifthinker mark" in line]
    assert line.startswith("warning: ")


def test_a_mistake_of_sif_eval_names_its_command() -> None:
    assert "Try 'sif eval --help' for help." in CliRunner().invoke(main, ["eval", "x", "--nope"], prog_name="sif").stderr


def test_a_progress_bar_ends_with_its_count(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("chains", None) as advance:
        advance(4)
    assert "4/4" in capsys.readouterr().err


def test_no_empty_progress_bar_stands_above_an_error(cats: Path, tmp_path: Path) -> None:
    result = sif("data", "build", cats, "-o", tmp_path / "out")
    assert result.stderr == "sif: teacher openai needs a model. Set --model NAME (in a recipe: model)\n"


def test_interruption_says_what_to_do(cats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sifthinker.engine import build

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build.Engine, "build", interrupt)
    result = sif("data", "build", cats, "-o", cats.parent / "out", "--model", "m")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "sif: interrupted; to resume, repeat the command"


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, click.Context]]:
    """Every command by its name, with the context that its help is made in."""
    context = click.Context(command, info_name=" ".join(path), terminal_width=110, max_content_width=110)
    yield " ".join(path), context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, *path, name)


@pytest.mark.parametrize(
    ("name", "context"), list(commands(main, "sif")), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_help_of_a_command_fits_a_screen_or_is_grouped(name: str, context: click.Context) -> None:
    shown = context.get_help()
    headings = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert len(shown.splitlines()) <= 40 or len(headings) >= 4, shown
    assert not [line for line in shown.splitlines() if re.match(" +sif ", line) and len(line) > 80]  # examples
    words = re.sub(r"(\[ARGS\]|\[OVERRIDES\]|RESULTS)\.\.\.", "", shown)
    assert "..." not in words, "a summary is cut off"
