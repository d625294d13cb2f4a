"""A dataset folder during a build: its files, its journal, and checks that protect existing files.

A dataset folder contains

    examples.jsonl   the samples, in the order of their records
    rejects.jsonl    rejected records, each with its reason and all teacher attempts
    manifest.json    versions, settings, input hashes, counts
    images/          RGB images, named by content
    depth/           exact depth maps in sifthinker's own format, for rewards
    depth_view/      the same as 8-bit grey, the second image that models see; not needed for maps of 8-bit levels
    usage.json       usage of the teacher, if it counts: requests, tokens, cost
    journal.jsonl    during the build: finished records in the order in which they finished
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sifthinker.endpoint import Usage
from sifthinker.errors import ConfigError
from sifthinker.files import UNFINISHED, to_json
from sifthinker.journal import Journal
from sifthinker.records import Example, Reject

JOURNAL = "journal.jsonl"


FOLDERS = ("images", "depth", "depth_view")


_OURS = re.compile(rf"[0-9a-f]{{24}}(\.[^.]*)?|{re.escape(UNFINISHED)}.*")  # names of the files in them


# A repeated build retries records whose teacher could not be reached. All other rejects are final.
OUTAGE = "teacher_endpoint"


@dataclass(slots=True)
class Counts:
    """Progress of a build, including interrupted runs.

    Args:
        accepted: accepted records.
        clipped: accepted records with clipped boxes.
        corrected: accepted and rejected records whose teacher was asked again, after a reply that could not be used.
        rejected: reason code → rejected records.
        usage: usage of the teacher.
    """

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
        """Records that a repeated build does not retry."""
        return self.accepted + self.settled

    @property
    def settled(self) -> int:
        """Rejected records that a repeated build does not retry."""
        return self.rejected.total() - self.rejected[OUTAGE]

    @property
    def unused(self) -> bool:
        """Whether deleting the build loses nothing: no record was accepted, and the teacher has answered none."""
        answered = {code for code in self.rejected if code.startswith("teacher_")} - {OUTAGE}
        return not (self.accepted or answered or self.usage.prompt_tokens or self.usage.completion_tokens)

    def to_json(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "clipped": self.clipped,
            "corrected": self.corrected,
            "rejected": dict(sorted(self.rejected.items())),
        }


def refuse_foreign(out: Path) -> None:
    """Check that a folder has no third-party files where a build would write, or --fresh would delete.

    Raises:
        ConfigError: it has one.
    """
    for name in ("manifest.json", JOURNAL):
        try:
            with open(out / name, "rb") as stream:
                start = stream.read(4096)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{out / name}: cannot read: {error.strerror}") from None
        if not start or b'"sifthinker"' in start:  # ours, complete or not
            return
        raise ConfigError(f"{out / name} is not from a sifthinker build. Choose another folder")
    theirs = [out / name for name in ("examples.jsonl", "rejects.jsonl", "usage.json") if (out / name).exists()]
    theirs += [file for name in FOLDERS for file in (out / name).glob("*") if not _OURS.fullmatch(file.name)]
    if theirs:
        raise ConfigError(f"{theirs[0]} is not from a sifthinker build. Choose another folder")


def _clear(out: Path) -> None:
    """Delete the files that a build wrote into a folder, except its journal."""
    # Delete the manifest first: without it and with an empty journal, the other files are ignored.
    for name in ("manifest.json", "examples.jsonl", "rejects.jsonl", "usage.json"):
        (out / name).unlink(missing_ok=True)
    for folder in (out / name for name in FOLDERS):
        for file in folder.glob("*"):
            if _OURS.fullmatch(file.name):
                file.unlink()
        with contextlib.suppress(OSError):  # missing or not empty
            folder.rmdir()


def _refuse_change(out: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    old, new = ({"coordinates": "unit", **identity} for identity in (old, new))  # the manifest omits unit coordinates
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if "coordinates" in changed and "resizer" in changed:
        changed.remove("resizer")  # it depends on the coordinates
    if changed:
        raise ConfigError(
            f"{out} contains a build with other settings: "
            + "; ".join(f"{key} was {old.get(key)!r}, now {new.get(key)!r}" for key in changed)
            + ". Choose another folder, or start over with --fresh"
        )


def finished_counts(out: Path, identity: Mapping[str, Any]) -> Counts | None:
    """Return the counts of a finished build with these settings; None if there is none, or if another build has no
    results."""
    kept = _read_manifest(out)
    if kept is None or holds_nothing(out, identity):
        return None
    manifest, found = kept
    _refuse_change(out, manifest, _as_json(identity))
    if found.rejected[OUTAGE]:
        return None
    (out / JOURNAL).unlink(missing_ok=True)  # left by a process that was killed after it wrote the manifest
    if not all((out / f"{kind}s.jsonl").is_file() for kind in ("example", "reject")):
        raise ConfigError(f"{out}: the build is finished, but examples.jsonl or rejects.jsonl is missing. Use --fresh")
    return found


def holds_nothing(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder contains only a finished build with other settings and no results, so it can be overwritten.

    This happens after wrong settings, such as a wrong kind of depth.
    """
    kept = _read_manifest(out)
    # With a journal, the build is not finished and may have more results than its manifest states.
    return kept is not None and not (out / JOURNAL).exists() and kept[1].unused and kept[0] != _as_json(identity)


def _read_manifest(out: Path) -> tuple[dict[str, Any], Counts] | None:
    """Return (identity, counts) from the manifest of a build; None if there is no manifest."""
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        raise ConfigError(f"{out / 'manifest.json'}: cannot read the file. Start over with --fresh") from None
    try:
        counts = manifest.pop("counts")
        found = Counts(counts["accepted"], counts["clipped"], counts["corrected"], Counter(counts["rejected"]))
        with contextlib.suppress(FileNotFoundError):
            totals = json.loads((out / "usage.json").read_text(encoding="utf-8"))
            found.usage = Usage(**{name: value for name, value in totals.items() if name != "cost"})
    except (KeyError, TypeError, AttributeError, ValueError):
        raise ConfigError(f"{out / 'manifest.json'}: the file is incomplete. Start over with --fresh") from None
    return manifest, found


def _as_json(identity: Mapping[str, Any]) -> Any:
    return json.loads(to_json(identity))


class BuildJournal(Journal):
    """Finished records in the order in which they finished.

    Each line is `[index, kind, row, used]`, where `used` is the teacher's usage since the previous line. A line of kind
    `usage` belongs to no record. Rows stay in the file until `write_out`, because a build can have millions.
    """

    busy = "another build is running in this folder"

    def __init__(self, path: Path, identity: Mapping[str, Any], fresh: bool = False) -> None:
        super().__init__(path, identity, fresh=fresh)
        self.counts = Counts()
        self.done: dict[int, int] = {}  # record index → offset of its line

    def forget(self) -> None:
        _clear(self._path.parent)

    def check(self, header: Any) -> None:
        if not isinstance(header, dict):
            raise ConfigError(f"{self._path}, line 1: the line is broken. Start over with --fresh")
        _refuse_change(self._path.parent, header, self._header)

    def take(self, line: Any, offset: int) -> None:
        index, kind, row, used = line
        self.counts.usage.add(used)
        if kind != "usage" and (kind != "reject" or row["code"] != OUTAGE):
            self._count(index, offset, kind, row)

    def add_record(self, index: int, result: Example | Reject, used: Mapping[str, int]) -> None:
        """Add the result of a record."""
        kind = "example" if isinstance(result, Example) else "reject"
        row = result.to_json()
        offset = self._append([index, kind, row, used])
        self.counts.usage.add(used)
        self._count(index, offset, kind, row)

    def add_usage(self, used: Mapping[str, int]) -> None:
        """Add the teacher's usage for unfinished records."""
        if used:
            self._append([None, "usage", {}, used])
            self.counts.usage.add(used)

    def write_out(self, out: Path) -> None:
        """Write the rows of the journal to the two files of the dataset, in the order of their records."""
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
