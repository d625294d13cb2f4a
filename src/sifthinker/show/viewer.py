"""Pages to browse a dataset: a folder that any browser opens from disk, without a server or the internet.

index.html   the page and its style
show.js      its script
index.js     data for the filters: one short row per example or reject
part-N.js    `PER_PART` complete examples or rejects, loaded when one of them is shown
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sifthinker.chain import Region, read_completion
from sifthinker.errors import ConfigError, RecordError
from sifthinker.files import atomic_write, make_folder, read_jsonl, to_json
from sifthinker.images import data_url, load_image
from sifthinker.records import examples_file, read_examples, without_place
from sifthinker.show.report import render_page

PER_PART = 200
_EMBEDDED_SIDE = 512
# Start and end of the files of our pages, in this and earlier versions. Other files may quote parts of them.
_MARKS = {
    "index.html": re.compile(
        rb'<!doctype html>\s*<html lang="en">.*'
        rb'<script src="show\.js"></script>\s*<script src="index\.js"></script>\s*</body>\s*</html>\s*\Z',
        re.DOTALL,
    ),
    "index.js": re.compile(rb'sif\.index\(\{"title":'),
    "show.js": re.compile(rb'"use strict";\s*(?://[^\n]*\n\s*)*const sif = \('),
}
_PART = re.compile(r"part-[0-9]+\.js")
_PART_MARK = re.compile(rb"sif\.part\([0-9]+,")
_BYTES = 1 << 16
_SEARCHED = 160  # characters of a question in the list and the search


def write_viewer(
    dataset: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    embed: bool = False,
    progress: Callable[[int], None] | None = None,
) -> tuple[int, int]:
    """Write the pages of a dataset.

    Args:
        dataset: dataset folder or examples file.
        out: folder to write; earlier pages in it are replaced. Without `embed`, the pages find the images only while this
            folder and the dataset stay in the same relative place.
        embed: store the images in the pages, at most 512 pixels wide and high. The folder can then be moved or sent.
        progress: called with the number of finished examples and rejects.
    Returns:
        Number of examples and number of rejects.
    Raises:
        ConfigError: the folder contains another file where a page would be written; nothing is written or deleted.
        RecordError: there is no dataset, or a line is not an example. `sif data check` lists all such lines.
        ImageError: an image cannot be read (only with `embed`).
        SIFError: the folder cannot be written.
    """
    where = examples_file(dataset)
    _refuse_foreign(Path(out))
    folder = make_folder(out)
    for old in _parts(folder):
        old.unlink()
    rows: list[list[Any]] = []
    entries = itertools.chain(_examples(where, folder, embed), _rejects(where.parent / "rejects.jsonl"))
    for number in itertools.count():
        part = list(itertools.islice(entries, PER_PART))
        if not part:
            break
        for item in part:
            question = item["question"][:_SEARCHED]
            rows.append([item["code"], item["dataset"], item["family"], len(item["steps"]), question])
        if progress:
            progress(len(rows))
        atomic_write(folder / f"part-{number}.js", f"sif.part({number}, {_script_json(part)});\n")
    index = {"title": where.parent.name, "perPart": PER_PART, "rows": rows}
    atomic_write(folder / "index.js", f"sif.index({_script_json(index)});\n")
    atomic_write(folder / "show.js", (files("sifthinker.show") / "templates" / "show.js").read_text(encoding="utf-8"))
    atomic_write(folder / "index.html", render_page("show.html", title=where.parent.name))
    rejects = sum(bool(row[0]) for row in rows)
    return len(rows) - rejects, rejects


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("part-*.js") if _PART.fullmatch(path.name))


def _refuse_foreign(folder: Path) -> None:
    """Refuse a folder with third-party files that would be overwritten or deleted."""
    for path, mark in [
        *((folder / name, mark) for name, mark in _MARKS.items()),
        *((p, _PART_MARK) for p in _parts(folder)),
    ]:
        try:
            with open(path, "rb") as stream:
                ours = mark.match(stream.read(_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{path}: cannot read: {error.strerror}; choose another folder") from None
        if not ours:
            raise ConfigError(f"{path}: would be overwritten, but is not a file of `sif data show`; choose another folder")


def _examples(where: Path, out: Path, embed: bool) -> Iterator[dict[str, Any]]:
    for example in read_examples(where):
        steps = read_completion(example.chain, with_depth=example.depth is not None, frame=example.frame).steps
        yield {
            "code": "",
            "id": example.id,
            "dataset": example.dataset,
            "family": example.family,
            "question": example.problem,
            "answer": example.answer,
            "choices": list(example.choices),
            "targets": [list(box) for box in example.boxes],
            "images": [_shown(image, out, embed) for image in example.images],
            "steps": [_step(regions, words) for regions, words in steps],
            "chain": example.chain,
            "facts": {
                "split": example.split,
                **{key: str(value) for key, value in example.frame.columns().items()},
                **{key: str(value) for key, value in example.provenance.items() if value not in ("", None)},
            },
        }


def _step(regions: tuple[Region, ...], words: str) -> dict[str, Any]:
    return {"words": words, "regions": [{"box": list(region.box), "depth": region.depth} for region in regions]}


def _rejects(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    for number, row in read_jsonl(path):
        try:
            entry = {
                "code": str(row["code"]),
                "id": str(row["id"]),
                "question": str(row["id"] or row["source"]),
                "reason": without_place(str(row["reason"]), str(row["source"])),
                "attempts": [
                    {"reply": str(attempt["reply"]), "problems": [str(problem) for problem in attempt["problems"]]}
                    for attempt in row.get("attempts") or []
                ],
                "facts": {"source": str(row["source"])},
            }
        except (KeyError, TypeError):
            raise RecordError(
                f"{path}:{number}: not a reject written by `sif data build`; remove the line, or build the dataset again"
            ) from None
        yield {"dataset": "", "family": "", "steps": [], **entry}


def _shown(image: str, out: Path, embed: bool) -> str:
    return data_url(load_image(image), max_side=_EMBEDDED_SIDE) if embed else _address(image, out)


def _address(image: str, out: Path) -> str:
    """Return the image's address relative to the page."""
    try:
        relative = os.path.relpath(Path(image).resolve(), out.resolve())
    except ValueError:  # another drive, on Windows
        return Path(image).resolve().as_uri()
    return quote(relative.replace(os.sep, "/"))


def _script_json(value: Any) -> str:
    """Return JSON that is safe inside a script: it contains no tags, and no line separators of old browsers."""
    text = to_json(value).replace("<", "\\u003c")
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
