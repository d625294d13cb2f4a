"""Questions about image files, by settings: the depth found, the model loaded and asked; one at a time, or many."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from sifthinker.ask_settings import AskSettings, DepthFiles, ThinkSettings
from sifthinker.depth import DepthMap, DepthReading
from sifthinker.engine.estimators import BESIDE, ModelDepth, given_depth
from sifthinker.errors import ConfigError, ImageError, RecordError
from sifthinker.evaluation.questions import Question
from sifthinker.evaluation.run import Evaluation, evaluate
from sifthinker.evaluation.settings import EvalSettings
from sifthinker.files import read_jsonl, write_jsonl
from sifthinker.images import image_size, load_image
from sifthinker.records import Record
from sifthinker.results import FORMAT, evaluation_to_json
from sifthinker.served import open_thinker
from sifthinker.thinker import Thinker, Thought

Progress = Callable[[int, int], None]

# Of pictures that cameras, phones and the net give: a file of such a name that cannot be read is a broken one.
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def think(
    settings: ThinkSettings, image: str | os.PathLike[str], question: str, *, thinker: Thinker | None = None
) -> Thought:
    """Ask a model about an image file.

    Args:
        settings: which model, how it answers, and where depth comes from: by default from a depth file beside the image,
            and nowhere if there is none.
        image: the file.
        question: in words.
        thinker: a loaded model, asked instead of `settings.model`; a notebook loads it once.
    Raises:
        ConfigError: settings that are none, or neither they nor `thinker` name a model.
        ImageError, DepthError, ModelError: the image, its depth or the model cannot be loaded.
    Example:
        >>> thought = think(ThinkSettings(model="runs/grpo"), "kitchen.jpg", "What is on the shelf?")  # doctest: +SKIP
        >>> thought.answer, len(thought.steps)  # doctest: +SKIP
        ('a blue mug', 3)
    """
    ThinkSettings.expect(settings)
    path = Path(image)
    picture = load_image(path)
    depth = depth_of(path, picture, settings.depth or ("given" if has_depth_beside(path) else "none"), settings)
    if thinker is None:
        if settings.model is None:
            raise ConfigError("think: no model; name one in the settings, or give a loaded thinker")
        thinker = open_thinker(settings)
    return thinker.think(picture, question, depth, protocol=settings.protocol, coordinates=settings.coordinates)


def has_depth_beside(image: Path) -> bool:
    """Whether a depth file lies beside an image, see `estimators.GivenDepth`."""
    return _depth_beside(image) is not None


def _depth_beside(image: Path) -> Path | None:
    files = (Path(f"{image.with_suffix('')}{suffix}") for suffix in BESIDE)
    return next((file for file in files if file.is_file()), None)


def depth_of(image: Path, picture: Image.Image, source: str, files: DepthFiles) -> DepthMap | None:
    """The depth of an image.

    Args:
        image: its file.
        picture: the same, loaded.
        source: `given` for the file beside it, `none`, a depth file, or a depth model's folder or Hugging Face name.
        files: how depth files are read.
    Raises:
        DepthError: the depth file is missing, cannot be read, or has another size than the image.
        ModelError: the depth model cannot be loaded.
    """
    if source == "none":
        return None
    named = Path(source) if source != "given" and Path(source).is_file() else None
    whole = ((0.0, 0.0, 1.0, 1.0),)
    depth = None if named is None else named.name
    record = Record(id="image", image=image.name, question="?", answer="?", boxes=whole, depth=depth)
    root = image.parent if named is None else named.parent
    found = given_depth(files) if source == "given" or named is not None else ModelDepth(source)
    return found.read(record, root, picture)


@dataclass(frozen=True, slots=True)
class FolderQuestions:
    """One question about every image of a folder.

    Args:
        questions: one an image, by name.
        left: files that are asked nothing → why.
        depths: how many depth files lie beside their images; they are asked nothing either.
        folders: how many folders are in it; they are not looked into.
    """

    questions: tuple[Question, ...]
    left: dict[str, str]
    depths: int
    folders: int


def questions_about(folder: str | os.PathLike[str], question: str, reading: DepthReading | None = None) -> FolderQuestions:
    """One question about every image of a folder, not of folders in it.

    A file is an image if its header can be read as one. One that only has the name of a picture stays among the questions:
    it is broken, and its row will say how.

    Args:
        folder: of images.
        question: in words.
        reading: how depth files are read.
    Raises:
        RecordError: it cannot be read, or holds no image; names what it holds.
    """
    root = Path(folder)
    try:
        files = sorted(root.iterdir())
    except OSError as error:
        raise RecordError(f"{root}: cannot read: {error.strerror}", "missing_file") from None
    folders = [path for path in files if path.is_dir()]
    stems = {path.stem for path in files}
    asked: list[Question] = []
    left: dict[str, str] = {}
    depths = 0
    for path in files:
        if path.is_dir():
            continue
        if _is_depth_of_another(path.name, stems):
            depths += 1
            continue
        if path.suffix.lower() not in _PICTURES:
            try:
                image_size(path)
            except ImageError as error:
                left[path.name] = str(error)
                continue
        asked.append(Question(path.name, path, question, reading=reading or DepthReading(), source=str(path)))
    if not asked:
        holds = f"; it holds {', '.join(list(left)[:5])}" if left else ""
        holds += f"; folders in it, such as {folders[0].name}, are not looked into" if folders else ""
        raise RecordError(f"{root}: holds no image{holds}", "missing_image")
    return FolderQuestions(tuple(asked), left, depths, len(folders))


def _is_depth_of_another(name: str, stems: set[str]) -> bool:
    """Whether a file is the depth of one beside it: `cat.depth.png` where there is a `cat.jpg`, whose stem is `cat`."""
    return any(name.endswith(suffix) and name.removesuffix(suffix) in stems for suffix in BESIDE)


def with_depth(
    questions: Iterable[Question], source: str | None, cache: str | os.PathLike[str] | None = None
) -> list[Question]:
    """Questions with the depth that they are asked with.

    Args:
        questions: of a file, a folder of images or a benchmark.
        source: `given` for the depth file that a question names, or else for the one beside its image, which must be there;
            `none`; a depth model's folder or Hugging Face name, which estimates the depth when a question without is asked;
            None for depth files where there are any.
        cache: folder for the maps of a depth model; what is there is not estimated again.
    Raises:
        ConfigError: a depth file.
        ModelError: there is no such model.
    """
    if source == "none":
        return [replace(question, depth=None) for question in questions]
    if source in ("given", None):
        return [_with_file(question, needed=source == "given") for question in questions]
    if Path(source).is_file():
        raise ConfigError(f"--depth {source} is one depth file for many images; wanted given, none or a depth model")
    model = ModelDepth(source, cache=cache)
    return [replace(question, estimator=model) if question.depth is None else question for question in questions]


def _with_file(question: Question, *, needed: bool) -> Question:
    if question.depth is not None or not isinstance(question.image, Path):
        return question
    # The first name, where there must be one, so that the error says what is missing.
    missing = Path(f"{question.image.with_suffix('')}{BESIDE[0]}") if needed else None
    return replace(question, depth=_depth_beside(question.image) or missing)


def think_many(
    settings: ThinkSettings,
    questions: Sequence[Question],
    output: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    thinker: Thinker | None = None,
    progress: Progress | None = None,
    fresh: bool = False,
    **asked: Any,
) -> tuple[Evaluation, dict[str, str]]:
    """Ask many questions, or go on with asking them: one JSON line a thought, see `results`.

    They are asked as an evaluation asks them: in batches, or several at once of a server; what is answered is kept in a
    journal beside the output and not asked again. `evaluation_path` is the finished evaluation, which `sif eval export` and
    `sif eval compare` take.

    Args:
        settings: which model, how it answers, and where depth comes from, see `with_depth`.
        questions: of `questions_about` or `read_questions`.
        output: JSON lines to write, atomically, once every question was asked.
        data: the folder or file that the questions are from.
        thinker: a loaded model, asked instead of `settings.model`.
        progress: called with the number of questions done and of all.
        fresh: start over.
        asked: further fields of `EvalSettings`, such as `batch_size` and `images`.
    Returns:
        (evaluation, id → why its image or depth could not be read again afterwards).
    Raises:
        ConfigError: the output is no file of thoughts; and see `evaluate`.
    """
    ThinkSettings.expect(settings)
    refuse_foreign_thoughts(Path(output))
    found = with_depth(questions, settings.depth, Path(output).absolute().with_suffix(".depth"))
    shared = {name: getattr(settings, name) for name in (*AskSettings.model_fields, *DepthFiles.model_fields)}
    how = EvalSettings(
        **{
            **shared,
            **asked,
            "data": str(data),
            "output": str(evaluation_path(output)),
            "rgb_only": settings.depth == "none",
        }
    )
    if fresh and Path(output).is_file():
        Path(output).unlink()  # or, interrupted, the old thoughts would pass for the new ones
    evaluation = evaluate(how, questions=found, thinker=thinker, progress=progress, fresh=fresh)
    gone: dict[str, str] = {}
    write_jsonl(output, evaluation_to_json(evaluation, gone))
    return evaluation, gone


def evaluation_path(output: str | os.PathLike[str]) -> Path:
    """Where the evaluation behind a file of thoughts lies: `thoughts.eval.json` beside `thoughts.jsonl`."""
    return Path(output).with_suffix(".eval.json")


def refuse_foreign_thoughts(path: Path) -> None:
    """Refuse to write thoughts over a file that holds none.

    Raises:
        ConfigError: somebody else's file, or one that cannot be read.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        _, first = next(read_jsonl(path), (0, None))
    except RecordError:
        first = None
    if not isinstance(first, dict) or first.get("format") != FORMAT or "steps" not in first:
        raise ConfigError(f"{path} is not a file of thoughts and would be written over; choose another -o")
