"""Images kept out of a dataset: lists as other tools print them, folders, and what a user is told about lines."""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from pathlib import Path
from typing import BinaryIO

import pytest
from click.testing import CliRunner
from PIL import Image

from sifthinker.cli.main import main
from sifthinker.engine import exclusion
from sifthinker.engine.exclusion import Excluded
from sifthinker.errors import ConfigError, RecordError, SIFError
from sifthinker.files import sha256, write_jsonl

from ..stand_in import serve, thoughts

HASH = "5e6def3f8561ac9d309576efd8d4d418f751dc31d254604271afc3096a129de01"[:64]
OTHER = "0" * 63 + "a"


def listed(folder: Path, text: str | bytes, *, root: str = "photos") -> Excluded:
    path = folder / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Excluded([path], folder / root)


NAMES = {
    "plain": "bench/b.png",
    "bare": "b.png",
    "find": "./bench/b.png",
    "find from above": "./photos/bench/b.png",
    "find -print0": "bench/a.png\0bench/b.png\0",
    "windows": r".\bench\b.png",
    "a drive": r"C:\data\bench\b.png",
    "a share": r"\\server\data\bench\b.png",
    "line ends": "x.png\r\nbench/b.png\r\ny.png\r\n",
    "old line ends": "x.png\rbench/b.png\r",
    "blanks": "  bench/b.png\t",
    "double quotes": '"bench/b.png"',
    "single quotes": "'bench/b.png'",
    "a list in Python or JSON, line by line": '[\n  "x.png",\n  "bench/b.png"\n]',
    "a JSON list": '["x.png", "bench/b.png"]',
    "JSON lines": '"x.png"\n"bench\\\\b.png"\n',
    "a slash at the end": "bench/b.png/",
    "a slash at the beginning": "/bench/b.png",
    "an absolute path of another machine": "/data/photos/bench/b.png",
    "an absolute path, another folder above": "/data/val/bench/b.png",
    "a longer path": "coco/images/bench/b.png",
    "home": "~/photos/bench/b.png",
    "an address": "https://example.org/photos/bench/b.png",
    "a file's address": "file:///data/bench/b.png",
    "steps": "bench/../bench//./b.png",
    "a folder": "bench/",
    "a folder from above": "photos/bench/",
    "UTF-8 with a mark": "\ufeffbench/b.png".encode(),
    "UTF-16 with a mark": "bench/b.png\r\n".encode("utf-16"),
    "UTF-16 without": "bench/b.png\r\n".encode("utf-16-le"),
    "UTF-16, big end first": "\ufeffbench/b.png".encode("utf-16-be"),
    "comments": "# bench\n\nbench/b.png\n",
}


@pytest.mark.parametrize("text", NAMES.values(), ids=NAMES)
def test_names_as_tools_print_them(tmp_path: Path, text: str | bytes) -> None:
    excluded = listed(tmp_path, text)
    for written in ("bench/b.png", r"bench\b.png"):
        assert excluded.find(written) is not None
    for other in ("bench/ab.png", "bench/b.jpg", "b/bench.png", "a.png"):
        assert excluded.find(other) is None or text in ("bench/", "photos/bench/")
    assert excluded.find("other/a.png") is None


@pytest.mark.parametrize(
    ("text", "image"),
    [
        ("bench/b.png", "other/b.png"),
        ("bench/b.png", "workbench/b.png"),
        ("bench/b.png", "b.png"),  # the list says which folder's
        ("photos/bench/b.png", "other/b.png"),
        ("b.png", "b.png/c.png"),
        ("Bench/B.PNG", "bench/b.png"),
        ("bench", "bench/b.png"),  # `find` prints folders too, without a slash
        ("photos/", "bench/b.png"),  # the image folder itself
        (".", "bench/b.png"),
    ],
)
def test_what_a_name_does_not_mean(tmp_path: Path, text: str, image: str) -> None:
    assert listed(tmp_path, text).find(image) is None


def test_the_path_as_its_source_writes_it_counts(tmp_path: Path) -> None:
    """The recipe keeps the source's images in a folder of another name than whoever made the list."""
    excluded = listed(tmp_path, "coco/val2014/b.png\n/data/c.png")
    assert excluded.find("pictures/val2014/b.png") is None
    assert excluded.find("pictures/val2014/b.png", "val2014/b.png") is not None
    assert excluded.find("pictures/val2014/b.png", r".\val2014\b.png") is not None
    assert excluded.find("pictures/c.png", "c.png") is None


def test_an_absolute_path_in_the_image_folder_names_that_image_alone(tmp_path: Path) -> None:
    excluded = listed(tmp_path, f"{tmp_path}/photos/bench/b.png\n/elsewhere/c.png")
    assert excluded.find("bench/b.png") is not None
    assert excluded.find("b.png") is None
    assert excluded.find("c.png") is not None  # what is known of another machine's path is its tail
    assert excluded.find("x/c.png") is None


@pytest.mark.parametrize(
    ("text", "image"),
    [
        (unicodedata.normalize("NFC", "café.png"), unicodedata.normalize("NFD", "café.png")),
        (unicodedata.normalize("NFD", "café.png"), unicodedata.normalize("NFC", "café.png")),
        (r'"bench/caf\303\251.png"', "bench/café.png"),  # git ls-files
        (r'["caf\u00e9.png"]', "café.png"),
        (r"a\ b.png", "a b.png"),  # ls -b
        (r"'it'\''s.png'", "it's.png"),
        ("https://example.org/a%20b.png", "a b.png"),
        ("a\u2028b.png", "a\u2028b.png"),
        ("[1].png", "[1].png"),
        (f"{HASH}.png", f"{HASH}.png"),
        (f"x/{HASH}", f"x/{HASH}"),
        (f"./{OTHER[:40]}", OTHER[:40]),
        ("000000000000000000000123", "000000000000000000000123"),
    ],
)
def test_names_that_need_care(tmp_path: Path, text: str, image: str) -> None:
    excluded = listed(tmp_path, text)
    assert excluded.find(image) is not None
    assert excluded.hashes == frozenset()


HASHES = {
    "alone": HASH,
    "upper case": HASH.upper(),
    "sha256sum": f"{HASH}  bench/b.png",
    "sha256sum, binary": f"{HASH} *bench/b.png",
    "sha256sum, an escaped name": rf"\{HASH}  bench/b\nc.png",
    "BSD": f"SHA256 (bench/b.png) = {HASH}",
    "openssl": f"SHA2-256(bench/b.png)= {HASH}",
    "certutil": f"SHA256 hash of b.png:\r\n{HASH}\r\nCertUtil: -hashfile command completed successfully.\r\n",
    "an older certutil": " ".join(HASH[n : n + 2] for n in range(0, 64, 2)),
    "Get-FileHash": (
        f"\nAlgorithm       Hash{' ' * 67}Path\n---------       ----{' ' * 67}----\n"
        f"SHA256          {HASH.upper()}       C:\\b.png\n"
    ),
    "Get-FileHash | Format-List": f"\nAlgorithm : SHA256\nHash      : {HASH.upper()}\nPath      : C:\\bench\\b.png\n",
    "Get-FileHash | Export-Csv": f'"Algorithm","Hash","Path"\n"SHA256","{HASH.upper()}","C:\\b.png"',
    "a digest": f"sha256:{HASH}",
    "a name first": f"bench/b.png,{HASH}",
    "JSON": json.dumps([HASH]),
    "UTF-8 with a mark": f"\ufeff{HASH}\n".encode(),
    "UTF-16": f"{HASH}\r\n".encode("utf-16"),
}


@pytest.mark.parametrize("text", HASHES.values(), ids=HASHES)
def test_hashes_as_tools_print_them(tmp_path: Path, text: str | bytes) -> None:
    """The content alone counts: another image of the same name beside the hash may be used."""
    excluded = listed(tmp_path, text)
    assert excluded.hashes == {HASH}
    assert excluded.names == frozenset()
    assert excluded.find("bench/b.png") is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (HASH[:32], r"expected a SHA-256 hash .*, 32 hex digits \(MD5\)"),
        (HASH[:40], r"40 hex digits \(SHA-1\)"),
        (HASH * 2, r"128 hex digits \(SHA-512\)"),
        (HASH[:63], "63 hex digits"),
        (HASH[:57] + "...", "57 hex digits"),
        (f"{HASH[:32]}  bench/b.png", "MD5"),
        (f"MD5 (bench/b.png) = {HASH[:32]}", "MD5"),
        (f"SHA1          {HASH[:40].upper()}     C:\\b.png", "SHA-1"),
        (f"Hash      : {HASH[:32]}", "MD5"),
        (f'"MD5","{HASH[:32]}","C:\\b.png"', "MD5"),
        ('{"image": "b.png"}', "per line, got other JSON"),
    ],
)
def test_a_line_that_is_neither_is_an_error_with_its_number(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"list\.txt:3: .*{words}"):
        listed(tmp_path, f"# two good lines\na.png\n{line}\n")


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.txt: cannot read"):
        Excluded([tmp_path / "none.txt"], tmp_path)
    with pytest.raises(RecordError, match=r"list\.txt:2: not UTF-8 or UTF-16 text"):
        listed(tmp_path, "a.png\ncafé.png\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="item 2 must be a name or a SHA-256 hash, got 5"):
        listed(tmp_path, '["a.png", 5]')


def test_a_folder_excludes_its_images_by_content_and_reads_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bench" / "deep").mkdir(parents=True)
    image = tmp_path / "bench" / "deep" / "no-ending"
    Image.new("RGB", (4, 4), "red").save(image, "PNG")
    cut = tmp_path / "bench" / "cut.png"
    cut.write_bytes(image.read_bytes()[:60])
    (tmp_path / "bench" / "weights.bin").write_bytes(b"\0" * 100)
    hashed = []

    def counting(stream: BinaryIO, name: str) -> object:
        hashed.append(stream.name)
        return hashlib.new(name, stream.read())

    monkeypatch.setattr(exclusion.hashlib, "file_digest", counting)
    excluded = Excluded([tmp_path / "bench"], tmp_path)
    assert excluded.hashes == {sha256(image.read_bytes()), sha256(cut.read_bytes())}
    assert len(hashed) == 2
    (tmp_path / "empty").mkdir()
    assert Excluded([tmp_path / "empty"], tmp_path).warnings([]) == [
        f"exclude folder {tmp_path / 'empty'} contains no image"
    ]


def test_lines_that_matched_nothing_are_told(tmp_path: Path) -> None:
    excluded = listed(tmp_path, f"# four lines count\nb.png\nfoo.png\n{HASH.upper()}\n{OTHER}  c.png\n")
    excluded.find("bench/b.png")
    excluded.find("bench/c.png")
    rejects = [
        {"code": "excluded", "reason": f"r:1: the content of c.png is excluded, SHA-256 {HASH}"},
        {"code": "missing_image", "reason": f"r:1: no such image, SHA-256 {OTHER}"},
    ]
    assert excluded.warnings(rejects) == [
        f"exclude list {tmp_path / 'list.txt'}: 2 of 4 lines match no image: line 3 'foo.png', line 5 '{OTHER}  c.png'"
    ]
    excluded.find("foo.png")
    rejects[1]["code"] = "excluded"
    assert excluded.warnings(rejects) == []


def test_a_lookup_does_not_go_through_the_list(tmp_path: Path) -> None:
    """Neither names nor tails are compared one by one: what a lookup touches does not grow with the list."""

    class Counting(dict):  # type: ignore[type-arg]
        def get(self, *arguments: object) -> object:
            touched.append(1)
            return super().get(*arguments)

        def __iter__(self) -> object:
            raise AssertionError("the names were gone through")

        items = keys = values = __iter__

    counts = []
    for size in (50, 5000):
        excluded = listed(tmp_path, "".join(f"/data/bench/{n}.png\nval/{n}.jpg\n" for n in range(size)))
        excluded.find("bench/none.png")  # the tails of two components are looked up from here on
        touched: list[int] = []
        excluded._named = Counting(excluded._named)
        excluded._tails = {count: Counting(tails) for count, tails in excluded._tails.items()}
        assert excluded.find("bench/7.png") is not None
        assert excluded.find("bench/none.png") is None
        counts.append(len(touched))
    assert counts[0] == counts[1] > 0


def test_a_build_reports_what_a_list_left_over(tmp_path: Path) -> None:
    """Three records; one is excluded by name, one by content, one stays. Two lines match nothing, one of them a hash."""
    (tmp_path / "photos" / "bench").mkdir(parents=True)
    names = ("a.png", "bench/b.png", "bench/c.png")
    for number, name in enumerate(names):
        Image.new("RGB", (8, 8), (number * 90, 0, 0)).save(tmp_path / "photos" / name)
    content = sha256((tmp_path / "photos" / "bench" / "c.png").read_bytes())
    box = [[0.1, 0.1, 0.5, 0.5]]
    rows = [{"id": n, "image": n, "question": f"What is {n}?", "answer": "x", "boxes": box} for n in names]
    write_jsonl(tmp_path / "r.jsonl", rows)
    (tmp_path / "list.txt").write_text(f".\\bench\\b.png\r\n{content.upper()} *c.png\r\nfoo.png\r\n{OTHER}\r\n", newline="")
    command = [
        "data", "build", tmp_path / "r.jsonl", "--images", tmp_path / "photos", "-o", tmp_path / "out", "--depth", "none",
        "--model", "m", "--retries", "0", "--exclude", tmp_path / "list.txt",
    ]  # fmt: skip
    with serve(lambda request, number: thoughts(request, "x")) as (url, _):
        result = CliRunner().invoke(main, [str(word) for word in (*command, "--base-url", url)])
    rejects = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert "1 accepted" in result.stderr
    assert [(row["id"], row["code"]) for row in rejects] == [("bench/b.png", "excluded"), ("bench/c.png", "excluded")]
    assert "list.txt:1" in rejects[0]["reason"]
    assert "2 of 4 lines match no image: line 3 'foo.png', line " in result.stderr
    listed = tmp_path / "list.txt"
    unmatched = (tmp_path / "out" / "exclude_unmatched.txt").read_text()
    assert unmatched == f"{listed}:3\tfoo.png\n{listed}:4\t{OTHER}\n"
    assert "all lines that matched no image: " in result.stderr
    (tmp_path / "list.txt").write_text(content[:40] + "\n")
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert result.exit_code == 2
    assert "list.txt:1: " in result.stderr
    assert "expected a SHA-256 hash" in result.stderr


POOL = (
    "x.png", "./photos/y.png", r"C:\data\z.png", f"{HASH}  bench/c.png", f"{HASH} *c.png", f"SHA256 (c.png) = {HASH}", HASH,
    f"\\{HASH}  a\\nb.png", "# a comment", "", "   ", '["x.png"]', '"quoted.png"', "https://example.org/a.png", "folder/",
    "d41d8cd98f00b204e9800998ecf8427e", "sha1sum 0beec7b5ea3f0fdbc95d0d47f8c5e2b5a3cc1e2b", "Algorithm : SHA256", "....",
    "~/q.png", "caf\u00e9/e\u0301.png", "..", "/", "\\", '"', "\u202e.png",
)  # fmt: skip


def check_mutations(folder: Path, count: int, seed: int) -> None:
    """Whatever stands in a list, it is read or refused in our words, and a whole line with a name is never lost."""
    draw = random.Random(seed)
    read, refusals = 0, set()
    for _ in range(count):
        lines = draw.choices(POOL, k=draw.randint(0, 6))
        for _ in range(draw.randint(0, 3)):
            if lines:
                where = draw.randrange(len(lines))
                text = lines[where]
                at = draw.randint(0, len(text))
                other = draw.choice(POOL), chr(draw.randint(32, 0x2FFF)), text[::-1], text * draw.randint(2, 9)
                change = draw.choice(["", *other])
                lines[where] = text[:at] + change + text[at + draw.randint(0, 3) :]
        lines.insert(draw.randint(0, len(lines)), "bench/b.png")
        data = draw.choice(["\n", "\r\n"]).join(lines).encode(draw.choice(["utf-8", "utf-8-sig", "utf-16"]))
        torn = draw.random() < 0.3
        if torn:  # bytes that no text has, or half a file
            at = draw.randint(0, len(data))
            data = data[:at] + bytes(draw.choices(range(256), k=3)) + data[at:] if draw.random() < 0.5 else data[:at]
        try:
            found = listed(folder, data)
        except SIFError as error:
            refusals.add(str(error))
            continue
        assert torn or found.find("bench/b.png"), data
        found.find("a\\b/../c.png", written="\u0301")
        assert all("list.txt" in warning for warning in found.warnings([]))
        read += 1
    assert read > count / 4, "most lists can be read"
    assert all("list.txt" in refusal for refusal in refusals)


def test_mutated_lists(tmp_path: Path) -> None:
    check_mutations(tmp_path, 1500, 0)


@pytest.mark.slow
def test_many_mutated_lists(tmp_path: Path) -> None:
    check_mutations(tmp_path, 25_000, 1)


def test_every_line_that_matched_nothing_has_its_number(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(1, 21)]
    excluded = listed(tmp_path, "\n".join(names))
    for n in (1, 6, 8, 9, 20):  # 2 to 5, 7 and 10 to 19 are left
        excluded.find(f"{n}.png")
    (warning,) = excluded.warnings([])
    assert warning.endswith(
        "15 of 20 lines match no image: line 2 '2.png', line 3 '3.png', line 4 '4.png'; also lines 5, 7, 10–19"
    )
    assert [line.number for line in excluded.unmatched()] == [2, 3, 4, 5, 7, *range(10, 20)]


def test_many_numbers_keep_the_warning_short(tmp_path: Path) -> None:
    excluded = listed(tmp_path, "\n".join(f"{n}.png" for n in range(1, 10_001)))
    for n in range(2, 10_001, 2):
        excluded.find(f"{n}.png")
    (warning,) = excluded.warnings([])
    assert "also lines 7, 9, 11, 13" in warning
    assert warning.endswith(" more")
    assert len(warning) < 700


@pytest.mark.parametrize("text", ["", "\n \n", "# nothing yet\n", "[]"])
def test_a_list_without_a_name_is_told(tmp_path: Path, text: str) -> None:
    assert listed(tmp_path, text).warnings([]) == [
        f"exclude list {tmp_path / 'list.txt'} contains neither a name nor a hash"
    ]


@pytest.mark.parametrize(("line", "name"), [("#12.png", "#12.png"), ("#a b.JPG", "#a b.JPG"), ("##.webp", "##.webp")])
def test_a_name_may_begin_with_the_sign_of_comments(tmp_path: Path, line: str, name: str) -> None:
    excluded = listed(tmp_path, f"{line}\n")
    assert excluded.find(f"bench/{name}") is not None


@pytest.mark.parametrize("line", ["# 12.png", "#", "## a.png", "#TODO: more of them", "#\ta.png", "#bench/"])
def test_comments(tmp_path: Path, line: str) -> None:
    assert listed(tmp_path, f"{line}\na.png\n").names == {"a.png"}
