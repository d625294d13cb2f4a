"""Settings of a model in lmms-eval, its `--model_args`; and which of its tasks want boxes."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import PositiveInt

from sifthinker.ask_settings import AskSettings
from sifthinker.errors import ConfigError

BoxNumbers = Literal["unit", "per_mille", "pixel", "resized"]

# Tasks of lmms-eval 0.7.3 whose answer is a box, and the numbers that their scorers take boxes in, read in their code
# (utils_rec.py of refcoco, refcoco+, refcocog and screenspot; utils.py of refcoco_grounding and groundingme). A task file
# that includes one of these, with data of its own, puts something before the name.
_GROUNDING: tuple[tuple[re.Pattern[str], BoxNumbers], ...] = (
    (re.compile(r"(.*_)?refcoco[g+]?_bbox_rec(_.*)?"), "unit"),
    (re.compile(r"(.*_)?screenspot_rec(_.*)?"), "unit"),
    (re.compile(r"(.*_)?refcoco(g|_plus)?_grounding(_.*)?"), "pixel"),
    (re.compile(r"(.*_)?groundingme(_.*)?"), "pixel"),
)


class LmmsSettings(AskSettings):
    """`--model_args` of `lmms-eval --model sifthinker`: those of asking, and what lmms-eval's tasks need.

    Example:
        >>> LmmsSettings.of("runs/grpo", depth="none").boxes_of("refcoco_bbox_rec_val")
        'unit'
    """

    depth: str | None = None
    """RGB only (none), or a depth model [default: the depth that a task shows, as those of `tasks` do, and else none]."""
    grounding: Literal["auto", "none", BoxNumbers] = "auto"
    """Answer with the boxes of the last area: never, or always, in fractions, thousandths, pixels of the image, or pixels of
    the image as Qwen2.5-VL resizes it; auto: in tasks that are known to want boxes, in the numbers that they take."""
    letters: bool = False
    """Answer by the letter of the option whose words the answer is, where the question has lettered options."""
    batch_size: PositiveInt = 1
    """Questions at once, of a model in this process."""

    @classmethod
    def of(cls, pretrained: str, **values: Any) -> LmmsSettings:
        """Settings from what lmms-eval gives; values are by name.

        Raises:
            ConfigError: a setting that there is not, or a value that it cannot have.
        """
        if "model" in values:
            raise ConfigError("model_args: the model is named by pretrained; leave model out")
        return cls.from_values({"model": str(pretrained), **values}, where="model_args")

    def boxes_of(self, task: str) -> BoxNumbers | None:
        """The numbers in which a task wants the boxes of the last area; None where it wants the answer."""
        if self.grounding == "none":
            return None
        if self.grounding != "auto":
            return self.grounding
        return next((numbers for names, numbers in _GROUNDING if names.fullmatch(task)), None)
