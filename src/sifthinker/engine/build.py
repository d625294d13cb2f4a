"""The build: records → examples, in source order and resumable. `compose` makes an example, `folder` stores them."""

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

# A server that refuses one request may answer the next. A server that has answered none is probably set up wrongly.
_REFUSED = "teacher_refused_request"

# A build stops if the teacher's server fails or refuses this many records before it has answered one,
FIRST_FAILURES = 10
# or if it fails (after all retries) for this many records in a row, or for twice `concurrency` if that is more.
OUTAGES_IN_A_ROW = 50

_MOST_WAITING = 32

Progress = Callable[["Counts"], None]


# Processes the records of a feed and passes the results to it: `work_here` or `ray.Cluster`.
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
    """Build a dataset folder, or resume an interrupted build.

    Args:
        settings: sources and settings of the build.
        records: records to use instead of the sources in the settings: `Record` objects, or plain records as in JSON with
            unit xyxy boxes. Their images are below `settings.images`.
        teacher: teacher that explains the focus paths; by default the teacher in the settings.
        depth: depth source; by default the one in the settings.
        progress: called after every record.
        left: counts the records that filters and caps leave out.
    Returns:
        The number of accepted and rejected records, including interrupted runs.
    Raises:
        ConfigError: the settings contradict each other, or the folder contains another build; see `Engine.build`.
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
    """Asynchronous `build`. The event loop stays free while the build waits for the teacher.

    Raises:
        ConfigError: see `build`; also for the engine `ray`, which uses its own processes.
        RecordError, BudgetError, EndpointError, SIFError: see `build`.
    """
    BuildSettings.expect(settings)
    if settings.engine != "local":
        raise ConfigError(f"build_async needs engine 'local', got engine {settings.engine!r}. Call build instead")
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
    """Return (engine, recipe, the arguments `inputs` and `options` that identify the build)."""
    recipe = Recipe(settings, None if records is None else list(records))
    if teacher is None:
        # Each Ray process has its own teacher, limited to its share of the requests.
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
    """Return the resizer of the model to be trained, if chains use its pixels.

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


UNMATCHED = "exclude_unmatched.txt"  # in a dataset folder: lines of exclude lists that matched none of its images


def _write_unmatched(out: Path, left: Left) -> None:
    """Write the lines of exclude lists that matched nothing, if all records have been read."""
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
    """Builds datasets: a composer that processes many records at the same time.

    Args:
        root, depth, teacher, expansion, seed, exclude, coordinates, resizer: see `Composer`.
        concurrency: number of records processed at the same time.
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
        """Build a dataset folder, or resume an interrupted build.

        Args:
            items: opens the source; called once.
            out: dataset folder.
            inputs: name → SHA-256 of each source file, for the manifest.
            options: further settings that affect the result, for the manifest and for the check on resuming.
            fresh: delete the build in the folder instead of resuming it.
            progress: called after every record.
            budget: maximum cost of the teacher, including interrupted runs. No record is started that would probably exceed
                it.
            runner: processes the records; by default this process.
        Raises:
            ConfigError: the folder contains a build with other settings and `fresh` is False, or other files where the build
                would write; it is the image folder; or another build is running in it.
            RecordError: the source cannot be read. The folder is not changed.
            BudgetError: the rest of the budget is probably not enough for the next record. Finished records are written, and
                the same build with a higher budget resumes.
            EndpointError: the server needs a change first, such as another key; it answered none of the first records
                (`FIRST_FAILURES`); or it went down (`OUTAGES_IN_A_ROW`). Finished records are written, and the same build
                resumes.
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
        """Asynchronous `build`. The event loop stays free while the build waits for the teacher.

        Reading the source and writing the journal block the loop.
        """
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
        """Open the dataset folder: yield (feed of open records, None if the build is finished; counts, updated by the
        feed)."""
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
        if self.coordinates != "unit":  # manifests of datasets with unit coordinates do not change
            identity["coordinates"] = self.coordinates
            identity |= {"resizer": asdict(self.resizer)} if self.coordinates == "resized" and self.resizer else {}
        root = self.root.resolve()
        if root == out.resolve() or any(root.is_relative_to((out / name).resolve()) for name in FOLDERS):
            raise ConfigError(
                f"the image folder {self.root} must not be {out} or one of the folders that the build writes in it. Choose "
                "another folder"
            )
        refuse_foreign(out)
        finished = None if fresh else finished_counts(out, identity)
        if finished is not None:
            if progress:
                progress(finished)
            yield None, finished
            return
        fresh = fresh or holds_nothing(out, identity)
        source = iter(items())
        first = list(itertools.islice(source, 1))  # if the source cannot be read, the folder does not change
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
            # Without results, keep the folder free for other settings, such as the correct model name.
            unused = journal.counts.unused
            if stopped is None or not unused:
                journal.write_out(out)
                if usage.requests:
                    totals = {**asdict(usage), "cost": usage.cost}
                    atomic_write(out / "usage.json", json.dumps(totals, indent=2) + "\n")
            if stopped is None and feed.shortage:
                raise BudgetError(
                    f"{feed.shortage} {journal.counts.finished} records are finished and written to {out}. Run the same "
                    "command with a higher --budget to resume"
                )
        if stopped is not None and unused:
            (out / JOURNAL).unlink()
            raise stopped
        if stopped is not None:
            raise EndpointError(
                f"{str(stopped).rstrip('.')}. {journal.counts.finished} records are finished and written to {out}. Run the "
                "same command to resume",
                stopped.code,
                stopped.attempts,
                stopped.kind,
            )
        manifest = {**identity, "counts": journal.counts.to_json()}
        atomic_write(out / "manifest.json", json.dumps(manifest, indent=2) + "\n")
        if not journal.counts.rejected[OUTAGE]:
            (out / JOURNAL).unlink()

    async def work_through(self, feed: Feed, out: Path) -> None:
        """Process the records of a feed in this process, `concurrency` at a time."""
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
                        # Not `result` in a loop: it stops at the first error, and asyncio logs the others as unhandled.
                        await asyncio.gather(*finished)
                await asyncio.gather(*pending)
            finally:
                for task in pending:
                    task.cancel()
                await asyncio.gather(*pending, return_exceptions=True)
                feed.take_usage(self.usage.since(spent))

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Context of `example`: open connections of the teacher, and threads for work outside the event loop."""
        # One thread per core, because more would only wait for each other. If threads wait for a model's batch, one thread
        # per record.
        waiting = isinstance(self.depth, ModelDepth) or isinstance(self.teacher, LocalTeacher)
        count = min(self.concurrency, _MOST_WAITING) if waiting else os.cpu_count() or 1
        with threads(count):
            async with self.teacher if isinstance(self.teacher, AbstractAsyncContextManager) else contextlib.nullcontext():
                yield

    @property
    def usage(self) -> Usage:
        """Usage of the teacher; all 0 if it counts nothing."""
        return getattr(self.teacher, "usage", None) or Usage()


def work_here(engine: Engine, feed: Feed, out: Path) -> None:
    """Process records with one event loop and some threads in this process. A `Runner`."""
    run_coroutine(engine.work_through(feed, out))


class Feed:
    """The open records of a build, as far as the budget allows. Also takes their results."""

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
        self._patience = patience  # tolerated outages in a row
        self._begun = 0
        self._ended = 0
        self._exhausted = False
        self._answered = False  # the teacher has answered a record, correctly or not
        self._failures = 0  # outages and refusals since the last answer
        # Refused records, until it is clear whether the record or the server is at fault.
        self._held: list[tuple[int, Reject, Mapping[str, int]]] = []

    def __iter__(self) -> Iterator[tuple[int, Record | Reject]]:
        """Yield (number in the source, record or reject). Ends early if the next record would probably exceed the budget."""
        for index, item in enumerate(self._items):
            if index in self._journal.done:
                continue
            if isinstance(item, Record) and not self._affords(self._begun - self._ended + 1):
                return
            self._begun += 1
            yield index, item
        self._exhausted = True

    def take(self, index: int, result: Example | Reject, used: Mapping[str, int]) -> None:
        """Take the result of one record, and the teacher's usage since the previous result.

        Raises:
            EndpointError: the teacher's server has answered no record, or has failed too often in a row.
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
        """Take the results that were held back: the server answers other records, or there are no others."""
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
            what = f"The teacher's server answered none of the first {self._failures} records. Does the model accept images?"
        else:
            return
        for _, _, used in self._held:  # these records are tried again
            self.take_usage(used)
        self._held.clear()
        words = "; ".join(last.attempts[-1]["problems"])
        raise EndpointError(f"{what} The last error, {last.source}: {words}", "gave_up", self._failures, "setup")

    def take_usage(self, used: Mapping[str, int]) -> None:
        """Take the teacher's usage for unfinished records."""
        self._journal.add_usage(used)

    @property
    def spent(self) -> bool:
        """Whether the budget is spent."""
        return not self._affords(0)

    @property
    def unpriced(self) -> bool:
        """Whether there is a budget and the cost of a record is still unknown. Then records are processed one at a time."""
        return self._budget is not None and not self._journal.counts.usage.cost

    @property
    def shortage(self) -> str:
        """Why some records were not processed; "" if all were."""
        if self._exhausted and self._begun == self._ended:
            return ""
        if self._uncounted:
            return "The teacher's server reports no token counts, so the budget cannot be checked. Run without --budget."
        cost = self._journal.counts.usage.cost
        return f"The budget does not cover another record: the teacher has cost {cost:.4g} of {self._budget or 0:.4g}."

    @property
    def _uncounted(self) -> bool:
        counts = self._journal.counts
        return bool(counts.accepted and not counts.usage.prompt_tokens + counts.usage.completion_tokens)

    def _affords(self, unpaid: int) -> bool:
        """Whether the budget covers this many more records, at the mean cost of the previous ones."""
        counts = self._journal.counts
        if self._budget is None:
            return True
        return not self._uncounted and counts.usage.cost * (1 + unpaid / max(1, counts.done)) < self._budget
