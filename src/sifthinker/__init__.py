"""SIFThinker: vision-language models that think with images.

The names of the public API. Each name is imported on first use, so `import sifthinker` is fast and loads neither torch nor
transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; same names and modules as _HOMES
    from sifthinker.ask_settings import ThinkSettings
    from sifthinker.benchmarks import evaluate_benchmark, read_benchmark
    from sifthinker.boxes import convert, hierarchical_iou, paired_iou, set_iou, smart_resize
    from sifthinker.chain import (
        Chain,
        Problem,
        Reading,
        Region,
        Step,
        check_chain,
        find_answer,
        find_regions,
        parse_chain,
        read_completion,
        render_chain,
    )
    from sifthinker.coordinates import Frame, Resizer
    from sifthinker.depth import DepthMap
    from sifthinker.endpoint import Endpoint
    from sifthinker.engine.build import Engine, build, build_async
    from sifthinker.engine.checks import check_dataset
    from sifthinker.engine.estimators import DepthSource, GivenDepth, ModelDepth, NoDepth
    from sifthinker.engine.expansion import Focus, expand
    from sifthinker.engine.settings import BuildSettings, Expansion, SourceSettings
    from sifthinker.engine.sources import read_source
    from sifthinker.engine.teachers import Attempt, LocalTeacher, OpenAITeacher, Task, Teacher
    from sifthinker.errors import (
        BoxError,
        ChainError,
        ConfigError,
        DepthError,
        EndpointError,
        ImageError,
        MissingExtraError,
        ModelError,
        RecordError,
        SIFError,
    )
    from sifthinker.evaluation.compare import compare
    from sifthinker.evaluation.metrics import Result
    from sifthinker.evaluation.questions import Question, read_questions
    from sifthinker.evaluation.run import Evaluation, evaluate, evaluate_async
    from sifthinker.evaluation.settings import EvalSettings
    from sifthinker.images import load_image
    from sifthinker.prompts import user_prompt
    from sifthinker.records import Example, Record, Reject, read_examples
    from sifthinker.results import thought_to_json, to_coco, to_detections, to_label_studio
    from sifthinker.scoring.answers import Verdict, judge
    from sifthinker.scoring.judge import ModelJudge
    from sifthinker.scoring.rewards import Reference, Score, Scores, score_completion
    from sifthinker.scoring.trl import (
        AnswerReward,
        GroundingReward,
        Ledger,
        answer_reward,
        depth_reward,
        format_reward,
        grounding_reward,
    )
    from sifthinker.served import ServedThinker, open_thinker
    from sifthinker.show.report import write_thought
    from sifthinker.thinker import LocalThinker, Thinker, Thought
    from sifthinker.thinking import think, think_many
    from sifthinker.training.settings import TrainSettings
    from sifthinker.training.stages import train

__version__ = "0.1.0"

_HOMES = {
    "ask_settings": ("ThinkSettings",),
    "benchmarks": ("evaluate_benchmark", "read_benchmark"),
    "boxes": ("convert", "hierarchical_iou", "paired_iou", "set_iou", "smart_resize"),
    "chain": (
        "Chain",
        "Problem",
        "Reading",
        "Region",
        "Step",
        "check_chain",
        "find_answer",
        "find_regions",
        "parse_chain",
        "read_completion",
        "render_chain",
    ),
    "coordinates": ("Frame", "Resizer"),
    "depth": ("DepthMap",),
    "endpoint": ("Endpoint",),
    "engine.build": ("Engine", "build", "build_async"),
    "engine.checks": ("check_dataset",),
    "engine.estimators": ("DepthSource", "GivenDepth", "ModelDepth", "NoDepth"),
    "engine.expansion": ("Focus", "expand"),
    "engine.settings": ("BuildSettings", "Expansion", "SourceSettings"),
    "engine.sources": ("read_source",),
    "engine.teachers": ("Attempt", "LocalTeacher", "OpenAITeacher", "Task", "Teacher"),
    "errors": (
        "BoxError",
        "ChainError",
        "ConfigError",
        "DepthError",
        "EndpointError",
        "ImageError",
        "MissingExtraError",
        "ModelError",
        "RecordError",
        "SIFError",
    ),
    "evaluation.compare": ("compare",),
    "evaluation.metrics": ("Result",),
    "evaluation.questions": ("Question", "read_questions"),
    "evaluation.run": ("Evaluation", "evaluate", "evaluate_async"),
    "evaluation.settings": ("EvalSettings",),
    "images": ("load_image",),
    "prompts": ("user_prompt",),
    "records": ("Example", "Record", "Reject", "read_examples"),
    "results": ("thought_to_json", "to_coco", "to_detections", "to_label_studio"),
    "scoring.answers": ("Verdict", "judge"),
    "scoring.judge": ("ModelJudge",),
    "scoring.rewards": ("Reference", "Score", "Scores", "score_completion"),
    "scoring.trl": (
        "AnswerReward",
        "GroundingReward",
        "Ledger",
        "answer_reward",
        "depth_reward",
        "format_reward",
        "grounding_reward",
    ),
    "served": ("ServedThinker", "open_thinker"),
    "show.report": ("write_thought",),
    "thinker": ("LocalThinker", "Thinker", "Thought"),
    "thinking": ("think", "think_many"),
    "training.settings": ("TrainSettings",),
    "training.stages": ("train",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AnswerReward",
    "Attempt",
    "BoxError",
    "BuildSettings",
    "Chain",
    "ChainError",
    "ConfigError",
    "DepthError",
    "DepthMap",
    "DepthSource",
    "Endpoint",
    "EndpointError",
    "Engine",
    "EvalSettings",
    "Evaluation",
    "Example",
    "Expansion",
    "Focus",
    "Frame",
    "GivenDepth",
    "GroundingReward",
    "ImageError",
    "Ledger",
    "LocalTeacher",
    "LocalThinker",
    "MissingExtraError",
    "ModelDepth",
    "ModelError",
    "ModelJudge",
    "NoDepth",
    "OpenAITeacher",
    "Problem",
    "Question",
    "Reading",
    "Record",
    "RecordError",
    "Reference",
    "Region",
    "Reject",
    "Resizer",
    "Result",
    "SIFError",
    "Score",
    "Scores",
    "ServedThinker",
    "SourceSettings",
    "Step",
    "Task",
    "Teacher",
    "ThinkSettings",
    "Thinker",
    "Thought",
    "TrainSettings",
    "Verdict",
    "__version__",
    "answer_reward",
    "build",
    "build_async",
    "check_chain",
    "check_dataset",
    "compare",
    "convert",
    "depth_reward",
    "evaluate",
    "evaluate_async",
    "evaluate_benchmark",
    "expand",
    "find_answer",
    "find_regions",
    "format_reward",
    "grounding_reward",
    "hierarchical_iou",
    "judge",
    "load_image",
    "open_thinker",
    "paired_iou",
    "parse_chain",
    "read_benchmark",
    "read_completion",
    "read_examples",
    "read_questions",
    "read_source",
    "render_chain",
    "score_completion",
    "set_iou",
    "smart_resize",
    "think",
    "think_many",
    "thought_to_json",
    "to_coco",
    "to_detections",
    "to_label_studio",
    "train",
    "user_prompt",
    "write_thought",
]

if not TYPE_CHECKING:  # with it, a type checker would accept every name

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'sifthinker' has no attribute {name!r}")
        value = getattr(import_module(f"sifthinker.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
