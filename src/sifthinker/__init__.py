"""SIFThinker: vision-language models that think with images.

The public API by name; each name is imported when it is first used, so that `import sifthinker` is instant and loads
neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "boxes": ("convert", "hierarchical_iou", "paired_iou", "set_iou", "smart_resize"),
    "chain": (
        "Chain", "Problem", "Region", "Step", "check_chain", "find_answer", "find_regions", "parse_chain", "render_chain",
    ),
    "depth": ("DepthMap",),
    "errors": (
        "BoxError", "ChainError", "ConfigError", "DepthError", "EndpointError", "ImageError", "ModelError", "RecordError",
        "SIFError",
    ),
    "engine.build": ("Engine",),
    "engine.expansion": ("Expansion", "Focus", "expand"),
    "engine.sources": ("read_source",),
    "judges": ("Verdict", "judge"),
    "prompts": ("user_prompt",),
    "records": ("Example", "Record", "Reject", "read_examples"),
    "rewards": (
        "AnswerReward", "Ledger", "Reference", "Scores", "answer_reward", "depth_reward", "format_reward",
        "grounding_reward", "score_completion",
    ),
    "thinker": ("Thinker", "Thought"),
}  # fmt: skip
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sifthinker' has no attribute {name!r}")
    value = getattr(import_module(f"sifthinker.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
