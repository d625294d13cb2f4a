"""lmms-eval asks our models: `lmms-eval eval --model sifthinker --model_args pretrained=runs/grpo --tasks …`.

lmms-eval finds `manifest` by an entry point and then imports `LmmsModel`. Nothing of ours imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms
from PIL import Image

from sifthinker.ask_settings import AskSettings
from sifthinker.depth import DepthMap
from sifthinker.errors import ConfigError
from sifthinker.thinker import Thinker


def manifest() -> Any:
    """What lmms-eval is told of the model."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="sifthinker", simple_class_path=f"{__name__}.{LmmsModel.__name__}")


class LmmsModel(lmms):  # type: ignore[misc]
    """A `Thinker` as lmms-eval asks models; a task gets the answers alone, "" where a chain has none that can be read.

    It answers greedily, in as many tokens as `max_new_tokens` allows: a task's own bound is for the answer, and would cut a
    chain off. A task whose `doc_to_visual` gives an image and its `DepthMap` is asked with depth, all others without.

    Args:
        pretrained: model folder, Hugging Face name or embedded model.
        batch_size: questions at once.
        max_batch_size: lmms-eval's bound of it; it is not searched for here.
        device: torch device; the accelerator if there is one by default.
        settings: further fields of `AskSettings`: direct, max_new_tokens, max_pixels, dtype.
    Raises:
        ConfigError: a setting that there is not, or a value that it cannot have.
        ModelError: see `Thinker.load`.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(f"batch_size must be a whole number from 1 on, got {batch_size!r}")
        asked = AskSettings.from_values({"model": pretrained, **settings}, where="model_args")
        self.batch_size = int(batch_size)
        self.protocol = asked.protocol
        self.thinker = Thinker.load(
            pretrained,
            device=device,
            dtype=asked.dtype,
            max_pixels=asked.max_pixels,
            max_new_tokens=asked.max_new_tokens,
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each request.

        Raises:
            ConfigError: a task shows something else than one image, with or without its depth.
        """
        answers: list[str] = []
        for start in range(0, len(requests), self.batch_size):
            tasks = [self._task(*request.args) for request in requests[start : start + self.batch_size]]
            answers += [thought.answer or "" for thought in self.thinker.think_all(tasks, protocol=self.protocol)]
        return answers

    def _task(
        self, question: str, generation: Any, doc_to_visual: Any, doc_id: Any, task: str, split: str
    ) -> tuple[Image.Image, str, DepthMap | None]:
        image, *rest = doc_to_visual(self.task_dict[task][split][doc_id]) or [None]
        depth = rest[0] if rest else None
        if not isinstance(image, Image.Image) or len(rest) > 1 or not isinstance(depth, DepthMap | None):
            raise ConfigError(
                f"task {task}, question {doc_id}: doc_to_visual gives {[type(part).__name__ for part in (image, *rest)]}; "
                "wanted one image, or one image and its DepthMap"
            )
        return image.convert("RGB"), question, depth

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("sifthinker writes answers and scores none; choose tasks of the kind generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("sifthinker answers one question; choose tasks of the kind generate_until")
