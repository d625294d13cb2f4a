"""Ablation study: the effect of each part of the method, measured on the embedded world with the nano model.

An arm is a way to train. A lab runs arms with one seed. It runs stages that several arms share only once, and it skips
finished stages, so an interrupted study resumes where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sifthinker import __version__
from sifthinker.engine.build import Engine
from sifthinker.engine.estimators import GivenDepth, NoDepth
from sifthinker.engine.folder import Counts
from sifthinker.engine.settings import Expansion
from sifthinker.engine.sources import read_source
from sifthinker.errors import ConfigError
from sifthinker.evaluation.metrics import METRICS, Row, bootstrap, group_by, paired_difference
from sifthinker.files import atomic_write, make_folder, to_json
from sifthinker.fingerprint import model_fingerprint
from sifthinker.lab.benchmark import evaluate
from sifthinker.lab.questions import DECIMALS, write_world
from sifthinker.lab.scenes import REFERENCE_SIZE
from sifthinker.lab.teacher import ScriptedTeacher
from sifthinker.show.report import study_page, write_page
from sifthinker.thinker import Thinker
from sifthinker.training.settings import make_config

Bar = Callable[[str, "int | None"], AbstractContextManager[Callable[..., None]]]
Say = Callable[[str], None]
Data = Literal["chains", "rgb", "release"]
Measured = Mapping[str, Mapping[int, Sequence[Row]]]  # arm → seed → rows

_EXPANSIONS: dict[Data, Expansion] = {
    "chains": Expansion(decimals=DECIMALS),
    "rgb": Expansion(decimals=DECIMALS),
    "release": Expansion(decimals=DECIMALS, margin=1 / REFERENCE_SIZE),  # by one pixel
}


@dataclass(frozen=True, slots=True)
class Arm:
    """A way to train the base model.

    Args:
        name: name in folders and commands.
        title: title for display.
        sft: data for SFT: `chains`, or `answers` without steps. None skips SFT.
        grpo: settings of the GRPO-SIF config that differ from the defaults. None skips GRPO.
        data: kind of chains: `chains` with depth, `rgb` without depth, `release` with the expansion of the paper's release.
    """

    name: str
    title: str
    sft: Literal["chains", "answers"] | None = "chains"
    grpo: Mapping[str, Any] | None = None
    data: Data = "chains"

    @property
    def direct(self) -> bool:
        """Whether the model answers without steps."""
        return self.sft != "chains"


ARMS = {
    arm.name: arm
    for arm in (
        Arm("base", "base, answering directly", sft=None),
        Arm("answers", "SFT on answers", sft="answers"),
        Arm("chains", "SFT on chains"),
        Arm(
            "vanilla",
            "+ GRPO: format and answer, no progress",
            grpo={"rewards": {"grounding": 0, "depth": 0}, "reward_terms": {"progress": False}},
        ),
        Arm("grpo-sif", "+ GRPO-SIF", grpo={}),
        Arm("no-progress", "GRPO-SIF without progress", grpo={"reward_terms": {"progress": False}}),
        Arm("no-correction", "GRPO-SIF without correction", grpo={"reward_terms": {"correction": "off"}}),
        Arm("group-correction", "GRPO-SIF, correction against the group", grpo={"reward_terms": {"correction": "group"}}),
        Arm("no-grounding", "GRPO-SIF without grounding", grpo={"rewards": {"grounding": 0}}),
        Arm("no-depth-reward", "GRPO-SIF without the depth reward", grpo={"rewards": {"depth": 0}}),
        Arm("rgb", "SFT and GRPO-SIF, RGB only", grpo={}, data="rgb"),
        Arm(
            "release",
            "SFT and GRPO-SIF, the release's expansion and paired IoU",
            grpo={"reward_terms": {"denominator": "min", "depth_repeats": True}},
            data="release",
        ),
    )
}

REFERENCES = ("chains", "grpo-sif")  # arms that every other arm is compared with


@dataclass(frozen=True, slots=True)
class Schedule:
    """Sizes and learning rates of a study.

    Args:
        questions: number of training questions. Each has its own scene and chain.
        sft_steps: number of SFT steps.
        sft_batch: chains per SFT step.
        sft_lr: learning rate of AdamW in SFT.
        sft_muon_lr: learning rate of Muon in SFT, for the matrices.
        grpo_steps: number of GRPO steps, with 8 completions per question.
        prompts: questions per GRPO step.
        grpo_questions: number of training questions for GRPO, taken from the start. Each is visited several times, because
            the answer reward compares with the visit before.
        grpo_lr: learning rate of AdamW in GRPO.
        grpo_muon_lr: learning rate of Muon in GRPO, for the matrices.
        test_questions: number of held-out questions. Every arm answers them.
        max_tokens: maximum length of a chain, in tokens. The longest of a thousand ground-truth chains has 157.
    """

    questions: int = 4000
    sft_steps: int = 240
    sft_batch: int = 32
    sft_lr: float = 1e-3
    sft_muon_lr: float = 1.5e-3
    grpo_steps: int = 30
    prompts: int = 8
    grpo_questions: int = 120
    grpo_lr: float = 1e-4
    grpo_muon_lr: float = 2e-4
    test_questions: int = 324
    max_tokens: int = 260


# The study has three times as many chains as the demo, and four times as many GRPO steps.
STUDY = Schedule(questions=12_000, sft_steps=400, grpo_steps=120, grpo_questions=320, test_questions=648)
SHORT = Schedule(questions=54, sft_steps=4, sft_batch=8, grpo_steps=2, prompts=2, grpo_questions=2, test_questions=9)

# Folders that a lab writes and may delete.
_STAGES = (
    *_EXPANSIONS,
    "world",
    *(f"sft-{data}" for data in (*_EXPANSIONS, "answers")),
    *(f"grpo-{arm}" for arm in ARMS),
)
_MARKER = "lab.json"  # identifies the run in a folder
_SEED = "seed-"  # prefix of the folder of each seed in a study
_NUMBERS = "study.json"
_PAGE = "study.html"


@dataclass
class Lab:
    """A folder in which arms run with one seed.

    Args:
        folder: folder for data, models and results of one schedule and one seed.
        schedule: sizes and learning rates.
        bar: creates a progress bar: title, total → context manager that yields advance(done).
        say: prints a line for the user.
        seed: random seed of the training questions, their order and the sampling. The test questions do not depend on it.
        base: model to start from.
    Raises:
        ConfigError: the folder contains a run with another schedule, seed or base, or other files that a stage would
            overwrite.
        SIFError: the folder cannot be written.
    """

    folder: Path
    schedule: Schedule
    bar: Bar
    say: Say
    seed: int = 0
    base: str = "nano"

    def __post_init__(self) -> None:
        make_folder(self.folder)
        mine = _marker(self.schedule, self.base, self.seed)
        if Lab.is_in(self.folder):
            _check_marker(self.folder, mine)
        else:
            refuse_foreign(self.folder, (*_STAGES, *map(_measurement, ARMS)))
            atomic_write(self.folder / _MARKER, to_json(mine) + "\n")

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Return whether a folder contains a lab."""
        return (folder / _MARKER).is_file()

    @staticmethod
    def clear(folder: Path) -> None:
        """Delete the files of a lab from a folder, and nothing else.

        Raises:
            ConfigError: the folder does not contain a lab.
        """
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        if not Lab.is_in(folder):
            raise ConfigError(
                f"{folder}: expected an empty folder or an earlier run, got other files. --fresh deletes only files of an "
                "earlier run; choose another folder with -o"
            )
        for name in _STAGES:
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in (*map(_measurement, ARMS), _MARKER):
            (folder / name).unlink(missing_ok=True)

    def run(self, arm: Arm) -> list[Row]:
        """Train an arm and evaluate it on the test questions. Finished results are read from the folder."""
        found = _read_rows(self.folder, arm.name)
        if found is not None:
            return found
        model = self.model(arm)
        thinker = Thinker.load(model, max_new_tokens=self.schedule.max_tokens)
        count = self.schedule.test_questions
        with self.bar(f"questions, {arm.title}", count) as advance:
            _, rows = evaluate(
                thinker,
                count,
                direct=arm.direct,
                rgb_only=arm.data == "rgb",
                batch_size=108,
                progress=advance,
            )
        measured = {"arm": arm.name, "rows": [row.to_json() for row in rows]}
        atomic_write(self.folder / _measurement(arm.name), to_json(measured) + "\n")
        return rows

    def model(self, arm: Arm) -> str:
        """Return the folder or name of an arm's model. Train it first if necessary."""
        if arm.sft is None:
            return self.base
        chains = self._chains(arm.data)
        warm = self._sft(arm, chains)
        return warm if arm.grpo is None else self._grpo(arm, warm, chains)

    def _chains(self, data: Data) -> Path:
        records = self.folder / "world" / "records.jsonl"
        count = self.schedule.questions
        if not records.is_file():
            with self.bar("scenes", count) as advance:
                write_world(records.parent, count, seed=self.seed, progress=advance)
        out = self.folder / data
        engine = Engine(
            root=records.parent,
            depth=NoDepth() if data == "rgb" else GivenDepth(),
            teacher=ScriptedTeacher(),
            expansion=_EXPANSIONS[data],
        )
        with self.bar(f"chains ({data})" if data != "chains" else "chains", count) as advance:

            def progress(counts: Counts) -> None:
                advance(counts.done)

            engine.build(lambda: read_source(records), out, progress=progress)
        return out

    def _sft(self, arm: Arm, chains: Path) -> str:
        from sifthinker.training.runs import is_finished
        from sifthinker.training.sft import train_sft

        out = self.folder / f"sft-{'answers' if arm.sft == 'answers' else arm.data}"
        if not is_finished(out):
            self.say(f"SFT: the model learns to {'answer directly' if arm.sft == 'answers' else 'write chains'}")
            steps = self.schedule.sft_steps
            values = self._settings(
                self.base,
                chains,
                out,
                muon_lr=self.schedule.sft_muon_lr,
                max_steps=steps,
                per_device_train_batch_size=self.schedule.sft_batch,
                learning_rate=self.schedule.sft_lr,
                lr_scheduler_type="linear",
                logging_steps=max(1, steps // 40),
                save_steps=max(1, steps // 3),
            )
            train_sft(make_config({**values, "answers_only": arm.sft == "answers"}, "sft"))
        return str(out)

    def _grpo(self, arm: Arm, warm: str, chains: Path) -> str:
        from sifthinker.training.grpo import train_grpo
        from sifthinker.training.runs import is_finished

        out = self.folder / f"grpo-{arm.name}"
        if not is_finished(out):
            self.say(f"{arm.title}: the model answers each question 8 times and learns from the better answers")
            steps = self.schedule.grpo_steps
            values = self._settings(
                warm,
                chains,
                out,
                limit=self.schedule.grpo_questions,
                muon_lr=self.schedule.grpo_muon_lr,
                max_steps=steps,
                per_device_train_batch_size=self.schedule.prompts * 8,
                learning_rate=self.schedule.grpo_lr,
                lr_scheduler_type="constant_with_warmup",
                max_completion_length=self.schedule.max_tokens,
                save_steps=max(1, steps // 4),
            )
            train_grpo(make_config({**values, **(arm.grpo or {})}, "grpo"))
        return str(out)

    def _settings(
        self,
        model: str,
        chains: Path,
        out: Path,
        *,
        muon_lr: float,
        max_steps: int,
        limit: int | None = None,
        **training: Any,
    ) -> dict[str, Any]:
        """Return the config of a stage: the settings that both stages share, and its own fields of `training`."""
        shared = {"warmup_steps": max(1, max_steps // 20), "save_total_limit": 1, "seed": self.seed}
        return {
            "model": model,
            "data": str(chains),
            "output": str(out),
            "limit": limit,
            "muon_lr": muon_lr,
            "training": {"max_steps": max_steps, **shared, **training},
        }


def run_study(
    output: Path,
    *,
    arms: Sequence[str],
    seeds: Sequence[int],
    schedule: Schedule,
    bar: Bar,
    say: Say,
    base: str = "nano",
    fresh: bool = False,
) -> Path:
    """Run arms with several seeds, or resume an interrupted study.

    After each new arm, `study.json` (see `summarise_study`) and `study.html` are written. They cover all results in the
    folder. Several processes may run one study at the same time, each with different seeds.

    Args:
        output: folder of the study, with a subfolder for each seed.
        arms: names from `ARMS`.
        seeds: random seeds of the runs.
        schedule: sizes and learning rates.
        bar: see `Lab`.
        say: see `Lab`.
        base: see `Lab`.
        fresh: start over with these seeds.
    Returns:
        Path of the page.
    Raises:
        ConfigError: an arm is unknown, or the folder contains another study or other files that the study would overwrite.
    """
    unknown = [name for name in arms if name not in ARMS]
    if unknown:
        raise ConfigError(f"unknown arm {unknown[0]!r}; expected one of {', '.join(ARMS)}")
    folders = {seed: output / f"{_SEED}{seed}" for seed in seeds}
    if not _is_study(output):
        refuse_foreign(output, (_NUMBERS, _PAGE))
    if fresh:
        for folder in folders.values():
            Lab.clear(folder)
    _finished(output, schedule, base)  # refuses the folder of another study before hours of work
    for seed, folder in folders.items():
        lab = Lab(folder, schedule, bar, say, seed=seed, base=base)
        for name in arms:
            say(f"seed {seed}, {ARMS[name].title}")
            known = (folder / _measurement(name)).is_file()
            lab.run(ARMS[name])
            if not known:
                _write(output, schedule, base)
    return _write(output, schedule, base)


def _write(output: Path, schedule: Schedule, base: str) -> Path:
    """Write the numbers and the page of all finished results. Return the path of the page."""
    summary = summarise_study(_finished(output, schedule, base), schedule)
    atomic_write(output / _NUMBERS, json.dumps(summary, indent=1) + "\n")
    write_page(output / _PAGE, study_page(summary, METRICS, REFERENCES))
    return output / _PAGE


def _is_study(output: Path) -> bool:
    """Return whether a folder contains a study: the folder of a seed, or the numbers."""
    if any(output.glob(f"{_SEED}*/{_MARKER}")):
        return True
    try:
        found = json.loads((output / _NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.keys() >= {"version", "schedule", "arms"}


def refuse_foreign(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder without a run that contains files under the names that a run writes.

    Raises:
        ConfigError: there is such a file.
    """
    for name in names:
        if (folder / name).exists():
            raise ConfigError(
                f"{folder / name} was not written by a sif run, and this run would overwrite it; choose another folder "
                "with -o"
            )


def _finished(output: Path, schedule: Schedule, base: str) -> Measured:
    """Read the finished results of every arm and seed."""
    found_in = [path.parent for path in output.glob(f"{_SEED}*/{_MARKER}")]
    numbered = {path.name.removeprefix(_SEED): path for path in found_in}
    folders = {int(number): path for number, path in numbered.items() if number.isdecimal()}
    for seed, folder in folders.items():
        _check_marker(folder, _marker(schedule, base, seed))
    found = {arm: {seed: _read_rows(folders[seed], arm) for seed in sorted(folders)} for arm in ARMS}
    return {arm: {seed: rows for seed, rows in of_seeds.items() if rows is not None} for arm, of_seeds in found.items()}


def _measurement(arm: str) -> str:
    return f"eval-{arm}.json"


def _read_rows(folder: Path, arm: str) -> list[Row] | None:
    """Read the rows of an arm; None if it is not finished."""
    path = folder / _measurement(arm)
    if not path.is_file():
        return None
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [Row.from_json(row if "completion" in row else _of_older(row), str(path)) for row in rows]


def _of_older(row: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a row from an older version, whose evaluation supported only the world."""
    values = dict(row["values"])
    final, gain = values["final HIoU"], values["correction gain"]
    values.setdefault("first HIoU", None if final is None or gain is None else final - gain)
    groups = {"level": row["level"], "combination": "new" if row["novel"] else "known"}
    kept = {key: row[key] for key in ("id", "family", "question", "boxes")}
    asked: dict[str, Any] = {
        "dataset": "world",
        "split": "test",
        "tags": groups,
        "prompt": "",
        "choices": [],
        "depth": None,
    }
    told = {"answers": [row["truth"]], "image": f"{row['scene']}.png", "completion": row["text"], "problems": []}
    return {**kept, **asked, **told, "values": values}


def _marker(schedule: Schedule, base: str, seed: int) -> dict[str, Any]:
    content = model_fingerprint(base)
    return {"schedule": asdict(schedule), "seed": seed, "base": base, "base_content": content, "version": __version__}


def _check_marker(folder: Path, mine: Mapping[str, Any]) -> None:
    """Check that a lab's folder belongs to this run.

    Raises:
        ConfigError: it belongs to another run.
    """
    theirs = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    theirs.setdefault("base_content", mine["base_content"])  # missing in folders of older versions
    if theirs != mine:
        raise ConfigError(
            f"{folder} contains another run: {_difference(theirs, mine)}. Start over with --fresh, or choose another folder "
            "with -o"
        )


def summarise_study(measured: Measured, schedule: Schedule) -> dict[str, Any]:
    """Summarise a study as plain numbers.

    Every arm answers the same questions, with every seed. Each question is averaged over seeds first, and a mean is over
    questions. Its 95 % bootstrap interval resamples questions. Differences from an arm of `REFERENCES` are paired by
    question, over the seeds that both arms have. The difficulty of a question cancels out, so these intervals are narrower.

    Args:
        measured: arm → seed → rows.
        schedule: sizes and learning rates.
    Returns:
        `version`, `schedule`, and `arms`. Each arm has its title, its number of seeds, its metrics (mean of each seed,
        standard deviation between seeds, overall mean and interval), the accuracy by family, and the differences from each
        reference.
    """
    arms = {}
    for name, of_seeds in measured.items():
        if not of_seeds:
            continue
        metrics: dict[str, Any] = {}
        for metric in METRICS:
            values = _by_question(of_seeds.values(), metric)
            if not values:
                continue
            means = [float(np.mean(list(_by_question([rows], metric).values()))) for rows in of_seeds.values()]
            spread = float(np.std(means, ddof=1)) if len(means) > 1 else None
            metrics[metric] = {"seeds": means, "std": spread, **asdict(bootstrap(list(values.values())))}
        arms[name] = {
            "title": ARMS[name].title,
            "seeds": len(of_seeds),
            "metrics": metrics,
            "families": _by_family(of_seeds.values()),
            "differences": {
                reference: found
                for reference in REFERENCES
                if reference != name and (found := _differences(of_seeds, measured.get(reference, {})))
            },
        }
    return {"version": __version__, "schedule": asdict(schedule), "arms": arms}


def _by_question(of_seeds: Iterable[Sequence[Row]], metric: str) -> dict[str, float]:
    """Return the mean over seeds of a metric, for each question that has the metric."""
    found: dict[str, list[float]] = {}
    for rows in of_seeds:
        for row in rows:
            if (value := row.values[metric]) is not None:
                found.setdefault(row.id, []).append(value)
    return {question: float(np.mean(values)) for question, values in found.items()}


def _by_family(of_seeds: Iterable[Sequence[Row]]) -> dict[str, Any]:
    """Return the answer accuracy of each question family."""
    groups = group_by((row for rows in of_seeds for row in rows), lambda row: row.family)
    return {
        family: asdict(bootstrap(list(_by_question([groups[family]], "answer accuracy").values())))
        for family in sorted(groups)
    }


def _differences(mine: Mapping[int, Sequence[Row]], theirs: Mapping[int, Sequence[Row]]) -> dict[str, Any]:
    """Return metric → this arm minus the other arm, paired by question, over the seeds and questions that both have."""
    seeds = sorted(mine.keys() & theirs.keys())
    differences = {}
    for metric in METRICS:
        ours, others = (_by_question((arm[seed] for seed in seeds), metric) for arm in (mine, theirs))
        difference = paired_difference(ours, others)
        if difference:
            differences[metric] = asdict(difference)
    return differences


def _difference(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """Describe the first setting in which two runs differ."""
    flat = [
        {**{f"schedule.{key}": value for key, value in run.get("schedule", {}).items()}, **run, "schedule": None}
        for run in (theirs, mine)
    ]
    key = next((key for key in flat[0] | flat[1] if flat[0].get(key) != flat[1].get(key)), "schedule")
    return f"{key} was {flat[0].get(key)!r}, now {flat[1].get(key)!r}"
