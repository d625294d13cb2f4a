"""Ask one or many questions about image files as the settings describe: find the depth, load the model, ask it."""

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

# An unreadable file with one of these endings counts as a broken image, not as another kind of file.
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def think(
    settings: ThinkSettings, image: str | os.PathLike[str], question: str, *, thinker: Thinker | None = None
) -> Thought:
    """Ask a model about an image file.

    Args:
        settings: which model, how it answers, and where depth comes from. The default is the depth file beside the image, or
            no depth if there is none.
        image: the image file.
        question: the question.
        thinker: a loaded model to use instead of `settings.model`, for instance to load it only once in a notebook.
    Raises:
        ConfigError: `settings` is not a `ThinkSettings`, or there is no model in `settings` and no `thinker`.
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
            raise ConfigError("think: model is missing. Set model in the settings, or pass a loaded thinker")
        thinker = open_thinker(settings)
    return thinker.think(picture, question, depth, protocol=settings.protocol, coordinates=settings.coordinates)


def has_depth_beside(image: Path) -> bool:
    """Return whether there is a depth file beside an image, see `estimators.GivenDepth`."""
    return _depth_beside(image) is not None


def _depth_beside(image: Path) -> Path | None:
    files = (Path(f"{image.with_suffix('')}{suffix}") for suffix in BESIDE)
    return next((file for file in files if file.is_file()), None)


def depth_of(image: Path, picture: Image.Image, source: str, files: DepthFiles) -> DepthMap | None:
    """Return the depth of an image.

    Args:
        image: the image file.
        picture: the loaded image.
        source: `given` for the file beside the image, `none`, a depth file, or the folder or Hugging Face name of a depth
            model.
        files: how to read depth files.
    Raises:
        DepthError: the depth file is missing or unreadable, or its size differs from the image.
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
    """One question about every image in a folder.

    Args:
        questions: one question per image, sorted by file name.
        left: skipped files → reason.
        depths: number of depth files beside images; they are skipped too.
        folders: number of subfolders; they are skipped.
    """

    questions: tuple[Question, ...]
    left: dict[str, str]
    depths: int
    folders: int


def questions_about(folder: str | os.PathLike[str], question: str, reading: DepthReading | None = None) -> FolderQuestions:
    """Build one question about every image in a folder. Subfolders are skipped.

    A file is an image if its header is readable as one. A broken file with the ending of an image stays in the list; its row
    in the result reports the error.

    Args:
        folder: folder of images.
        question: the question.
        reading: how to read depth files.
    Raises:
        RecordError: the folder is unreadable or contains no image; the message lists some of its files.
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
        found = f", only {', '.join(list(left)[:5])}" if left else ""
        found += f". Subfolders, such as {folders[0].name}, are skipped" if folders else ""
        raise RecordError(f"{root}: contains no images{found}", "missing_image")
    return FolderQuestions(tuple(asked), left, depths, len(folders))


def _is_depth_of_another(name: str, stems: set[str]) -> bool:
    """Return whether a file is the depth of an image beside it, as `cat.depth.png` beside `cat.jpg`, whose stem is `cat`."""
    return any(name.endswith(suffix) and name.removesuffix(suffix) in stems for suffix in BESIDE)


def with_depth(
    questions: Iterable[Question], source: str | None, cache: str | os.PathLike[str] | None = None
) -> list[Question]:
    """Return questions with the source of their depth.

    Args:
        questions: questions of a file, a folder of images or a benchmark.
        source: `given` for the depth file of the question, or else for the file beside its image, which must exist; `none`;
            the folder or Hugging Face name of a depth model, for questions without depth; None for depth files where they
            exist.
        cache: folder for the maps of a depth model; existing maps are reused.
    Raises:
        ConfigError: the source is a depth file.
        ModelError: the depth model does not exist.
    """
    if source == "none":
        return [replace(question, depth=None) for question in questions]
    if source in ("given", None):
        return [_with_file(question, needed=source == "given") for question in questions]
    if Path(source).is_file():
        raise ConfigError(f"--depth must be given, none or a depth model for many images, got one depth file: {source}")
    model = ModelDepth(source, cache=cache)
    return [replace(question, estimator=model) if question.depth is None else question for question in questions]


def _with_file(question: Question, *, needed: bool) -> Question:
    if question.depth is not None or not isinstance(question.image, Path):
        return question
    # If the file is required, use the first possible name, so the error can report it as missing.
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
    """Ask many questions and write one JSON line per thought, see `results`. Resumes an interrupted call.

    The questions are asked as in an evaluation: in batches, or with simultaneous requests to a server. Answers are kept in a
    journal beside the output and not asked again. The finished evaluation is written to `evaluation_path(output)`;
    `sif eval export` and `sif eval compare` read it.

    Args:
        settings: which model, how it answers, and where depth comes from, see `with_depth`.
        questions: questions from `questions_about` or `read_questions`.
        output: JSON lines file, written atomically after the last question.
        data: the folder or file of the questions.
        thinker: a loaded model to use instead of `settings.model`.
        progress: function called with the number of finished questions and the total.
        fresh: start over instead of resuming.
        asked: further fields of `EvalSettings`, such as `batch_size` and `images`.
    Returns:
        (evaluation, id → why the image or depth could not be read again afterwards).
    Raises:
        ConfigError: the output exists and is not a file of thoughts; and see `evaluate`.
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
        Path(output).unlink()  # after an interruption, the old thoughts would look like the new ones
    evaluation = evaluate(how, questions=found, thinker=thinker, progress=progress, fresh=fresh)
    gone: dict[str, str] = {}
    write_jsonl(output, evaluation_to_json(evaluation, gone))
    return evaluation, gone


def evaluation_path(output: str | os.PathLike[str]) -> Path:
    """Return the path of the evaluation for a file of thoughts: `thoughts.eval.json` beside `thoughts.jsonl`."""
    return Path(output).with_suffix(".eval.json")


def refuse_foreign_thoughts(path: Path) -> None:
    """Refuse to overwrite a file that does not contain thoughts.

    Raises:
        ConfigError: the file is unreadable or contains something else.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        _, first = next(read_jsonl(path), (0, None))
    except RecordError:
        first = None
    if not isinstance(first, dict) or first.get("format") != FORMAT or "steps" not in first:
        raise ConfigError(f"{path} is not a file of thoughts and would be overwritten. Choose another output (-o)")
