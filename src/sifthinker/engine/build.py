"""Records → Examples: depth, focus path, teacher's words, checked chain; journalled, resumable, in the source's order.

A dataset folder holds

    examples.jsonl   the samples, in the order of their records
    rejects.jsonl    what was left out, each with its reason and every attempt
    manifest.json    versions, settings, input hashes, counts
    images/          RGB images, named by content
    depth/           exact depth maps (our 16-bit PNG), for rewards
    depth_view/      the same as 8-bit grey, the second image that models see
    journal.jsonl    while the build runs: finished records in the order in which they finished
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from sifthinker import __version__
from sifthinker.chain import Chain, Region, Step, check_chain, render_chain
from sifthinker.depth import LEAST_DEPTH
from sifthinker.engine.estimators import DepthSource
from sifthinker.engine.expansion import Expansion, FocusPath, expand
from sifthinker.engine.teachers import Task, Teacher, explain
from sifthinker.errors import ChainError, ConfigError, DepthError, ImageError, RecordError
from sifthinker.files import atomic_write, inside, make_folder, sha256, to_json
from sifthinker.images import is_upright_rgb, load_image
from sifthinker.prompts import PROMPT_VERSION, user_prompt
from sifthinker.records import Example, Record, Reject

_JOURNAL = "journal.jsonl"

# Records whose teacher could not be reached are tried again when the build is repeated; every other reject is final.
_OUTAGE = "teacher_endpoint"

Progress = Callable[["Counts"], None]


@dataclass(slots=True)
class Counts:
    """How far a build is: records accepted, clipped on the way, and rejected by reason code."""

    accepted: int = 0
    clipped: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        return self.accepted + self.rejected.total()

    def to_json(self) -> dict[str, Any]:
        return {"accepted": self.accepted, "clipped": self.clipped, "rejected": dict(sorted(self.rejected.items()))}


@dataclass(frozen=True, slots=True)
class Engine:
    """Turns records into examples.

    Args:
        root: image root.
        depth: where depth comes from.
        teacher: who explains the focus paths; one that is an asynchronous context manager is entered for the build.
        expansion: settings of the reverse expansion; its decimals are also the chain's.
        seed: of the focus paths.
        concurrency: records under way at once.
        exclude: SHA-256 hashes of image files that must not be used.
    """

    root: Path
    depth: DepthSource
    teacher: Teacher
    expansion: Expansion = field(default_factory=Expansion)
    seed: int = 0
    concurrency: int = 8
    exclude: frozenset[str] = frozenset()

    def build(
        self,
        items: Callable[[], Iterator[Record | Reject]],
        out: Path,
        *,
        inputs: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        fresh: bool = False,
        progress: Progress | None = None,
    ) -> Counts:
        """Build a dataset folder, or go on with one that was interrupted.

        Args:
            items: opens the source; called once.
            out: dataset folder.
            inputs: name → sha256 of the source files, for the manifest.
            options: further settings that shape the result, for the manifest and for the check on resuming.
            fresh: throw away what the folder holds instead of going on.
            progress: called after every record.
        Raises:
            ConfigError: the folder holds a build with other settings and `fresh` is False, or it is the image folder.
            SIFError: the folder cannot be written.
        """
        recipe = {
            "sifthinker": __version__,
            "prompt_version": PROMPT_VERSION,
            "images": str(self.root),
            "seed": self.seed,
            "expansion": asdict(self.expansion),
            "depth": self.depth.name,
            "teacher": self.teacher.name,
            "inputs": dict(inputs or {}),
            **(options or {}),
        }
        if out.resolve() == self.root.resolve():
            raise ConfigError(f"{out} is the image folder; a dataset needs a folder of its own")
        make_folder(out)
        if fresh:
            _clear(out)
        finished = _finished(out, recipe)
        if finished is not None:
            if progress:
                progress(finished)
            return finished
        with _Journal(out / _JOURNAL, recipe) as journal:
            if progress:
                progress(journal.counts)
            asyncio.run(self._run(items(), out, journal, progress))
            journal.write_out(out)
        manifest = {**recipe, "counts": journal.counts.to_json()}
        atomic_write(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        if not journal.counts.rejected[_OUTAGE]:
            (out / _JOURNAL).unlink()
        return journal.counts

    async def _run(self, items: Iterator[Record | Reject], out: Path, journal: _Journal, progress: Progress | None) -> None:
        if isinstance(self.teacher, AbstractAsyncContextManager):
            async with self.teacher:
                await self._work_through(items, out, journal, progress)
        else:
            await self._work_through(items, out, journal, progress)

    async def _work_through(
        self, items: Iterator[Record | Reject], out: Path, journal: _Journal, progress: Progress | None
    ) -> None:
        pending: set[asyncio.Task[None]] = set()

        async def work(index: int, item: Record | Reject) -> None:
            result = item if isinstance(item, Reject) else await self.example(item, out)
            journal.add(index, result, clipped=isinstance(item, Record) and bool(item.notes))
            if progress:
                progress(journal.counts)

        try:
            for index, item in enumerate(items):
                if index in journal.done:
                    continue
                pending.add(asyncio.create_task(work(index, item)))
                if len(pending) >= self.concurrency:
                    finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                    for task in finished:
                        task.result()
            await asyncio.gather(*pending)
        finally:
            for task in pending:
                task.cancel()

    async def example(self, record: Record, out: Path) -> Example | Reject:
        """One record's example, its images written below `out`, or the reject that says why not."""
        try:
            source = inside(self.root, record.image)
            data = _read(source)
            digest = sha256(data)
            if digest in self.exclude:
                reason = f"{record.source}: {record.image} has the content of an excluded image"
                raise RecordError(reason, "excluded")
            image = load_image(source, data)
            if record.size is not None and not _same_shape(record.size, image.size):
                raise RecordError(
                    f"{record.source}: the source says {record.size[0]}×{record.size[1]}, {record.image} is "
                    f"{image.width}×{image.height}; is it the right image?",
                    "size_mismatch",
                )
            depth = self.depth.depth(record, self.root, image)
        except RecordError as error:
            return Reject(record.source, record.id, error.code, str(error))
        except ImageError as error:
            return Reject(record.source, record.id, error.code, f"{record.source}: {error}")
        except DepthError as error:
            return Reject(record.source, record.id, "bad_depth", f"{record.source}: {error}")

        path = expand(record, seed=self.seed, settings=self.expansion)
        foci = []
        for focus in path:
            means = [None] * len(focus.boxes) if depth is None else depth.mean(focus.boxes).tolist()
            if any(mean is not None and math.isnan(mean) for mean in means):
                reason = f"{record.source}: a region of the focus path has no depth at all (sensor holes)"
                return Reject(record.source, record.id, "depth_hole", reason)
            foci.append(
                tuple(
                    Region(box, None if mean is None else round(max(mean, LEAST_DEPTH), self.expansion.decimals))
                    for box, mean in zip(focus.boxes, means, strict=True)
                )
            )
        task = Task(record, tuple(foci), tuple(focus.kind for focus in path), lambda: image)
        explanation = await explain(self.teacher, task)
        attempts = tuple(attempt.to_json() for attempt in explanation.attempts)
        if explanation.thoughts is None:
            last = explanation.attempts[-1]
            reason = f"{record.source}: the teacher's reply was refused: {'; '.join(last.problems)}"
            return Reject(record.source, record.id, f"teacher_{last.codes[0]}", reason, attempts)

        try:
            steps = tuple(Step(regions, text) for regions, text in zip(foci, explanation.thoughts, strict=True))
            chain = render_chain(Chain(steps, record.answer), decimals=self.expansion.decimals)
            problems = check_chain(chain, depth=depth is not None)
        except ChainError as error:
            return Reject(record.source, record.id, "bad_chain", f"{record.source}: no chain can be made: {error}", attempts)
        if problems:
            reason = f"{record.source}: the composed chain is not valid: {problems[0]}"
            return Reject(record.source, record.id, "bad_chain", reason, attempts)

        images = [_keep_image(source.suffix.lower(), data, image, out / "images" / digest[:24])]
        truth: str | None = None
        if depth is not None:
            name = depth.digest()[:24]
            truth, view = f"depth/{name}.png", f"depth_view/{name}.png"
            if not (out / truth).is_file():
                depth.write(out / truth)
            if not (out / view).is_file():
                picture = io.BytesIO()
                depth.view().convert("L").save(picture, "PNG")
                atomic_write(out / view, picture.getvalue())
            images.append(view)
        return Example(
            id=record.id,
            dataset=record.dataset,
            split=record.split,
            problem=record.question,
            answer=record.answer,
            boxes=path[-1].boxes,
            images=tuple(images),
            messages=(
                {"role": "user", "content": user_prompt(record.question, depth=depth is not None)},
                {"role": "assistant", "content": chain},
            ),
            depth=truth,
            choices="\n".join(record.choices),
            family=record.family,
            provenance={
                "source": record.source,
                "image": record.image,
                "image_sha256": digest,
                "depth_source": self.depth.name,
                "seed": self.seed,
                "teacher": self.teacher.name,
                "prompt_version": PROMPT_VERSION,
                "attempts": len(attempts),
                "notes": "\n".join(record.notes),
            },
        )


def path_row(record: Record, path: FocusPath) -> dict[str, Any]:
    """A record's focus path as one JSON object: id, question, answer, boxes (unit xyxy), path (outermost focus first)."""
    return {
        "id": record.id,
        "question": record.question,
        "answer": record.answer,
        "boxes": [list(box) for box in record.boxes],
        "path": [{"kind": focus.kind, "boxes": [list(box) for box in focus.boxes]} for focus in path],
    }


def _same_shape(stated: tuple[int, int], actual: tuple[int, int]) -> bool:
    """Whether an image is the one of the stated size, or a scaled copy of it (to one pixel of rounding)."""
    (stated_width, stated_height), (width, height) = stated, actual
    return abs(stated_width * height - stated_height * width) <= max(*stated, *actual)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image", "missing_image") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot read: {error.strerror}", "missing_image") from None


def _keep_image(suffix: str, data: bytes, image: Image.Image, stem: Path) -> str:
    """Keep an RGB image as it is; one that had to be turned or converted is written as PNG."""
    as_it_is = is_upright_rgb(data)
    target = Path(f"{stem}{suffix if as_it_is else '.png'}")
    if not target.is_file():
        if not as_it_is:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            data = buffer.getvalue()
        atomic_write(target, data)
    return f"images/{target.name}"


def _clear(out: Path) -> None:
    """Delete what a build wrote into a folder, and nothing else."""
    if not any((out / name).is_file() for name in ("manifest.json", _JOURNAL)):
        if any(out.iterdir()):
            raise ConfigError(f"{out} is not empty and holds no build of ours; --fresh deletes only what a build wrote")
        return
    for name in (_JOURNAL, "examples.jsonl", "rejects.jsonl", "manifest.json"):
        (out / name).unlink(missing_ok=True)
    for name in ("images", "depth", "depth_view"):
        shutil.rmtree(out / name, ignore_errors=True)


def _refuse_change(out: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if changed:
        raise ConfigError(
            f"{out} holds a build with other settings: "
            + "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in changed)
            + ". Choose another folder, or start over with --fresh"
        )


def _finished(out: Path, recipe: Mapping[str, Any]) -> Counts | None:
    """The counts of a finished build with these settings; None when there is none."""
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise ConfigError(f"{out / 'manifest.json'} cannot be read; start over with --fresh") from None
    try:
        counts = manifest.pop("counts")
        found = Counts(counts["accepted"], counts["clipped"], Counter(counts["rejected"]))
    except (KeyError, TypeError, AttributeError):
        raise ConfigError(f"{out / 'manifest.json'} is not a build's; start over with --fresh") from None
    _refuse_change(out, manifest, json.loads(to_json(recipe)))
    if found.rejected[_OUTAGE]:
        return None
    if not all((out / f"{kind}s.jsonl").is_file() for kind in ("example", "reject")):
        raise ConfigError(f"{out} lacks files that its manifest speaks of; start over with --fresh")
    return found


class _Journal:
    """Finished records in the order in which they finished: first line the settings, then `[index, kind, clipped, row]`.

    A line is complete when it ends in a newline; what a killed process left of a last line is cut off.
    """

    def __init__(self, path: Path, recipe: Mapping[str, Any]) -> None:
        self.counts = Counts()
        self.done: dict[int, int] = {}  # record index → offset of its line
        self._path = path
        self._recipe = recipe
        self._stream: BinaryIO

    def __enter__(self) -> _Journal:
        try:
            self._stream = open(self._path, "a+b")
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot write: {error.strerror}") from None
        self._stream.seek(0)
        offset = 0
        try:
            for number, line in enumerate(self._stream):
                if not line.endswith(b"\n"):
                    break
                if number == 0:
                    _refuse_change(self._path.parent, json.loads(line), json.loads(to_json(self._recipe)))
                else:
                    index, kind, clipped, row = json.loads(line)
                    if kind != "reject" or row["code"] != _OUTAGE:
                        self._count(index, offset, kind, clipped, row)
                offset += len(line)
        except (ValueError, TypeError, KeyError) as error:
            self._stream.close()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{self._path} is broken; start over with --fresh") from None
        self._stream.truncate(offset)
        self._stream.seek(0, 2)
        if offset == 0:
            self._append(self._recipe)
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def add(self, index: int, result: Example | Reject, *, clipped: bool) -> None:
        kind = "example" if isinstance(result, Example) else "reject"
        row = result.to_json()
        self._count(index, self._append([index, kind, clipped, row]), kind, clipped, row)

    def write_out(self, out: Path) -> None:
        """The journal's rows in the order of their records, in the dataset's two files."""
        partial = {kind: out / f".{kind}s.jsonl" for kind in ("example", "reject")}
        with (
            open(partial["example"], "w", encoding="utf-8") as examples,
            open(partial["reject"], "w", encoding="utf-8") as rejects,
        ):
            for index in sorted(self.done):
                self._stream.seek(self.done[index])
                _, kind, _, row = json.loads(self._stream.readline())
                (examples if kind == "example" else rejects).write(to_json(row) + "\n")
        for kind, path in partial.items():
            path.replace(out / f"{kind}s.jsonl")

    def _append(self, value: Any) -> int:
        offset = self._stream.seek(0, 2)
        self._stream.write(to_json(value).encode() + b"\n")
        self._stream.flush()
        return offset

    def _count(self, index: int, offset: int, kind: str, clipped: bool, row: Mapping[str, Any]) -> None:
        self.done[index] = offset
        self.counts.clipped += clipped
        if kind == "example":
            self.counts.accepted += 1
        else:
            self.counts.rejected[row["code"]] += 1
