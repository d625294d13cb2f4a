"""The build: records → examples, journalled, resumable, in the source's order. `compose` makes one, `folder` keeps them."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sifthinker import __version__
from sifthinker.ask_settings import DepthFiles
from sifthinker.coordinates import Resizer
from sifthinker.endpoint import Usage
from sifthinker.engine.compose import Composer
from sifthinker.engine.estimators import DepthSource, ModelDepth, make_depth
from sifthinker.engine.folder import (
    FOLDERS,
    JOURNAL,
    OUTAGE,
    BuildJournal,
    Counts,
    finished_counts,
    holds_nothing,
    refuse_foreign,
)
from sifthinker.engine.recipe import Left, Recipe, fingerprint, read_recipe
from sifthinker.engine.settings import BuildSettings
from sifthinker.engine.teachers import LocalTeacher, Teacher, make_teacher
from sifthinker.errors import BudgetError, ConfigError, EndpointError
from sifthinker.files import atomic_write, make_folder, read_jsonl, sweep
from sifthinker.loops import run_coroutine, threads
from sifthinker.prompts import PROMPT_VERSION
from sifthinker.records import Example, Record, Reject
from sifthinker.settings import plain

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


def build(
    settings: BuildSettings,
    *,
    records: Iterable[Record | Mapping[str, Any]] | None = None,
    teacher: Teacher | None = None,
    depth: DepthSource | None = None,
    progress: Progress | None = None,
    left: Left | None = None,
) -> Counts:
    """Build a dataset folder, or go on with one that was interrupted.

    Args:
        settings: what to build from, and how.
        records: what to build from in place of the settings' sources: records, or plain ones as in JSON, boxes unit xyxy,
            with their images below `settings.images`.
        teacher: who explains the focus paths; the settings' by default.
        depth: where depth comes from; the settings' by default.
        progress: called after every record.
        left: counts what is left out on purpose.
    Returns:
        How many records came through, interrupted runs included.
    Raises:
        ConfigError: settings that contradict each other, or another build in the folder; see `Engine.build`.
        RecordError, BudgetError, EndpointError, SIFError: see `Engine.build`.
    Example:
        >>> settings = BuildSettings(images="photos", output="chains", depth="none", teacher="local", model="a/model")
        >>> row = {"id": "1", "image": "cat.png", "question": "What is it?", "answer": "cat", "boxes": [[0, 0, 0.5, 1]]}
        >>> build(settings, records=[row]).accepted
        1
    """
    BuildSettings.expect(settings)
    left = Left() if left is None else left
    engine, recipe, identity = _composed(settings, records, teacher, depth)
    counts = engine.build(
        lambda: read_recipe(recipe, left=left),
        settings.output,
        **identity,
        fresh=settings.fresh,
        progress=progress,
        budget=settings.budget,
        runner=_runner(settings),
    )
    _write_unmatched(settings.output, left)
    return counts


async def build_async(
    settings: BuildSettings,
    *,
    records: Iterable[Record | Mapping[str, Any]] | None = None,
    teacher: Teacher | None = None,
    depth: DepthSource | None = None,
    progress: Progress | None = None,
    left: Left | None = None,
) -> Counts:
    """`build` for callers with an event loop, which goes on while the teacher is waited for.

    Raises:
        ConfigError: as `build`, and for the engine `ray`, which works in processes of its own.
        RecordError, BudgetError, EndpointError, SIFError: see `build`.
    """
    BuildSettings.expect(settings)
    if settings.engine != "local":
        raise ConfigError(f"build_async works in this process alone, got engine {settings.engine!r}; call build")
    left = Left() if left is None else left
    engine, recipe, identity = _composed(settings, records, teacher, depth)
    counts = await engine.build_async(
        lambda: read_recipe(recipe, left=left),
        settings.output,
        **identity,
        fresh=settings.fresh,
        progress=progress,
        budget=settings.budget,
    )
    _write_unmatched(settings.output, left)
    return counts


def _composed(
    settings: BuildSettings,
    records: Iterable[Record | Mapping[str, Any]] | None,
    teacher: Teacher | None,
    depth: DepthSource | None,
) -> tuple[Engine, Recipe, dict[str, Any]]:
    """(engine, what it reads, what else tells this build from another, as the arguments `inputs` and `options`)."""
    recipe = Recipe(settings, None if records is None else list(records))
    if teacher is None:
        # Each of Ray's processes has a teacher of its own, which keeps to its share.
        share = settings.rpm / settings.workers if settings.engine == "ray" and settings.rpm and settings.workers else None
        teacher = make_teacher(settings if share is None else settings.replace(rpm=share))
    engine = Engine(
        root=recipe.images,
        depth=make_depth(settings, cache=settings.output.absolute() / ".depth_cache") if depth is None else depth,
        teacher=teacher,
        expansion=settings.expansion,
        seed=settings.seed,
        concurrency=settings.concurrency,
        exclude=recipe.excluded.hashes,
        coordinates=settings.coordinates,
        resizer=_resizer(settings),
    )
    reading = {name: plain(getattr(settings, name)) for name in DepthFiles.model_fields}
    options = reading | fingerprint(recipe)
    return engine, recipe, {"inputs": options.pop("inputs"), "options": options}


def _resizer(settings: BuildSettings) -> Resizer | None:
    """What the processor of the model to be trained makes of images, where chains state its pixels.

    Raises:
        ModelError: see `Resizer.of_model`.
    """
    if settings.coordinates != "resized":
        return None
    return Resizer.chosen(settings.processor, settings.min_pixels, settings.max_pixels)


def _runner(settings: BuildSettings) -> Runner:
    if settings.engine == "local":
        return work_here
    from sifthinker.engine.ray import Cluster

    return Cluster(settings.ray_address, settings.workers, settings.worker_gpus)


UNMATCHED = "exclude_unmatched.txt"  # in a dataset's folder: lines of exclude lists that named none of its images


def _write_unmatched(out: Path, left: Left) -> None:
    """List the lines of exclude lists that matched nothing, where everything has been read."""
    if not left.whole or left.excluded is None:
        return
    left.excluded.match((row for _, row in read_jsonl(out / "rejects.jsonl")))
    unmatched = "".join(f"{line}\t{line.text}\n" for line in left.excluded.unmatched())
    if unmatched:
        atomic_write(out / UNMATCHED, unmatched)
    else:
        (out / UNMATCHED).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Engine(Composer):
    """Builds datasets: a composer for many records at once.

    Args:
        root, depth, teacher, expansion, seed, exclude, coordinates, resizer: see `Composer`.
        concurrency: records under way at once.
    """

    concurrency: int = 8

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
        identity = {
            "sifthinker": __version__,
            "prompt_version": PROMPT_VERSION,
            "images": str(self.root),
            "seed": self.seed,
            "expansion": self.expansion.to_dict(),
            "depth": self.depth.name,
            "teacher": self.teacher.name,
            "inputs": dict(inputs or {}),
            **(options or {}),
        }
        if self.coordinates != "unit":  # the manifests of datasets in fractions stay as they were
            identity["coordinates"] = self.coordinates
            identity |= {"resizer": asdict(self.resizer)} if self.coordinates == "resized" and self.resizer else {}
        root = self.root.resolve()
        if root == out.resolve() or any(root.is_relative_to((out / name).resolve()) for name in FOLDERS):
            raise ConfigError(f"the image folder {self.root} is where {out} would have its own files; choose another folder")
        refuse_foreign(out)
        finished = None if fresh else finished_counts(out, identity)
        if finished is not None:
            if progress:
                progress(finished)
            yield None, finished
            return
        fresh = fresh or holds_nothing(out, identity)
        source = iter(items())
        first = list(itertools.islice(source, 1))  # a source that cannot be read leaves the folder as it is
        make_folder(out)
        with BuildJournal(out / JOURNAL, identity, fresh) as journal:
            for folder in (out, *(out / name for name in FOLDERS)):
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
            # The folder stays free for other settings, such as the model's right name.
            unused = journal.counts.unused
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
            (out / JOURNAL).unlink()
            raise stopped
        if stopped is not None:
            raise EndpointError(
                f"{str(stopped).rstrip('.')}. {journal.counts.finished} records are finished and written to {out}; "
                "the same command goes on",
                stopped.code,
                stopped.attempts,
                stopped.kind,
            )
        manifest = {**identity, "counts": journal.counts.to_json()}
        atomic_write(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        if not journal.counts.rejected[OUTAGE]:
            (out / JOURNAL).unlink()

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


def work_here(engine: Engine, feed: Feed, out: Path) -> None:
    """A `Runner`: one event loop and some threads in this process."""
    run_coroutine(engine.work_through(feed, out))


class Feed:
    """The records that are still to be done, as long as the budget lasts, and the place where their results go."""

    def __init__(
        self,
        items: Iterator[Record | Reject],
        journal: BuildJournal,
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
        if isinstance(result, Reject) and (code == OUTAGE or (code == _REFUSED and not self._answered)):
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
        self._journal.add_record(index, result, used)
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
