"""SIFThinker: vision-language models that think with images.

The public API by name; each name is imported when it is first used, so that `import sifthinker` is instant and loads
neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see; the names and homes are those of _HOMES
    from sifthinker.boxes import convert, hierarchical_iou, paired_iou, set_iou, smart_resize
    from sifthinker.chain import (
        Chain,
        Problem,
        Region,
        Step,
        check_chain,
        find_answer,
        find_regions,
        parse_chain,
        render_chain,
    )
    from sifthinker.depth import DepthMap
    from sifthinker.engine.build import Engine, build, build_async
    from sifthinker.engine.expansion import Focus, expand
    from sifthinker.engine.settings import BuildSettings, Expansion, SourceSettings
    from sifthinker.engine.sources import read_source
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
    from sifthinker.prompts import user_prompt
    from sifthinker.records import Example, Record, Reject, read_examples
    from sifthinker.scoring.answers import Verdict, judge
    from sifthinker.scoring.rewards import Reference, Scores, score_completion
    from sifthinker.scoring.trl import (
        AnswerReward,
        GroundingReward,
        Ledger,
        answer_reward,
        depth_reward,
        format_reward,
        grounding_reward,
    )
    from sifthinker.thinker import Thinker, Thought

__version__ = "0.1.0"

_HOMES = {
    "boxes": ("convert", "hierarchical_iou", "paired_iou", "set_iou", "smart_resize"),
    "chain": (
        "Chain", "Problem", "Region", "Step", "check_chain", "find_answer", "find_regions", "parse_chain", "render_chain",
    ),
    "depth": ("DepthMap",),
    "errors": (
        "BoxError", "ChainError", "ConfigError", "DepthError", "EndpointError", "ImageError", "MissingExtraError",
        "ModelError", "RecordError", "SIFError",
    ),
    "engine.build": ("Engine", "build", "build_async"),
    "engine.expansion": ("Focus", "expand"),
    "engine.settings": ("BuildSettings", "Expansion", "SourceSettings"),
    "engine.sources": ("read_source",),
    "prompts": ("user_prompt",),
    "records": ("Example", "Record", "Reject", "read_examples"),
    "scoring.answers": ("Verdict", "judge"),
    "scoring.rewards": ("Reference", "Scores", "score_completion"),
    "scoring.trl": (
        "AnswerReward", "GroundingReward", "Ledger", "answer_reward", "depth_reward", "format_reward", "grounding_reward",
    ),
    "thinker": ("Thinker", "Thought"),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AnswerReward",
    "BoxError",
    "BuildSettings",
    "Chain",
    "ChainError",
    "ConfigError",
    "DepthError",
    "DepthMap",
    "EndpointError",
    "Engine",
    "Example",
    "Expansion",
    "Focus",
    "GroundingReward",
    "ImageError",
    "Ledger",
    "MissingExtraError",
    "ModelError",
    "Problem",
    "Record",
    "RecordError",
    "Reference",
    "Region",
    "Reject",
    "SIFError",
    "Scores",
    "SourceSettings",
    "Step",
    "Thinker",
    "Thought",
    "Verdict",
    "__version__",
    "answer_reward",
    "build",
    "build_async",
    "check_chain",
    "convert",
    "depth_reward",
    "expand",
    "find_answer",
    "find_regions",
    "format_reward",
    "grounding_reward",
    "hierarchical_iou",
    "judge",
    "paired_iou",
    "parse_chain",
    "read_examples",
    "read_source",
    "render_chain",
    "score_completion",
    "set_iou",
    "smart_resize",
    "user_prompt",
]

if not TYPE_CHECKING:  # a type checker that saw it would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'sifthinker' has no attribute {name!r}")
        value = getattr(import_module(f"sifthinker.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
