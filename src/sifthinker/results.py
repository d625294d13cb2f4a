"""Thoughts of models as data: one JSON object per thought, and export formats of annotation and drawing tools.

    thought ─ thought_to_json ─┬─ a line of `sif think`
    row of an evaluation ──────┤
    example of a dataset ──────┴─ to_coco, to_label_studio
    thought, chain ─ to_detections (supervision)

Format 1 of a thought. Every line has every key. Later versions may add keys; a key with a new meaning would make format 2.

| key | content |
| --- | --- |
| `format` | 1 |
| `id` | id of the question, or "" |
| `image` | `file` as given, `width` and `height` in pixels; null if the image is gone |
| `question`, `protocol` | the question, and the protocol: direct, chain or structured |
| `answer` | the answer, or null |
| `steps` | list of `words` and `regions` |
| `regions` | list of `box` (x1, y1, x2, y2 as fractions), `box_px` (pixels), `depth_stated`, `depth_true` (0 near, 1 far) |
| `problems` | list of `code`, `message` and `position` (a character of `text`); empty for a valid chain |
| `complete` | false if the model reached the token limit |
| `text`, `reply` | the chain or direct answer; the reply that the chain was built from, or "" |
| `coordinates`, `resized` | meaning of the box coordinates in `text`, see `coordinates.Frame` |
| `tokens`, `seconds` | `read` (prompt) and `written` (completion) tokens, and the duration; null if unknown |
| `truth` | ground truth as far as known: `answers`, `choices`, `boxes` (fractions); the `verdict` on the answer |
| `about` | `dataset`, `split`, `family`, `tags`, `depth` file, complete `prompt`, and `values` of the metrics |
| `error` | why the question could not be asked, or "" |
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

from sifthinker.chain import Chain, Problem, Region, region_boxes
from sifthinker.depth import DepthMap, DepthReading
from sifthinker.errors import ConfigError, DepthError, ImageError, RecordError, need
from sifthinker.evaluation.metrics import Row
from sifthinker.evaluation.questions import Question
from sifthinker.evaluation.run import Evaluation
from sifthinker.files import inside
from sifthinker.literals import ThinkProtocol
from sifthinker.records import Example
from sifthinker.thinker import Thought, problems_of

if TYPE_CHECKING:
    import supervision

FORMAT = 1

# URL of Label Studio's local files; see LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT in its manual.
LABEL_STUDIO_FILES = "/data/local-files/?d="

TARGET = "target"  # the label of boxes that answer the question

_GREY = Image.new("RGB", (256, 256), (90, 90, 90))

Item = Thought | Mapping[str, Any]


def thought_to_json(thought: Thought, *, id: str = "", file: str = "") -> dict[str, Any]:
    """Convert a thought to plain values, in format 1 of docs/reference/files.md.

    Args:
        thought: the thought.
        id: id of the question.
        file: path of the image file for the reader of the JSON.
    Example:
        >>> told = thought_to_json(Thought("Which is it?", Image.new("RGB", (640, 480)), None, "A mug.", protocol="direct"))
        >>> told["answer"], told["image"]["width"], told["steps"]
        ('A mug.', 640, [])
    """
    return _to_json(thought, thought.image.size, thought.depth, id=id, file=file)


def _to_json(
    thought: Thought, size: tuple[int, int] | None, depth: DepthMap | None, *, id: str, file: str
) -> dict[str, Any]:
    """Like `thought_to_json`, with separate image size and depth, since both files may be gone by now."""
    width, height = size or (None, None)
    reading = thought.reading
    return {
        "format": FORMAT,
        "id": id,
        "image": {"file": file, "width": width, "height": height},
        "question": thought.question,
        "protocol": thought.protocol,
        "answer": thought.answer,
        "steps": [
            {"words": words, "regions": _regions(regions, size, depth)}
            for regions, words in (() if thought.direct else reading.steps)
        ],
        "problems": [
            {"code": problem.code, "message": problem.message, "position": problem.position}
            for problem in problems_of(thought)
        ],
        "complete": thought.complete,
        "text": thought.text,
        "reply": thought.reply,
        "coordinates": thought.frame.space,
        "resized": None if thought.frame.size is None else list(thought.frame.size),
        "tokens": dict(zip(("read", "written"), thought.tokens, strict=True)) if thought.tokens else None,
        "seconds": round(thought.seconds, 3) or None,
        "truth": {"answers": [], "choices": [], "boxes": [], "verdict": None},
        "about": {},
        "error": "",
    }


def _regions(regions: Sequence[Region], size: tuple[int, int] | None, depth: DepthMap | None) -> list[dict[str, Any]]:
    true = [math.nan] * len(regions)
    if depth is not None and regions:
        true = depth.mean(region_boxes(regions)).tolist()
    return [
        {
            "box": list(region.box),
            "box_px": None if size is None else _pixels(region.box, size),
            "depth_stated": region.depth,
            "depth_true": None if math.isnan(known) else round(known, 4),
        }
        for region, known in zip(regions, true, strict=True)
    ]


def _pixels(box: Sequence[float], size: tuple[int, int]) -> list[float]:
    """Convert a unit box to pixels, rounded to two decimals."""
    return [round(side * of, 2) for side, of in zip(box, size * 2, strict=True)]


def thought_of_row(row: Row, image: Image.Image | None, depth: DepthMap | None, protocol: ThinkProtocol) -> Thought:
    """Rebuild the thought from a row of an evaluation.

    Args:
        row: row of a question that was asked.
        image: the image of the question; None if it is gone, which gives a grey image.
        depth: depth of the image. If it is gone, a flat map replaces it, so the text is still read with depths.
        protocol: protocol of the evaluation.
    """
    picture = _GREY if image is None else image
    if depth is None and row.depth is not None:
        width, height = picture.size
        depth = DepthMap(np.full((height, width), 0.5, np.float32))
    return Thought(
        row.question,
        picture,
        depth,
        row.completion,
        reply=row.reply,
        faults=tuple(Problem(code, 0, message) for code, message in row.faults),
        complete=row.complete,
        protocol=protocol,
        frame=row.frame,
        tokens=row.tokens,
    )


def files_of_row(row: Row, question: Question | None) -> tuple[Image.Image | None, DepthMap | None, str]:
    """Return the image and the depth of a row, or None, and why one of them is missing ("" if none is).

    Args:
        row: row of an evaluation.
        question: the question of the row; None if the path of its image is unknown.
    """
    if question is None:
        return None, None, "the path of the image is unknown"
    sizes = zip(row.file_sizes, question.file_sizes(), strict=False)
    changed = [None not in (was, now) and was != now for was, now in sizes]
    if any(changed[:1]):
        return None, None, "the image file has changed since the evaluation"
    try:
        if any(changed[1:]):
            return question.picture(), None, "the depth file has changed since the evaluation"
        image, depth = question.load(with_depth=row.depth is not None)
        lost = depth is None and row.depth is not None
        return image, depth, "the path of the depth file is unknown" if lost else ""
    except ImageError as error:
        return None, None, str(error)
    except DepthError as error:
        return question.picture(), None, str(error)


def row_to_json(row: Row, question: Question | None, protocol: ThinkProtocol) -> tuple[dict[str, Any], str]:
    """Convert a row of an evaluation to the format of this module's table.

    Args:
        row: the row.
        question: the question of the row, for its image and depth; None if their paths are unknown.
        protocol: protocol of the evaluation.
    Returns:
        (object, why the image or depth could not be read, or ""). Without an image there are no pixel coordinates; without
        depth there are no ground-truth depths.
    """
    image, depth, gone = files_of_row(row, question)
    thought = thought_of_row(row, image, depth, protocol)
    size = None if image is None else image.size
    found = _to_json(thought, size, depth, id=row.id, file=row.image)
    if row.error:
        found |= {"answer": None, "steps": [], "problems": [], "error": row.error}
    told = row.to_json()
    found["truth"] = {name: told[name] for name in ("answers", "choices", "boxes", "verdict")}
    found["about"] = {name: told[name] for name in ("dataset", "split", "family", "tags", "depth", "prompt", "values")}
    return found, gone


def evaluation_to_json(evaluation: Evaluation, gone: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Convert every row of an evaluation to the format of this module's table, with one image in memory at a time.

    Args:
        evaluation: evaluation with its questions, which contain the image paths; see `with_questions`.
        gone: output: id of each row whose image or depth could not be read → reason.
    """
    for row in evaluation.rows:
        found, why = row_to_json(row, evaluation.questions.get(row.id), evaluation.protocol)
        if why and gone is not None and not row.error:
            gone[row.id] = why
        yield found


def with_questions(evaluation: Evaluation, root: Path, reading: DepthReading) -> Evaluation:
    """Rebuild the questions of an evaluation that was read from its file.

    Args:
        evaluation: evaluation without questions.
        root: base folder of its image paths. A row whose path leads out of this folder gets no question.
        reading: how to read its depth files.
    """
    questions = {}
    for row in evaluation.rows:
        if not row.image:
            continue
        with suppress(RecordError):
            asked = Question(row.id, inside(root, row.image), row.question, reading=reading)
            questions[row.id] = asked
            if row.depth:
                questions[row.id] = replace(asked, depth=inside(root, row.depth))
    return replace(evaluation, questions=questions)


def example_to_json(example: Example, *, file: str) -> dict[str, Any]:
    """Convert the chain of a training example to the format of this module's table.

    Args:
        example: example from `read_examples`.
        file: path of its image for the reader of the JSON.
    Raises:
        ImageError, DepthError: the image or depth is unreadable.
    """
    image, depth = Question.from_example(example).load()
    thought = Thought(example.problem, image, depth, example.chain, frame=example.frame)
    found = thought_to_json(thought, id=example.id, file=file)
    boxes = [list(box) for box in example.boxes]
    found["truth"] |= {"answers": [example.answer], "choices": list(example.choices), "boxes": boxes}
    found["about"] = {"dataset": example.dataset, "split": example.split, "family": example.family}
    return found


def _told(item: Item) -> Mapping[str, Any]:
    if isinstance(item, Thought):
        return thought_to_json(item)
    if not isinstance(item, Mapping) or item.get("format") != FORMAT:
        got = item.get("format") if isinstance(item, Mapping) else type(item).__name__
        raise ConfigError(f"expected a Thought, or an object from `thought_to_json` with format {FORMAT}, got {got!r}")
    return item


def step_label(number: int) -> str:
    """Return the label for the boxes of a step, counted from 1. All export formats use it."""
    return f"step {number}"


def to_coco(items: Iterable[Item], *, targets: bool = True) -> dict[str, Any]:
    """Convert thoughts to a COCO dataset: one category per step, one pixel box per region.

    Args:
        items: thoughts, or objects from `thought_to_json`; read one at a time. Each image file becomes one image, whatever
            the number of questions about it.
        targets: also write the ground-truth boxes, as the category `target`.
    Returns:
        The dataset as plain values. The `attributes` of an annotation contain the question's id, the step's number and
        words, and the depths. `thoughts` is an extra key of sifthinker: question, answer and problems of every item, with
        its `image_id`. The `image_id` is null if the image is gone; such an item has no boxes.
    Raises:
        ConfigError: an item is of another kind.
    Example:
        >>> found = to_coco([Thought("Which?", Image.new("RGB", (100, 50)), None, text)])  # doctest: +SKIP
        >>> found["annotations"][0]["bbox"], found["categories"][1]["name"]  # doctest: +SKIP
        ([10.0, 10.0, 50.0, 30.0], 'step 1')
    Source: the format of cocodataset.org, "object detection".
    """
    images: dict[tuple[str, int, int], dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    thoughts = []
    most = 0
    for number, item in enumerate(items, 1):
        told = _told(item)
        name, width, height = (told["image"][key] for key in ("file", "width", "height"))
        most = max(most, len(told["steps"]))
        image_id = None
        if width is not None:
            key = (name or f"{told['id'] or number}", width, height)
            entry = {"id": len(images) + 1, "file_name": key[0], "width": width, "height": height}
            image_id = images.setdefault(key, entry)["id"]
            asked = {"question_id": told["id"], "question": told["question"]}
            for index, step in enumerate(told["steps"], 1):
                about = {**asked, "step": index, "words": step["words"]}
                for region in step["regions"]:
                    depths = {key: region[key] for key in ("depth_stated", "depth_true")}
                    annotations.append(_annotation(image_id, index + 1, region["box_px"], {**about, **depths}))
            for box in told["truth"]["boxes"] if targets else ():
                annotations.append(_annotation(image_id, 1, _pixels(box, (width, height)), asked))
        kept = ("id", "question", "answer", "complete", "problems", "error")
        words = [step["words"] for step in told["steps"]]
        thoughts.append({"image_id": image_id, **{key: told[key] for key in kept}, "words": words, "truth": told["truth"]})
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    names = [TARGET, *(step_label(number) for number in range(1, most + 1))]
    return {
        "info": {"description": "Steps of thinking with images, one category per step", "format": FORMAT},
        "images": list(images.values()),
        "categories": [{"id": number, "name": name, "supercategory": "focus"} for number, name in enumerate(names, 1)],
        "annotations": annotations,
        "thoughts": thoughts,
    }


def _annotation(image: int, category: int, pixels: Sequence[float], attributes: Mapping[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = pixels
    width, height = round(x2 - x1, 2), round(y2 - y1, 2)
    return {
        "id": 0,
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, width, height],
        "area": round(width * height, 2),
        "iscrowd": 0,
        "segmentation": [],
        "attributes": dict(attributes),
    }


def to_label_studio(
    items: Iterable[Item], *, prefix: str = LABEL_STUDIO_FILES, model: str = "model"
) -> list[dict[str, Any]]:
    """Convert thoughts to Label Studio tasks: one rectangle per region, labelled with its step, and a text area of words.

    Ground-truth boxes are a second prediction, `target`. `label_studio_config` writes the labelling interface of these
    tasks.

    Args:
        items: thoughts, or objects from `thought_to_json`; read one at a time.
        prefix: URL prefix of the image paths. By default the local files of Label Studio, relative to
            LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
        model: `model_version` of the predictions.
    Returns:
        One task per item, as plain values. `data` contains the image URL, the question, the answer, the words of all steps,
        and the original text of the model. Unreadable parts of it appear only there.
    Raises:
        ConfigError: an item is of another kind.
    Source: labelstud.io, "Import pre-annotations".
    """
    return [_task(_told(item), prefix, model) for item in items]


def _task(told: Mapping[str, Any], prefix: str, model: str) -> dict[str, Any]:
    image = told["image"]
    size = {"original_width": image["width"], "original_height": image["height"]} if image["width"] else {}
    answer = told["answer"] or ""
    result: list[dict[str, Any]] = []
    for number, step in enumerate(told["steps"], 1):
        for index, region in enumerate(step["regions"], 1):
            name = f"step{number}-{index}"
            drawn = {"id": name, "to_name": "image", **size}
            value = _percent(region["box"])
            rectangle = {"from_name": "steps", "type": "rectanglelabels", **drawn}
            depths = _depths(region)
            meta = {"meta": {"text": [depths]}} if depths else {}
            result.append({**rectangle, "value": {**value, "rectanglelabels": [step_label(number)]}, **meta})
            if step["words"]:
                words = {"from_name": "words", "type": "textarea", **drawn}
                result.append({**words, "value": {**value, "text": [step["words"]]}})
    if answer:
        written = {"id": "answer", "from_name": "answer", "to_name": "image", "type": "textarea"}
        result.append({**written, "value": {"text": [answer]}})
    verdict = told["truth"]["verdict"]
    score = {"score": float(verdict["score"])} if verdict else {}
    predictions = [{"model_version": model, "result": result, **score}]
    if told["truth"]["boxes"]:
        targets = [
            {
                "id": f"target-{number}",
                "from_name": "steps",
                "to_name": "image",
                "type": "rectanglelabels",
                **size,
                "value": {**_percent(box), "rectanglelabels": [TARGET]},
            }
            for number, box in enumerate(told["truth"]["boxes"], 1)
        ]
        predictions.append({"model_version": TARGET, "result": targets})
    data = {
        "image": f"{prefix}{quote(image['file'])}",
        "id": told["id"],
        "question": told["question"],
        "answer": answer,
        "right_answers": " / ".join(told["truth"]["answers"]),
        "words": "\n".join(f"{number}. {step['words']}" for number, step in enumerate(told["steps"], 1)),
        "text": told["reply"] or told["text"],
        "problems": "\n".join(problem["message"] for problem in told["problems"]) or told["error"],
    }
    return {"data": data, "predictions": predictions}


def _percent(box: Sequence[float]) -> dict[str, float]:
    """Convert a unit box to Label Studio's form: corner and size in percent of the image."""
    x1, y1, x2, y2 = box
    found = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    return {**{name: round(100 * value, 4) for name, value in found.items()}, "rotation": 0}


def _depths(region: Mapping[str, Any]) -> str:
    """Return the known depths as text: `depth 0.52, true 0.61`."""
    stated, true = region["depth_stated"], region["depth_true"]
    parts = [f"depth {stated:.3f}"] if stated is not None else []
    return ", ".join(parts + ([f"true {true:.3f}"] if true is not None else []))


_INTERFACE = """<View>
  <Header value="$question"/>
  <Image name="image" value="$image" zoom="true"/>
  <RectangleLabels name="steps" toName="image">
{labels}
  </RectangleLabels>
  <TextArea name="words" toName="image" perRegion="true" editable="true" displayMode="region-list"/>
  <TextArea name="answer" toName="image" maxSubmissions="1" editable="true"/>
</View>
"""
_PALETTE = ("#e4572e", "#1b7fbd", "#2e9e5b", "#9b51b8", "#c98a00", "#00929b")


def label_studio_config(tasks: Iterable[Mapping[str, Any]]) -> str:
    """Return the labelling interface for tasks from `to_label_studio`, as XML with one label for every step number."""
    labels = {
        label
        for task in tasks
        for prediction in task["predictions"]
        for item in prediction["result"]
        for label in item["value"].get("rectanglelabels", ())
    }
    steps = sorted((label for label in labels if label != TARGET), key=lambda label: int(label.rpartition(" ")[2]))
    coloured = [(label, _PALETTE[number % len(_PALETTE)]) for number, label in enumerate(steps or [step_label(1)])]
    coloured.append((TARGET, "#555555"))
    lines = [f"    <Label value={quoteattr(label)} background={quoteattr(colour)}/>" for label, colour in coloured]
    return _INTERFACE.format(labels="\n".join(lines))


def to_detections(
    thought: Thought | Chain, step: int | None = -1, *, size: tuple[int, int] | None = None
) -> supervision.Detections:
    """Convert the boxes of a step to `supervision.Detections`, for the annotators of supervision.

    Args:
        thought: a thought or a chain.
        step: number of the step, from 1; -1 is the last, -2 the one before; None for all steps. For a chain without steps,
            -1 gives no boxes.
        size: (width, height) of the image in pixels; required for a chain.
    Returns:
        `xyxy`: (N, 4) float32 pixels; `class_id`: the step, from 0; `data`: for each box `class_name` ("step 1"), `step`
        (from 1), `depth` as stated by the model (NaN if missing) and `words`.
    Raises:
        ConfigError: a chain without size, a thought with another size, or a step that does not exist.
        MissingExtraError: supervision is not installed.
    Example:
        >>> import supervision  # doctest: +SKIP
        >>> found = to_detections(thought, step=None)  # doctest: +SKIP
        >>> picture = supervision.BoxAnnotator().annotate(thought.image.copy(), found)  # doctest: +SKIP
    """
    need("to_detections", "supervision")
    from supervision import Detections

    if isinstance(thought, Chain):
        if size is None:
            raise ConfigError(
                "to_detections: size is missing for a chain. Pass size=(width, height) of its image, in pixels"
            )
        steps = [(item.regions, item.text) for item in thought.steps]
    else:
        if size not in (None, thought.image.size):
            raise ConfigError(
                f"to_detections: size must be that of the thought's image, {thought.image.size}, got {size}. Leave it out"
            )
        size, steps = thought.image.size, list(thought.steps)
    numbered = list(enumerate(steps))
    if step is not None and (steps or step != -1):
        if step == 0 or abs(step) > len(steps):
            there = (
                f"1 to {len(steps)}, or -1 to -{len(steps)} from the end" if steps else "None, since the chain has no steps"
            )
            raise ConfigError(f"to_detections: step must be {there}, got {step}")
        numbered = [numbered[step - (step > 0)]]
    found = [(number, region, words) for number, (regions, words) in numbered for region in regions]
    depths = [np.nan if region.depth is None else region.depth for _, region, _ in found]
    numbers = np.array([number for number, *_ in found], dtype=np.int64)
    scale = np.array(size * 2, dtype=np.float64)
    return Detections(
        xyxy=(region_boxes([region for _, region, _ in found]) * scale).astype(np.float32),
        class_id=numbers,
        data={
            "class_name": np.array([step_label(number + 1) for number in numbers], dtype=str),
            "step": numbers + 1,
            "depth": np.array(depths, dtype=np.float64),
            "words": np.array([words for *_, words in found], dtype=str),
        },
    )
