"""Settings of a model in lmms-eval (its `--model_args`), and the list of its tasks that expect boxes."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import PositiveInt

from sifthinker.ask_settings import AskSettings
from sifthinker.errors import ConfigError

BoxNumbers = Literal["unit", "per_mille", "pixel", "resized"]

# Tasks of lmms-eval 0.7.3 whose answer is a box, and the coordinates that their scorers expect, according to their code
# (utils_rec.py of refcoco, refcoco+, refcocog and screenspot; utils.py of refcoco_grounding and groundingme). A task file
# that includes one of these with its own data has a prefix before the name.
_GROUNDING: tuple[tuple[re.Pattern[str], BoxNumbers], ...] = (
    (re.compile(r"(.*_)?refcoco[g+]?_bbox_rec(_.*)?"), "unit"),
    (re.compile(r"(.*_)?screenspot_rec(_.*)?"), "unit"),
    (re.compile(r"(.*_)?refcoco(g|_plus)?_grounding(_.*)?"), "pixel"),
    (re.compile(r"(.*_)?groundingme(_.*)?"), "pixel"),
)


class LmmsSettings(AskSettings):
    """`--model_args` of `lmms-eval --model sifthinker`: settings of asking a model, and those that lmms-eval's tasks need.

    Example:
        >>> LmmsSettings.of("runs/grpo", depth="none").boxes_of("refcoco_bbox_rec_val")
        'unit'
    """

    depth: str | None = None
    """Depth model, or none for RGB only [default: the depth that the task provides, if any, as sifthinker tasks do]."""
    grounding: Literal["auto", "none", BoxNumbers] = "auto"
    """Answer with the boxes of the last area: never (none), or always, in fractions (unit), thousandths (per_mille), pixels
    of the image (pixel) or of the image as Qwen2.5-VL resizes it (resized). auto: only in tasks that are known to expect
    boxes, in the coordinates that they expect."""
    letters: bool = False
    """Answer with the letter of the option instead of its text, for questions with lettered options."""
    batch_size: PositiveInt = 1
    """Questions per batch, for a local model."""

    @classmethod
    def of(cls, pretrained: str, **values: Any) -> LmmsSettings:
        """Return settings from the values that lmms-eval passes by name.

        Raises:
            ConfigError: an unknown setting, or an invalid value.
        """
        if "model" in values:
            raise ConfigError("model_args: unknown setting model; set the model with pretrained")
        return cls.from_values({"model": str(pretrained), **values}, where="model_args")

    def boxes_of(self, task: str) -> BoxNumbers | None:
        """Return the coordinates in which a task expects the boxes of the last area; None if it expects the answer."""
        if self.grounding == "none":
            return None
        if self.grounding != "auto":
            return self.grounding
        return next((numbers for names, numbers in _GROUNDING if names.fullmatch(task)), None)
