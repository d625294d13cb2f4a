"""`sif think` as its users type it: one image, folders, question files; models here and on a server."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.ask_settings import ThinkSettings
from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError, RecordError
from sifthinker.thinking import evaluation_path, questions_about, refuse_foreign_thoughts, think_many, with_depth

from .stand_in import serve
from .test_cli import lines, sif, write_rows

CHAIN = '<think><area>[{"bbox_2d":[0.1,0.2,0.6,0.8]}]</area><text>a</text></think><answer>cat</answer>'
DEEP = CHAIN.replace("]}]", '],"depth":0.5}]')
STEPS = {"steps": [{"regions": [{"bbox_2d": [0.1, 0.2, 0.6, 0.8]}], "text": "a"}], "answer": "cat"}


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Five pictures, one of them broken, one with depth, one named like a depth file, beside what is no picture."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    for name, mode in (("b.jpg", "RGB"), ("a.png", "L"), ("c.picture", "RGB")):
        picture = Image.new(mode, (40, 20), 90 if mode == "L" else (0, 90, 0))
        picture.save(folder / name, "PNG" if mode == "L" else "JPEG")
    DepthMap(np.tile(np.linspace(0.2, 0.9, 40), (20, 1))).write(folder / "a.depth.png")
    (folder / "d.jpg").write_bytes(b"\xff\xd8 cut off")
    (folder / "notes.txt").write_text("milk")
    (folder / "lone.depth.png").write_bytes((folder / "a.depth.png").read_bytes())
    return folder


@pytest.fixture
def served():
    """Serve one answer; gives the options that point at the server, and the requests."""
    with serve(lambda request, number: DEEP if shown(request) == 2 else CHAIN) as (url, requests):
        yield ["--base-url", url, "--model", "vlm", "--retries", 0], requests


def shown(request: dict[str, Any]) -> int:
    return sum(part["type"] == "image_url" for part in request["messages"][-1]["content"])


class TestOne:
    def test_json_is_all_that_stands_on_standard_output(
        self, photo_folder: Path, served, tmp_path: Path, monkeypatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        before = set(tmp_path.iterdir())
        options, _ = served
        result = sif("think", photo_folder / "cat.png", "What?", *options, "--json")
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert (told["answer"], told["steps"][0]["regions"][0]["box_px"]) == ("cat", [4, 4, 24, 16])
        known = DepthMap.read(photo_folder / "cat.depth.png").mean([[0.1, 0.2, 0.6, 0.8]])[0]
        assert told["steps"][0]["regions"][0] | {"box": 0, "box_px": 0} == {
            "box": 0, "box_px": 0, "depth_stated": 0.5, "depth_true": pytest.approx(known, abs=1e-4)
        }  # fmt: skip
        assert told["tokens"] == {"read": 100, "written": 20}
        assert set(tmp_path.iterdir()) == before  # no page, unless one is asked for
        page = tmp_path / "p.html"
        result = sif("think", photo_folder / "cat.png", "What?", *options, "--json", "-o", page)
        assert (json.loads(result.stdout)["answer"], page.is_file()) == ("cat", True)

    def test_without_json_it_prints_and_writes_a_page(self, photo_folder: Path, served, tmp_path: Path) -> None:
        options, _ = served
        result = sif("think", photo_folder / "cat.png", "What?", *options, "-o", tmp_path / "p.html")
        page = tmp_path / "p.html"
        assert result.stdout == f"1. [0.10, 0.20, 0.60, 0.80] depth 0.50\n   a\nanswer: cat\n{page}\n"
        assert result.stderr == ""  # nothing about embedded models, depth or chains

    def test_no_depth_is_said(self, photo_folder: Path, served, tmp_path: Path) -> None:
        (photo_folder / "cat.depth.png").unlink()
        options, requests = served
        result = sif("think", photo_folder / "cat.png", "What?", *options, "--json")
        assert result.stderr == "no depth file beside the image: RGB only (see --depth)\n"
        assert (shown(requests[0]), json.loads(result.stdout)["problems"]) == (1, [])

    @pytest.mark.parametrize(
        ("reply", "said"),
        [
            ({**STEPS, "steps": []}, "problem: steps is an empty list [no_step]"),
            ({**STEPS, "answer": ["x"]}, "problem: answer must be text, got a list of 1 [bad_answer]"),
            ("I see a cat.", "problem: the reply does not contain the requested JSON object [not_json]"),
        ],
    )
    def test_problems_of_a_structured_reply_are_said(
        self, photo_folder: Path, tmp_path: Path, reply: Any, said: str
    ) -> None:
        text = reply if isinstance(reply, str) else json.dumps(reply)
        with serve(lambda request, number: text) as (url, _):
            options = ["--base-url", url, "--model", "vlm", "--protocol", "structured", "-o", tmp_path / "p.html"]
            result = sif("think", photo_folder / "cat.png", "What?", *options)
        assert result.exit_code == 0
        assert said in result.stderr.splitlines()
        assert "not a valid chain" not in result.stderr

    def test_what_a_model_writes_does_not_steer_the_terminal(self, photo_folder: Path, tmp_path: Path) -> None:
        said = {"steps": [{"regions": [{"bbox_2d": [0, 0, 1, 1]}], "text": "a\x1b[2J"}], "answer": "mug\x1b]0;pwn\x07"}
        with serve(lambda request, number: json.dumps(said)) as (url, _):
            options = ["--base-url", url, "--model", "vlm", "--protocol", "structured", "-o", tmp_path / "p.html"]
            result = sif("think", photo_folder / "cat.png", "What?", *options)
        assert "answer: mug\ufffd]0;pwn\ufffd" in result.stdout
        assert "\x1b" not in result.output

    @pytest.mark.parametrize(("protocol", "count"), [("direct", 1), ("chain", 2)])
    def test_a_refusal_is_said(self, photo_folder: Path, tmp_path: Path, protocol: str, count: int) -> None:
        body = {"choices": [{"message": {"role": "assistant", "content": None, "refusal": "No."}, "finish_reason": "stop"}]}
        with serve(lambda request, number: (200, {}, json.dumps(body))) as (url, _):
            options = ["--base-url", url, "--model", "vlm", "--protocol", protocol, "-o", tmp_path / "p.html"]
            result = sif("think", photo_folder / "cat.png", "What?", *options)
        assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "answer: (none)")
        assert "[refused]" in result.stderr
        assert len(result.stderr.splitlines()) == count

    @pytest.mark.parametrize(("status", "words"), [(401, "key"), (404, "model"), (400, "too large"), (500, "tries")])
    def test_a_server_that_fails_is_a_sentence(self, photo_folder: Path, status: int, words: str) -> None:
        body = json.dumps({"error": {"message": f"no: {words}"}})
        with serve(lambda request, number: (status, {}, body)) as (url, _):
            options = ["--base-url", url, "--model", "vlm", "--retries", 0, "--json"]
            result = sif("think", photo_folder / "cat.png", "What?", *options)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("sif: ")
        assert (str(status) in result.stderr, "Traceback" in result.stderr) == (True, False)

    def test_no_server_is_a_sentence(self, photo_folder: Path) -> None:
        options = ["--base-url", "http://127.0.0.1:9/v1", "--model", "vlm", "--retries", 0]
        result = sif("think", photo_folder / "cat.png", "What?", *options, "--json")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "127.0.0.1:9" in result.stderr

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["cat.png"], 'QUESTION is missing. Write: sif think cat.png "What is …?"'),
            (["."], ". is a folder of images, and QUESTION is missing"),
            (["cat.png", " "], "QUESTION is blank"),
            (["q.jsonl", "What?"], "q.jsonl contains its own questions"),
            (["cat.png", "What?", "-o", "x.jsonl"], "Specify a file that ends in .html or .png"),
            ([".", "What?", "-o", "x.html"], "Specify a file that ends in .jsonl"),
            (["cat.png", "What?", "--limit", 2], "--limit applies only to many questions"),
            (["cat.png", "What?", "--fresh"], "--fresh applies only to many questions"),
            (
                ["cat.png", "What?", "--base-url", "http://x/v1", "--budget", 1, "--prompt-price", 1],
                "--budget applies only to many questions",
            ),
            ([".", "What?", "--images", "."], "--images applies only to a question file"),
            (["more", "What?"], "contains no images, only a.txt"),
        ],
    )
    def test_misuse(self, photo_folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[Any], said: str) -> None:
        monkeypatch.chdir(photo_folder)
        Path("more").mkdir()
        Path("more/a.txt").write_text("x")
        result = sif("think", *words, "--model", "m/m")
        assert (result.exit_code, said in result.stderr) == (2, True), result.output


class TestFolder:
    def test_every_image_and_what_is_none_is_named(self, album: Path, served, tmp_path: Path) -> None:
        options, requests = served
        output = tmp_path / "out.jsonl"
        result = sif("think", album, "What?", *options, "-o", output, "--concurrency", 1)
        assert result.exit_code == 3, result.output  # one could not be asked
        told = {row["id"]: row for row in lines(output)}
        assert list(told) == ["a.png", "b.jpg", "c.picture", "d.jpg", "lone.depth.png"]
        assert [bool(row["error"]) for row in told.values()] == [False, False, False, True, False]
        assert [row["answer"] for row in told.values()] == ["cat", "cat", "cat", None, "cat"]
        assert [shown(request) for request in requests] == [2, 1, 1, 1]
        assert told["a.png"]["steps"][0]["regions"][0]["depth_stated"] == 0.5
        assert told["b.jpg"]["steps"][0]["regions"][0] == {
            "box": [0.1, 0.2, 0.6, 0.8], "box_px": [4, 4, 24, 16], "depth_stated": None, "depth_true": None
        }  # fmt: skip
        assert "5 images in" in result.stderr
        assert "(1 depth file, 1 subfolder skipped)" in result.stderr
        assert "files left out: 1\n" in result.stderr
        assert "notes.txt" in result.stderr
        assert "questions that could not be asked: 1\n  d.jpg: " in result.stderr
        assert "embedded" not in result.stderr
        assert "d.jpg" in (tmp_path / "out.html").read_text()
        # The same command asks nothing but what could not be asked.
        asked = len(requests)
        result = sif("think", album, "What?", *options, "-o", output, "--json")
        assert len(requests) == asked
        assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == list(told)
        (album / "d.jpg").write_bytes((album / "b.jpg").read_bytes())
        result = sif("think", album, "What?", *options, "-o", output)
        assert (result.exit_code, len(requests)) == (0, asked + 1)
        assert all(row["answer"] == "cat" for row in lines(output))
        # Starting over asks all of it again.
        result = sif("think", album, "What?", *options, "-o", output, "--fresh", "--direct")
        assert (result.exit_code, len(requests)) == (0, asked + 6)
        assert {row["protocol"] for row in lines(output)} == {"direct"}

    def test_depth_that_must_be_there_or_must_not(self, album: Path, served, tmp_path: Path) -> None:
        options, requests = served
        result = sif("think", album, "What?", *options, "-o", tmp_path / "g.jsonl", "--depth", "given")
        told = lines(tmp_path / "g.jsonl")
        assert ([row["id"] for row in told if not row["error"]], result.exit_code) == (["a.png"], 3)
        assert "b.depth.png" in next(row["error"] for row in told if row["id"] == "b.jpg")
        requests.clear()
        sif("think", album, "What?", *options, "-o", tmp_path / "n.jsonl", "--depth", "none")
        assert {shown(request) for request in requests} == {1}
        result = sif("think", album, "What?", *options, "-o", tmp_path / "f.jsonl", "--depth", album / "a.depth.png")
        assert (result.exit_code, "for many images, got one depth file" in result.stderr) == (2, True)

    def test_a_depth_model_estimates_each_image_once(
        self,
        album: Path,
        served,
        tmp_path: Path,
        depth_model: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        options, requests = served
        words = ["think", album, "What?", *options, "--depth", depth_model, "-o", tmp_path / "m.jsonl"]
        assert sif(*words).exit_code == 3
        assert {shown(request) for request in requests} == {2}
        told = [row for row in lines(tmp_path / "m.jsonl") if not row["error"]]
        assert all(row["steps"][0]["regions"][0]["depth_true"] is not None for row in told)
        # c.picture is b.jpg again; a map is kept for each content.
        assert len(list((tmp_path / "m.depth").rglob("*.png"))) == len({(album / row["id"]).read_bytes() for row in told})
        monkeypatch.setattr("sifthinker.engine.estimators.ModelDepth._predict", None)
        assert sif(*words).exit_code == 3  # what is there is not estimated again

    def test_an_interrupted_folder_goes_on(self, album: Path, tmp_path: Path) -> None:
        """The server goes away after two answers; the journal keeps them, and no half file is there."""
        (album / "d.jpg").unlink()
        down = threading.Event()

        def answer(request: dict[str, Any], number: int) -> Any:
            if number >= 2 and not down.is_set():
                return 401, {}, json.dumps({"error": {"message": "no key"}})
            return DEEP if shown(request) == 2 else CHAIN

        output = tmp_path / "out.jsonl"
        with serve(answer) as (url, requests):
            words = ["think", album, "What?", "--base-url", url, "--model", "v", "--retries", 0, "--concurrency", 1]
            result = sif(*words, "-o", output)
            assert (result.exit_code, output.exists()) == (2, False)
            down.set()
            result = sif(*words, "-o", output)
        assert (result.exit_code, len(requests)) == (0, 5)  # two answers, one refused, the two that were left
        assert [row["answer"] for row in lines(output)] == ["cat"] * 4
        assert not Path(f"{evaluation_path(output)}.journal.jsonl").exists()

    def test_nothing_of_others_is_written_over(self, album: Path, served, tmp_path: Path) -> None:
        options, requests = served
        for name, content in (("mine.jsonl", '{"id": "1"}\n'), ("page.html", "<p>mine</p>"), ("e.eval.json", "{}")):
            (tmp_path / name).write_text(content)
            output = (tmp_path / name.partition(".")[0]).with_suffix(".jsonl")
            result = sif("think", album, "What?", *options, "-o", output)
            assert (result.exit_code, (tmp_path / name).read_text()) == (2, content), name
        assert requests == []

    def test_a_local_model_answers_in_batches_as_alone(self, album: Path, tiny_vlm: Path, tmp_path: Path) -> None:
        output = tmp_path / "out.jsonl"
        options = ["--model", tiny_vlm, "--max-new-tokens", 4, "--depth", "none"]
        result = sif("think", album, "What?", *options, "-o", output, "--limit", 2)
        assert result.exit_code == 0, result.output
        assert "2 of 2 thoughts have problems; the first, 'a.png': " in result.stderr
        assert "replies that reached the token limit: 2; increase --max-new-tokens" in result.stderr
        for row in lines(output):
            alone = json.loads(sif("think", album / row["id"], "What?", *options, "--json").stdout)
            same = ("question", "answer", "steps", "problems", "complete", "text", "tokens", "protocol")
            assert {name: row[name] for name in same} == {name: alone[name] for name in same}


class TestFile:
    def test_questions_with_and_without_answers(self, photo_folder: Path, served, tmp_path: Path) -> None:
        rows = [
            {"id": "x", "image": "cat.png", "question": "What?"},
            {"id": "y", "image": "cat.png", "question": "Which?", "answer": "dog", "choices": ["cat", "dog"]},
        ]
        options, requests = served
        file = write_rows(photo_folder / "q.jsonl", rows)
        result = sif("think", file, *options, "-o", tmp_path / "t.jsonl", "--show-choices", "--concurrency", 1)
        assert result.exit_code == 0, result.output
        first, second = lines(tmp_path / "t.jsonl")
        assert (first["truth"]["verdict"], second["truth"]["verdict"]["score"]) == (None, 0)
        assert [shown(request) for request in requests] == [2, 2]  # the depth beside the image
        assert "(B) dog" in requests[1]["messages"][-1]["content"][-1]["text"]
        assert result.stdout.splitlines() == [str(tmp_path / name) for name in ("t.jsonl", "t.eval.json", "t.html")]

    def test_a_dataset_folder(self, chains: Path, served, tmp_path: Path) -> None:
        options, _ = served
        result = sif("think", chains, *options, "-o", tmp_path / "t.jsonl", "--limit", 3, "--direct")
        assert (result.exit_code, len(lines(tmp_path / "t.jsonl"))) == (0, 3), result.output

    def test_as_many_at_once_as_allowed(self, photo_folder: Path, tmp_path: Path) -> None:
        """The first goes alone, by which the server is known; of the twelve others three wait for each other, never more."""
        rows = [{"id": str(n), "image": "cat.png", "question": f"What, {n}?"} for n in range(13)]
        together = threading.Barrier(3)
        now, most, lock = 0, 0, threading.Lock()

        def answer(request: dict[str, Any], number: int) -> str:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            if number:
                together.wait(20)
            with lock:
                now -= 1
            return DEEP

        with serve(answer) as (url, _):
            file = write_rows(photo_folder / "q.jsonl", rows)
            options = ["--base-url", url, "--model", "v", "--concurrency", 3, "--retries", 0]
            result = sif("think", file, *options, "-o", tmp_path / "t.jsonl")
        assert (result.exit_code, most) == (0, 3), result.output
        assert [row["id"] for row in lines(tmp_path / "t.jsonl")] == [str(n) for n in range(13)]


class TestExport:
    @pytest.fixture
    def asked(self, album: Path, served, tmp_path: Path) -> Path:
        options, _ = served
        (album / "d.jpg").unlink()
        assert sif("think", album, "What?", *options, "-o", tmp_path / "out.jsonl").exit_code == 0
        return tmp_path / "out.eval.json"

    def test_json_lines_are_those_of_think(self, asked: Path, tmp_path: Path) -> None:
        result = sif("eval", "export", asked, "--to", "jsonl", "-o", tmp_path / "again.jsonl")
        assert result.exit_code == 0, result.output
        assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()

    def test_coco_and_label_studio(self, asked: Path, tmp_path: Path) -> None:
        assert sif("eval", "export", asked, "--to", "coco", "-o", tmp_path / "c.json").exit_code == 0
        found = json.loads((tmp_path / "c.json").read_text())
        assert [image["file_name"] for image in found["images"]] == ["a.png", "b.jpg", "c.picture", "lone.depth.png"]
        assert {tuple(item["bbox"]) for item in found["annotations"]} == {(4, 4, 20, 12)}
        words = ["eval", "export", asked, "--to", "label-studio", "-o", tmp_path / "t.json", "--prefix", "http://here/"]
        result = sif(*words)
        assert result.stdout.splitlines() == [str(tmp_path / "t.xml"), str(tmp_path / "t.json")]
        tasks = json.loads((tmp_path / "t.json").read_text())
        assert tasks[0]["data"]["image"] == "http://here/a.png"
        assert tasks[0]["predictions"][0]["model_version"] == "vlm"

    def test_images_that_are_elsewhere(self, asked: Path, album: Path, tmp_path: Path) -> None:
        album.rename(tmp_path / "moved")
        words = ["eval", "export", asked, "--to", "coco", "-o", tmp_path / "c.json"]
        result = sif(*words)
        assert (result.exit_code, "4 of 4 thoughts" in result.stderr) == (3, True)
        assert "Set --images to the folder" in result.stderr
        assert len(json.loads((tmp_path / "c.json").read_text())["thoughts"]) == 4
        assert sif(*words, "--images", tmp_path / "moved").exit_code == 0

    def test_misuse(self, asked: Path, tmp_path: Path) -> None:
        for words, said in (
            (["--to", "coco", "-o", asked], "is an input and would be overwritten"),
            (["--to", "coco", "-o", tmp_path / "x.json", "--prefix", "x"], "--prefix applies only to --to label-studio"),
        ):
            result = sif("eval", "export", asked, *words)
            assert (result.exit_code, said in result.stderr) == (2, True)
        thoughts = tmp_path / "out.jsonl"
        for content in (thoughts.read_text(), thoughts.read_text().splitlines()[0]):  # JSON lines; and one, which is JSON
            thoughts.write_text(content)
            result = sif("eval", "export", thoughts, "--to", "coco", "-o", tmp_path / "x.json")
            assert (result.exit_code, f"use {asked}" in result.stderr) == (2, True)
        asked.unlink()
        thoughts.write_text("{}\n{}\n")
        result = sif("eval", "export", thoughts, "--to", "coco", "-o", tmp_path / "x.json")
        assert (result.exit_code, "not JSON, expected an evaluation file; see `sif eval`" in result.stderr) == (2, True)


class TestPython:
    def test_a_folder_without_images_says_what_it_holds(self, tmp_path: Path) -> None:
        (tmp_path / "more").mkdir()
        with pytest.raises(RecordError, match=r"contains no images\. Subfolders, such as more, are skipped"):
            questions_about(tmp_path, "What?")
        with pytest.raises(RecordError, match="cannot read"):
            questions_about(tmp_path / "nowhere", "What?")

    def test_depth_that_a_question_names_comes_first(self, album: Path) -> None:
        (question,) = [q for q in questions_about(album, "What?").questions if q.id == "a.png"]
        named = replace(question, depth=album / "lone.depth.png")
        for source in (None, "given"):
            beside, kept = with_depth([question, named], source, album / "cache")
            assert (beside.depth, kept.depth) == (album / "a.depth.png", album / "lone.depth.png")
        assert [found.depth for found in with_depth([question, named], "none", album / "cache")] == [None, None]

    def test_thoughts_are_written_over_thoughts_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "x.jsonl"
        refuse_foreign_thoughts(file)
        for content in ('{"format": 1}\n', "[]\n", "text\n"):
            file.write_text(content)
            with pytest.raises(ConfigError, match="not a file of thoughts"):
                refuse_foreign_thoughts(file)
        for content in ("", '{"format": 1, "steps": []}\n'):
            file.write_text(content)
            refuse_foreign_thoughts(file)

    def test_in_a_notebook(self, album: Path, served, tmp_path: Path) -> None:
        (_, url, *_), _ = served
        settings = ThinkSettings(model="vlm", base_url=url, depth="none")
        asked = questions_about(album, "What?").questions[:2]
        found, gone = think_many(settings, asked, tmp_path / "t.jsonl", data=album)
        assert ([row.answer for row in found.rows], gone) == (["cat", "cat"], {})


def test_a_trial_of_the_first_questions_of_a_server_goes_on(photo_folder: Path, tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "image": "cat.png", "question": f"What is {n}?"} for n in range(4)]
    data, output = photo_folder / "many.jsonl", tmp_path / "t.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serve(lambda request, number: "cat") as (url, requests):
        words = ["think", data, "--base-url", url, "--model", "vlm", "--direct", "-o", output]
        assert sif(*words, "--limit", 2).exit_code == 0
        assert sif(*words).exit_code == 0
    assert len(requests) == 4
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == ["q0", "q1", "q2", "q3"]
