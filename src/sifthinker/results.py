"""What models thought, as data: one JSON object a thought, and the forms of the tools that people look at boxes with.

    thought ─ thought_to_json ─┬─ a line of `sif think`
    row of an evaluation ──────┤
    example of a dataset ──────┴─ to_coco, to_label_studio
    thought, chain ─ to_detections (supervision)

Form 1 of a thought, every key in every line; new keys may come, and a key that changes its meaning makes form 2:

| key | what |
| --- | --- |
| `format` | 1 |
| `id` | of the question; "" where it has none |
| `image` | `file` as it was named, `width` and `height` in pixels; null where the image is gone |
| `question`, `protocol` | what was asked, and how: direct, chain or structured |
| `answer` | the answer that was read; null where there is none |
| `steps` | list of `words` and `regions` |
| `regions` | list of `box` (x1, y1, x2, y2 as fractions), `box_px` (pixels), `depth_stated`, `depth_true` (0 near, 1 far) |
| `problems` | list of `code`, `message` and `position` (a character of `text`); empty for a valid chain |
| `complete` | false where the model ran out of tokens |
| `text`, `reply` | the chain or direct answer, and the reply that a chain was composed from ("" otherwise) |
| `coordinates`, `resized` | what the numbers of boxes in `text` are, see `coordinates.Frame` |
| `tokens`, `seconds` | `read` and `written`, and the time it took; null where unknown |
| `truth` | what is known: `answers`, `choices`, `boxes` (fractions) and the `verdict` on the answer |
| `about` | `dataset`, `split`, `family`, `tags`, the `depth` file, the whole `prompt`, and the metrics' `values` |
| `error` | why the question could not be asked; "" where it was |
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

# Where Label Studio serves files of its own disk from; see LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT in its manual.
LABEL_STUDIO_FILES = "/data/local-files/?d="

TARGET = "target"  # the label of boxes that answer the question

_GREY = Image.new("RGB", (256, 256), (90, 90, 90))

Item = Thought | Mapping[str, Any]


def thought_to_json(thought: Thought, *, id: str = "", file: str = "") -> dict[str, Any]:
    """A thought as plain values, in the form that stands above.

    Args:
        thought: what a model thought.
        id: of the question.
        file: name of the image file, as the reader of the JSON is to find it.
    Example:
        >>> told = thought_to_json(Thought("Which is it?", Image.new("RGB", (640, 480)), None, "A mug.", protocol="direct"))
        >>> told["answer"], told["image"]["width"], told["steps"]
        ('A mug.', 640, [])
    """
    return _to_json(thought, thought.image.size, thought.depth, id=id, file=file)


def _to_json(
    thought: Thought, size: tuple[int, int] | None, depth: DepthMap | None, *, id: str, file: str
) -> dict[str, Any]:
    """`thought_to_json` with the image's size and depth apart: both may be gone since the model saw them."""
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
    """A unit box in pixels, to a hundredth."""
    return [round(side * of, 2) for side, of in zip(box, size * 2, strict=True)]


def thought_of_row(row: Row, image: Image.Image | None, depth: DepthMap | None, protocol: ThinkProtocol) -> Thought:
    """The thought that a row of an evaluation keeps.

    Args:
        row: of a question that was asked.
        image: what it was asked about; None where that is gone, for which a grey picture stands in.
        depth: of the image; where it is gone, a flat map stands in, so that the text is read as it was asked for.
        protocol: of the evaluation.
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
    """The image and the depth of a row as far as they are still there, and why one of them is not ("" where both are).

    Args:
        row: of an evaluation.
        question: it is about; None where nothing tells where its image lies.
    """
    if question is None:
        return None, None, "nothing tells where the image lies"
    sizes = zip(row.file_sizes, question.file_sizes(), strict=False)
    changed = [None not in (was, now) and was != now for was, now in sizes]
    if any(changed[:1]):
        return None, None, "the image has changed since it was asked about"
    try:
        if any(changed[1:]):
            return question.picture(), None, "the depth has changed since it was asked about"
        image, depth = question.load(with_depth=row.depth is not None)
        lost = depth is None and row.depth is not None
        return image, depth, "nothing tells where the depth lies" if lost else ""
    except ImageError as error:
        return None, None, str(error)
    except DepthError as error:
        return question.picture(), None, str(error)


def row_to_json(row: Row, question: Question | None, protocol: ThinkProtocol) -> tuple[dict[str, Any], str]:
    """A row of an evaluation in the form that stands above.

    Args:
        row: the row.
        question: that it is about, for its image and depth; None where these are not known.
        protocol: of the evaluation.
    Returns:
        (object, why the image or depth could not be read; "" where they could). Without an image there are no pixels,
        without depth no true depths.
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
    """Every row of an evaluation in the form that stands above, one image in memory at a time.

    Args:
        evaluation: with its questions, which say where the images lie; see `with_questions`.
        gone: takes the id of each row whose image or depth could not be read → why.
    """
    for row in evaluation.rows:
        found, why = row_to_json(row, evaluation.questions.get(row.id), evaluation.protocol)
        if why and gone is not None and not row.error:
            gone[row.id] = why
        yield found


def with_questions(evaluation: Evaluation, root: Path, reading: DepthReading) -> Evaluation:
    """An evaluation that was read from its file, with the questions that its rows tell of.

    Args:
        evaluation: without questions.
        root: the folder that its images' names are relative to. A name that leads out of it has no question.
        reading: how its depth files are read.
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
    """The chain of a training sample in the form that stands above.

    Args:
        example: as `read_examples` gives it.
        file: name of its image, as the reader of the JSON is to find it.
    Raises:
        ImageError, DepthError: its image or depth cannot be read.
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
        raise ConfigError(f"format is {got!r}; wanted thoughts, or objects of `thought_to_json` with format {FORMAT}")
    return item


def step_label(number: int) -> str:
    """The label of a step's boxes, in every form; numbers from 1."""
    return f"step {number}"


def to_coco(items: Iterable[Item], *, targets: bool = True) -> dict[str, Any]:
    """Thoughts as a COCO dataset: a category a step, a box in pixels a region.

    Args:
        items: thoughts, or objects of `thought_to_json`; taken one after the other. A file is one image, however many
            questions were asked about it.
        targets: give the boxes that answer a question too, as the category `target`.
    Returns:
        The dataset, plain values. `attributes` of an annotation hold the question's id, the step's number and words, and
        the depths. `thoughts` is ours: question, answer and problems of every item, with its `image_id`, which is null where
        the image is gone; such an item has no boxes.
    Raises:
        ConfigError: an item that is neither.
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
        "info": {"description": "Steps of thinking with images: a category a step", "format": FORMAT},
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
    """Thoughts as tasks of Label Studio: a rectangle a region with its step as label, its words in a text area.

    Boxes that answer a question are a second prediction, `target`. `label_studio_config` writes the labelling interface of
    these tasks.

    Args:
        items: thoughts, or objects of `thought_to_json`; taken one after the other.
        prefix: what stands before the name of an image: the address of the folder that serves them. By default files of
            Label Studio's own disk, relative to LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
        model: `model_version` of the predictions.
    Returns:
        One task an item, plain values. `data` holds the image's address, the question, the answer, the words of all steps,
        and the text as the model wrote it: what of it could not be read stands nowhere else.
    Raises:
        ConfigError: an item that is neither.
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
    """A unit box as Label Studio has it: its corner and size in percent of the image."""
    x1, y1, x2, y2 = box
    found = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    return {**{name: round(100 * value, 4) for name, value in found.items()}, "rotation": 0}


def _depths(region: Mapping[str, Any]) -> str:
    """`depth 0.52, true 0.61`, as far as they are known."""
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
    """The labelling interface of the tasks of `to_label_studio`: XML, with a label for every step that one of them has."""
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
    """The boxes of a step as `Detections` of supervision, which its annotators draw.

    Args:
        thought: what a model thought, or a chain.
        step: which step: from 1, or -1 for the last, -2 for the one before; None for all. Of a chain without steps the last
            one has no boxes.
        size: (width, height) in pixels of the image of a chain, which does not know it.
    Returns:
        `xyxy` (N, 4) float32 pixels; `class_id` the step, from 0 as classes are; `data` with, for each box, `class_name`
        ("step 1"), `step` (from 1), `depth` as stated (NaN where none is) and `words`.
    Raises:
        ConfigError: a chain without a size, a thought with one of its own, or a step that there is not.
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
            raise ConfigError("to_detections: a chain does not know its image; give size, (width, height) in pixels")
        steps = [(item.regions, item.text) for item in thought.steps]
    else:
        if size not in (None, thought.image.size):
            raise ConfigError(f"to_detections: size {size} is not that of the thought's image, {thought.image.size}")
        size, steps = thought.image.size, list(thought.steps)
    numbered = list(enumerate(steps))
    if step is not None and (steps or step != -1):
        if step == 0 or abs(step) > len(steps):
            there = f"1 to {len(steps)}, or -1 to -{len(steps)} from the end" if steps else "none, the chain has no step"
            raise ConfigError(f"to_detections: step is {step}; wanted {there}")
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
