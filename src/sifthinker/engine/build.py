"""Records → Examples: depth, focus path, teacher's words, checked chain; journalled, resumable, in the source's order.

A dataset folder holds

    examples.jsonl   the samples, in the order of their records
    rejects.jsonl    what was left out, each with its reason and every attempt
    manifest.json    versions, settings, input hashes, counts
    images/          RGB images, named by content
    depth/           exact depth maps in our own format, for rewards
    depth_view/      the same as 8-bit grey, the second image that models see; a map of 8-bit levels is that itself
    usage.json       what a teacher that counts has used: requests, tokens, cost
    journal.jsonl    while the build runs: finished records in the order in which they finished
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import io
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from sifthinker import __version__
from sifthinker.chain import DECIMALS, Chain, Region, Step, check_chain, region_boxes, render_chain
from sifthinker.depth import LEAST_DEPTH, DepthMap, agrees
from sifthinker.endpoint import Usage
from sifthinker.engine.estimators import DepthSource, ModelDepth
from sifthinker.engine.expansion import Expansion, FocusPath, expand
from sifthinker.engine.teachers import ADVICE, Explanation, LocalTeacher, Task, Teacher, explain
from sifthinker.errors import BudgetError, ChainError, ConfigError, DepthError, EndpointError, ImageError, RecordError
from sifthinker.files import UNFINISHED, atomic_write, inside, make_folder, sha256, sweep, to_json
from sifthinker.images import decode_image
from sifthinker.loops import in_thread, run_coroutine, threads
from sifthinker.prompts import PROMPT_VERSION, user_prompt
from sifthinker.records import Example, Record, Reject

_JOURNAL = "journal.jsonl"
_FOLDERS = ("images", "depth", "depth_view")
_OURS = re.compile(rf"[0-9a-f]{{24}}(\.[^.]*)?|{re.escape(UNFINISHED)}.*")  # what files in them are called

# Records whose teacher could not be reached are tried again when the build is repeated; every other reject is final.
_OUTAGE = "teacher_endpoint"
# A server that refuses one request may answer the next; one that has answered none is set up wrongly.
_REFUSED = "teacher_refused_request"

# A build stops when the teacher's server fails or refuses this many records before it has answered one,
FIRST_FAILURES = 10
# and when it fails, after every retry, for this many in a row, or twice as many as are under way at once.
OUTAGES_IN_A_ROW = 50

_MOST_WAITING = 32

Progress = Callable[["Counts"], None]


# Works on the records of a feed and hands their results to it; `work_here` or `cluster.Cluster`.
Runner = Callable[["Engine", "Feed", Path], None]


@dataclass(slots=True)
class Counts:
    """How far a build is: records accepted, how many of these with clipped boxes, records rejected by reason code, records
    whose teacher was corrected; and what the teacher used, interrupted runs included."""

    accepted: int = 0
    clipped: int = 0
    corrected: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    usage: Usage = field(default_factory=Usage)

    @property
    def done(self) -> int:
        return self.accepted + self.rejected.total()

    @property
    def finished(self) -> int:
        """Records that the same build, repeated, does not try again."""
        return self.accepted + self.settled

    @property
    def settled(self) -> int:
        """Records that are rejected for good: the same build, repeated, does not try them again."""
        return self.rejected.total() - self.rejected[_OUTAGE]

    def to_json(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "clipped": self.clipped,
            "corrected": self.corrected,
            "rejected": dict(sorted(self.rejected.items())),
        }


@dataclass(frozen=True, slots=True)
class Engine:
    """Turns records into examples.

    Args:
        root: image root.
        depth: where depth comes from.
        teacher: who explains the focus paths.
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
        budget: float | None = None,
        runner: Runner | None = None,
    ) -> Counts:
        """Build a dataset folder, or go on with one that was interrupted.

        Args:
            items: opens the source; called once.
            out: dataset folder.
            inputs: name → sha256 of the source files, for the manifest.
            options: further settings that shape the result, for the manifest and for the check on resuming.
            fresh: throw away what the folder holds instead of going on.
            progress: called after every record.
            budget: what the teacher may cost, interrupted runs included; no record is begun that would be likely to pass it.
            runner: who works on the records; this process by default.
        Raises:
            ConfigError: the folder holds a build with other settings and `fresh` is False, the image folder, or files of
                others where ours would go; or another build is at work in it.
            RecordError: the source cannot be read; the folder is left as it is.
            BudgetError: the budget is spent, but for less than the next record would be likely to cost. The records that are
                finished are written out, and the same build with a greater budget goes on.
            EndpointError: the teacher's server cannot answer before something is changed, such as the key; it answered none
                of the first records (`FIRST_FAILURES`); or it went down (`OUTAGES_IN_A_ROW`). The records that are finished
                are written out, and the same build goes on.
            SIFError: the folder cannot be written.
        """
        with self._folder(items, out, inputs, options, fresh, progress, budget) as (feed, counts):
            if feed is not None:
                (runner or work_here)(self, feed, out)
        return counts

    async def build_async(
        self,
        items: Callable[[], Iterator[Record | Reject]],
        out: Path,
        *,
        inputs: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
        fresh: bool = False,
        progress: Progress | None = None,
        budget: float | None = None,
    ) -> Counts:
        """`build` for callers with an event loop, which goes on while the teacher is waited for. Reading the source and
        writing the journal are done in the loop itself."""
        with self._folder(items, out, inputs, options, fresh, progress, budget) as (feed, counts):
            if feed is not None:
                await self.work_through(feed, out)
        return counts

    @contextlib.contextmanager
    def _folder(
        self,
        items: Callable[[], Iterator[Record | Reject]],
        out: Path,
        inputs: Mapping[str, str] | None,
        options: Mapping[str, Any] | None,
        fresh: bool,
        progress: Progress | None,
        budget: float | None,
    ) -> Iterator[tuple[Feed | None, Counts]]:
        """The open dataset folder: (what is still to be done, None where nothing is; the counts, which grow with it)."""
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
        root = self.root.resolve()
        if root == out.resolve() or any(root.is_relative_to((out / name).resolve()) for name in _FOLDERS):
            raise ConfigError(f"the image folder {self.root} is where {out} would have its own files; choose another folder")
        _refuse_foreign(out)
        finished = None if fresh else _finished(out, recipe)
        if finished is not None:
            if progress:
                progress(finished)
            yield None, finished
            return
        source = iter(items())
        first = list(itertools.islice(source, 1))  # a source that cannot be read leaves the folder as it is
        make_folder(out)
        with _Journal(out / _JOURNAL, recipe, fresh) as journal:
            for folder in (out, *(out / name for name in _FOLDERS)):
                sweep(folder)
            usage = journal.counts.usage
            usage.prompt_price, usage.completion_price = self.usage.prompt_price, self.usage.completion_price
            if progress:
                progress(journal.counts)
            patience = max(OUTAGES_IN_A_ROW, 2 * self.concurrency)
            feed = Feed(itertools.chain(first, source), journal, budget, progress, patience)
            stopped: EndpointError | None = None
            try:
                yield feed, journal.counts
                feed.settle()
            except EndpointError as error:
                stopped = error
            # Where the teacher has answered nothing, nothing is lost, and the folder stays free for other settings, such as
            # the model's right name.
            answered = {code for code in journal.counts.rejected if code.startswith("teacher_")} - {_OUTAGE}
            unused = not (journal.counts.accepted or answered or usage.prompt_tokens or usage.completion_tokens)
            if stopped is None or not unused:
                journal.write_out(out)
                if usage.requests:
                    totals = {**asdict(usage), "cost": usage.cost}
                    atomic_write(out / "usage.json", json.dumps(totals, indent=2) + "\n")
            if stopped is None and feed.shortage:
                raise BudgetError(
                    f"{feed.shortage} {journal.counts.finished} records are finished and written to {out}; "
                    "the same command with a greater --budget goes on"
                )
        if stopped is not None and unused:
            (out / _JOURNAL).unlink()
            raise stopped
        if stopped is not None:
            raise EndpointError(
                f"{str(stopped).rstrip('.')}. {journal.counts.finished} records are finished and written to {out}; "
                "the same command goes on",
                stopped.code,
                stopped.attempts,
                stopped.kind,
            )
        manifest = {**recipe, "counts": journal.counts.to_json()}
        atomic_write(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        if not journal.counts.rejected[_OUTAGE]:
            (out / _JOURNAL).unlink()

    async def work_through(self, feed: Feed, out: Path) -> None:
        """Work on the records of a feed in this process, `concurrency` at a time."""
        pending: set[asyncio.Task[None]] = set()
        spent = copy.copy(self.usage)

        async def work(index: int, item: Record | Reject) -> None:
            nonlocal spent
            result = item if isinstance(item, Reject) else await self.example(item, out)
            before, spent = spent, copy.copy(self.usage)
            feed.take(index, result, spent.since(before))

        async with self.at_work():
            try:
                for index, item in feed:
                    pending.add(asyncio.create_task(work(index, item)))
                    while pending and (len(pending) >= self.concurrency or feed.unpriced):
                        finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                        for task in finished:
                            task.result()
                await asyncio.gather(*pending)
            finally:
                for task in pending:
                    task.cancel()
                await asyncio.gather(*pending, return_exceptions=True)
                feed.take_usage(self.usage.since(spent))

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """What `example` needs of a running loop: the teacher's connections, and threads for what runs beside the loop."""
        # A thread a core, for more would only wait for each other; but where threads wait for their turn in a model's
        # batch, one a record.
        waiting = isinstance(self.depth, ModelDepth) or isinstance(self.teacher, LocalTeacher)
        count = min(self.concurrency, _MOST_WAITING) if waiting else os.cpu_count() or 1
        with threads(count):
            async with self.teacher if isinstance(self.teacher, AbstractAsyncContextManager) else contextlib.nullcontext():
                yield

    @property
    def usage(self) -> Usage:
        """What the teacher has used; all 0 for one that counts nothing."""
        return getattr(self.teacher, "usage", None) or Usage()

    async def example(self, record: Record, out: Path) -> Example | Reject:
        """One record's example, its images written below `out`, or the reject that says why not."""
        # Files, decoding and PNGs in threads: most of that work runs beside the event loop.
        prepared = await in_thread(self._prepare, record)
        if isinstance(prepared, Reject):
            return prepared
        task = Task(record, prepared.foci, tuple(focus.kind for focus in prepared.path), lambda: prepared.image)
        explanation = await explain(self.teacher, task)
        return await in_thread(self._compose, prepared, explanation, out)

    def _prepare(self, record: Record) -> _Prepared | Reject:
        """Everything that comes before the teacher."""
        try:
            source = inside(self.root, record.image)
            data = _read(source)
            digest = sha256(data)
            if digest in self.exclude:
                raise RecordError(f"{record.image} has the content of an excluded image, SHA-256 {digest}", "excluded")
            image, as_it_is = decode_image(source, data)
            if record.size is not None and not _same_shape(record.size, image.size):
                raise RecordError(
                    f"the source says {record.size[0]}×{record.size[1]}, {record.image} is "
                    f"{image.width}×{image.height}; is it the right image?",
                    "size_mismatch",
                )
            depth = self.depth.depth(record, self.root, image)
            depth = depth and depth.rounded()  # as the dataset will hold it, and rewards measure it
            path = expand(record, seed=self.seed, settings=self.expansion)
            foci, digits = _state_depths(path, depth, self.expansion.decimals)
        except (RecordError, ImageError) as error:
            return Reject(record.source, record.id, error.code, f"{record.source}: {error}")
        except DepthError as error:
            return Reject(record.source, record.id, "bad_depth", f"{record.source}: {error}")
        if depth is not None:
            depth.release()  # the teacher may take long
        suffix = source.suffix.lower() if as_it_is else ".png"
        return _Prepared(record, suffix, data if as_it_is else None, digest, image, depth, path, foci, digits)

    def _compose(self, prepared: _Prepared, explanation: Explanation, out: Path) -> Example | Reject:
        """The example of an explained record; its images are written."""
        record, depth = prepared.record, prepared.depth
        attempts = tuple(attempt.to_json() for attempt in explanation.attempts)
        if explanation.thoughts is None:
            last = explanation.attempts[-1]
            code = last.codes[0]
            what = "" if code in ("endpoint", "refused_request") else "the teacher's reply cannot be used: "
            reason = f"{record.source}: {what}{'; '.join(last.problems)}"
            if code in ADVICE:
                reason += f"; {ADVICE[code]}"
            return Reject(record.source, record.id, f"teacher_{code}", reason, attempts)
        try:
            steps = tuple(Step(regions, text) for regions, text in zip(prepared.foci, explanation.thoughts, strict=True))
            written = Chain(steps, record.answer)
            chain = render_chain(written, decimals=self.expansion.decimals, depth_decimals=prepared.depth_decimals)
            problems = check_chain(chain, depth=depth is not None)
        except ChainError as error:
            return Reject(record.source, record.id, "bad_chain", f"{record.source}: no chain can be made: {error}", attempts)
        if problems:
            reason = f"{record.source}: the composed chain is not valid: {problems[0]}"
            return Reject(record.source, record.id, "bad_chain", reason, attempts)

        images = [_keep_image(prepared, out / "images")]
        truth: str | None = None
        if depth is not None:
            truth, view = _keep_depth(depth, out)
            images.append(view)
        return Example(
            id=record.id,
            dataset=record.dataset,
            split=record.split,
            problem=record.question,
            answer=record.answer,
            boxes=prepared.path[-1].boxes,
            images=tuple(images),
            messages=(
                {"role": "user", "content": user_prompt(record.question, depth=depth is not None)},
                {"role": "assistant", "content": chain},
            ),
            depth=truth,
            choices=record.choices,
            family=record.family,
            provenance={
                "source": record.source,
                "image": record.image,
                "image_sha256": prepared.digest,
                "depth_source": self.depth.name,
                "seed": self.seed,
                "teacher": self.teacher.name,
                "prompt_version": PROMPT_VERSION,
                "attempts": len(attempts),
                "notes": "\n".join(record.notes),
            },
        )


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A record with all that its chain is made of but words; `data` is its file's content, None where the file may not be
    kept, see `decode_image`."""

    record: Record
    suffix: str
    data: bytes | None
    digest: str
    image: Image.Image
    depth: DepthMap | None
    path: FocusPath
    foci: tuple[tuple[Region, ...], ...]
    depth_decimals: int


def work_here(engine: Engine, feed: Feed, out: Path) -> None:
    """A `Runner`: one event loop and some threads in this process."""
    run_coroutine(engine.work_through(feed, out))


class Feed:
    """The records that are still to be done, as long as the budget lasts, and the place where their results go."""

    def __init__(
        self,
        items: Iterator[Record | Reject],
        journal: _Journal,
        budget: float | None,
        progress: Progress | None,
        patience: int = OUTAGES_IN_A_ROW,
    ) -> None:
        self._items = items
        self._journal = journal
        self._budget = budget
        self._progress = progress
        self._patience = patience  # outages in a row that are borne
        self._begun = 0
        self._ended = 0
        self._exhausted = False
        self._answered = False  # the teacher has answered a record, well or not
        self._failures = 0  # outages and refusals since it did last
        # Refused records, as long as nothing shows whether the fault is theirs.
        self._held: list[tuple[int, Reject, Mapping[str, int]]] = []

    def __iter__(self) -> Iterator[tuple[int, Record | Reject]]:
        """(number in the source, record or reject); ends early where the next record would be likely to pass the budget."""
        for index, item in enumerate(self._items):
            if index in self._journal.done:
                continue
            if isinstance(item, Record) and not self._affords(self._begun - self._ended + 1):
                return
            self._begun += 1
            yield index, item
        self._exhausted = True

    def take(self, index: int, result: Example | Reject, used: Mapping[str, int]) -> None:
        """Take the result of one record, and what the teacher used since the result before.

        Raises:
            EndpointError: the teacher's server has answered no record at all, or has failed too often in a row.
        """
        code = result.code if isinstance(result, Reject) else ""
        if isinstance(result, Reject) and code == _REFUSED and not self._answered:
            self._held.append((index, result, used))
        else:
            self._add(index, result, used)
        if isinstance(result, Reject) and (code == _OUTAGE or (code == _REFUSED and not self._answered)):
            self._failures += 1
            self._lose_patience(result)
        elif not code or code.startswith("teacher_"):
            self._answered, self._failures = True, 0
            self.settle()

    def settle(self) -> None:
        """Take what was held back: the server answers others, or there are no others."""
        while self._held:
            self._add(*self._held.pop(0))

    def _add(self, index: int, result: Example | Reject, used: Mapping[str, int]) -> None:
        self._journal.add(index, result, used)
        self._ended += 1
        if self._progress:
            self._progress(self._journal.counts)

    def _lose_patience(self, last: Reject) -> None:
        if self._failures >= self._patience:
            what = f"The teacher's server failed for {self._failures} records in a row."
        elif not self._answered and self._failures >= FIRST_FAILURES:
            what = f"The teacher's server answered none of the first {self._failures} records; does this model take images?"
        else:
            return
        for _, _, used in self._held:  # these records are tried again
            self.take_usage(used)
        self._held.clear()
        words = "; ".join(last.attempts[-1]["problems"])
        raise EndpointError(f"{what} The last, {last.source}: {words}", "gave_up", self._failures, "setup")

    def take_usage(self, used: Mapping[str, int]) -> None:
        """Take what the teacher used for records that did not end."""
        self._journal.add_usage(used)

    @property
    def spent(self) -> bool:
        """Whether the budget is spent."""
        return not self._affords(0)

    @property
    def unpriced(self) -> bool:
        """Whether there is a budget, but nobody knows yet what a record costs: then one at a time."""
        return self._budget is not None and not self._journal.counts.usage.cost

    @property
    def shortage(self) -> str:
        """Why records were left over, "" when none were."""
        if self._exhausted and self._begun == self._ended:
            return ""
        if self._uncounted:
            return "The teacher's server counts no tokens, so no budget can be kept."
        return f"The teacher cost {self._journal.counts.usage.cost:.4g} of {self._budget or 0:.4g}."

    @property
    def _uncounted(self) -> bool:
        counts = self._journal.counts
        return bool(counts.accepted and not counts.usage.prompt_tokens + counts.usage.completion_tokens)

    def _affords(self, unpaid: int) -> bool:
        """Whether so many records may still be paid, each at the mean price of those before."""
        counts = self._journal.counts
        if self._budget is None:
            return True
        return not self._uncounted and counts.usage.cost * (1 + unpaid / max(1, counts.done)) < self._budget


def path_row(record: Record, path: FocusPath) -> dict[str, Any]:
    """A record's focus path as one JSON object: id, question, answer, boxes (unit xyxy), path (outermost focus first)."""
    return {
        "id": record.id,
        "question": record.question,
        "answer": record.answer,
        "boxes": [list(box) for box in record.boxes],
        "path": [{"kind": focus.kind, "boxes": [list(box) for box in focus.boxes]} for focus in path],
    }


def _state_depths(path: FocusPath, depth: DepthMap | None, decimals: int) -> tuple[tuple[tuple[Region, ...], ...], int]:
    """The regions of a focus path with depths that earn the depth reward, and with how many decimals these are stated: as
    few as boxes have, where that is exact enough.

    Raises:
        RecordError: a region has no depth at all (`depth_hole`), or one that 3 decimals cannot state (`depth_too_near`).
    """
    regions = [tuple(Region(box) for box in focus.boxes) for focus in path]
    if depth is None:
        return tuple(regions), decimals
    truths = [depth.mean(region_boxes(area)) for area in regions]
    if any(np.isnan(means).any() for means in truths):
        raise RecordError("a region of the focus path has no depth at all (sensor holes)", "depth_hole")
    for digits in range(decimals, DECIMALS + 1):
        stated = [[round(max(mean, LEAST_DEPTH), digits) for mean in means.tolist()] for means in truths]
        if all(agrees(depths, means).all() for depths, means in zip(stated, truths, strict=True)):
            foci = (
                tuple(Region(region.box, depth) for region, depth in zip(area, depths, strict=True))
                for area, depths in zip(regions, stated, strict=True)
            )
            return tuple(foci), digits
    raise RecordError(
        f"a region of the focus path is so near that no depth with {DECIMALS} decimals is within a tenth of the true one, "
        "so its chain would miss the depth reward",
        "depth_too_near",
    )


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


def _keep_image(prepared: _Prepared, folder: Path) -> str:
    """Keep the file of an image that looks the same everywhere; any other is written as PNG, see `decode_image`."""
    target = folder / f"{prepared.digest[:24]}{prepared.suffix}"
    if not target.is_file():
        data = prepared.data
        if data is None:
            buffer = io.BytesIO()
            prepared.image.save(buffer, "PNG")
            data = buffer.getvalue()
        atomic_write(target, data)
    return f"images/{target.name}"


def _keep_depth(depth: DepthMap, out: Path) -> tuple[str, str]:
    """(exact map, picture for models), relative to the dataset; one file where 8 bits hold all of the map."""
    name = f"{depth.digest()[:24]}.png"
    truth = f"depth/{name}"
    if not (out / truth).is_file():
        depth.write(out / truth)
    if depth.eight_bit:
        return truth, truth
    view = f"depth_view/{name}"
    if not (out / view).is_file():
        depth.write_view(out / view)
    return truth, view


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder that holds something of somebody else's where a build writes, or --fresh would delete."""
    for name in ("manifest.json", _JOURNAL):
        try:
            with open(out / name, "rb") as stream:
                start = stream.read(4096)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{out / name}: cannot read: {error.strerror}") from None
        if not start or b'"sifthinker"' in start:  # ours, be it whole or not
            return
        raise ConfigError(f"{out / name} is not of a build of ours; choose another folder")
    theirs = [out / name for name in ("examples.jsonl", "rejects.jsonl", "usage.json") if (out / name).exists()]
    theirs += [file for name in _FOLDERS for file in (out / name).glob("*") if not _OURS.fullmatch(file.name)]
    if theirs:
        raise ConfigError(f"{theirs[0]} is not of a build of ours; choose another folder")


def _clear(out: Path) -> None:
    """Delete what a build wrote into a folder but its journal, and nothing else."""
    # The manifest first: without it and with an empty journal, whatever else is left counts for nothing.
    for name in ("manifest.json", "examples.jsonl", "rejects.jsonl", "usage.json"):
        (out / name).unlink(missing_ok=True)
    for folder in (out / name for name in _FOLDERS):
        for file in folder.glob("*"):
            if _OURS.fullmatch(file.name):
                file.unlink()
        with contextlib.suppress(OSError):  # not there, or not empty
            folder.rmdir()


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
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        raise ConfigError(f"{out / 'manifest.json'} cannot be read; start over with --fresh") from None
    try:
        counts = manifest.pop("counts")
        found = Counts(counts["accepted"], counts["clipped"], counts["corrected"], Counter(counts["rejected"]))
        with contextlib.suppress(FileNotFoundError):
            totals = json.loads((out / "usage.json").read_text(encoding="utf-8"))
            found.usage = Usage(**{name: value for name, value in totals.items() if name != "cost"})
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ConfigError(f"{out / 'manifest.json'} is not whole; start over with --fresh") from None
    _refuse_change(out, manifest, json.loads(to_json(recipe)))
    if found.rejected[_OUTAGE]:
        return None
    (out / _JOURNAL).unlink(missing_ok=True)  # of a process that was killed after it wrote the manifest
    if not all((out / f"{kind}s.jsonl").is_file() for kind in ("example", "reject")):
        raise ConfigError(f"{out} lacks files that its manifest speaks of; start over with --fresh")
    return found


class _Journal:
    """Finished records in the order in which they finished: first line the settings, then `[index, kind, row, used]`, where
    `used` is what the teacher used since the line before. A line of kind `usage` is of no record.

    A line is complete when it ends in a newline; what a killed process left of a last line is cut off.
    """

    def __init__(self, path: Path, recipe: Mapping[str, Any], fresh: bool = False) -> None:
        self.counts = Counts()
        self.done: dict[int, int] = {}  # record index → offset of its line
        self._path = path
        self._recipe = recipe
        self._fresh = fresh
        self._stream: BinaryIO

    def __enter__(self) -> _Journal:
        try:
            self._stream = open(self._path, "a+b")
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot write: {error.strerror}") from None
        self._lock()
        if self._fresh:
            self._stream.truncate(0)
            _clear(self._path.parent)
        self._stream.seek(0)
        offset = 0
        try:
            for number, line in enumerate(self._stream):
                if not line.endswith(b"\n"):
                    break
                if number == 0:
                    _refuse_change(self._path.parent, json.loads(line), json.loads(to_json(self._recipe)))
                else:
                    index, kind, row, used = json.loads(line)
                    self.counts.usage.add(used)
                    if kind != "usage" and (kind != "reject" or row["code"] != _OUTAGE):
                        self._count(index, offset, kind, row)
                offset += len(line)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
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

    def _lock(self) -> None:
        """Keep a second build out of the folder for as long as the journal is open."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._stream.close()
            raise ConfigError(f"{self._path.parent}: another build is at work in this folder") from None

    def add(self, index: int, result: Example | Reject, used: Mapping[str, int]) -> None:
        kind = "example" if isinstance(result, Example) else "reject"
        row = result.to_json()
        offset = self._append([index, kind, row, used])
        self.counts.usage.add(used)
        self._count(index, offset, kind, row)

    def add_usage(self, used: Mapping[str, int]) -> None:
        if used:
            self._append([None, "usage", {}, used])
            self.counts.usage.add(used)

    def write_out(self, out: Path) -> None:
        """The journal's rows in the order of their records, in the dataset's two files."""
        partial = {kind: out / f".{kind}s.jsonl" for kind in ("example", "reject")}
        with (
            open(partial["example"], "w", encoding="utf-8") as examples,
            open(partial["reject"], "w", encoding="utf-8") as rejects,
        ):
            for index in sorted(self.done):
                self._stream.seek(self.done[index])
                _, kind, row, _ = json.loads(self._stream.readline())
                (examples if kind == "example" else rejects).write(to_json(row) + "\n")
        for kind, path in partial.items():
            path.replace(out / f"{kind}s.jsonl")

    def _append(self, value: Any) -> int:
        offset = self._stream.seek(0, 2)
        self._stream.write(to_json(value).encode() + b"\n")
        self._stream.flush()
        return offset

    def _count(self, index: int, offset: int, kind: str, row: Mapping[str, Any]) -> None:
        if index in self.done:
            return
        self.done[index] = offset
        if kind == "example":
            self.counts.accepted += 1
            self.counts.clipped += bool(row["provenance"]["notes"])
            self.counts.corrected += row["provenance"]["attempts"] > 1
        else:
            self.counts.rejected[row["code"]] += 1
            self.counts.corrected += len(row["attempts"]) > 1
