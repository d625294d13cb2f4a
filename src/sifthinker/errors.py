"""The exceptions that sifthinker raises.

    SIFError
    ├── BoxError       boxes are not (N, 4), not finite, empty, or outside their space
    ├── DepthError     a depth map or depth file cannot be used
    ├── ImageError     an image is missing, truncated or too large
    ├── ChainError     a text is not a chain; carries a reason code and a position
    ├── RecordError    a record or an example is malformed
    ├── ConfigError    a recipe, a training config or a command-line value is wrong
    ├── ModelError     a model folder or name cannot be loaded
    ├── MissingExtraError  an optional package is not installed; an `ImportError` too
    ├── EndpointError  a model server failed after every allowed retry, or refused what it was asked
    └── BudgetError    the money set aside for a teacher is spent

Malformed *model output* is data, not an error: readers of completions return reasons instead of raising.
All but the last three are `ValueError`s too, so that callers may catch the standard type.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from functools import partial
from typing import Literal

# Import name of every optional package → the extra that brings it. `train` brings `models` too.
EXTRAS = {
    "accelerate": "models",
    "huggingface_hub": "models",
    "safetensors": "models",
    "tokenizers": "models",
    "torch": "models",
    "transformers": "models",
    "datasets": "train",
    "peft": "train",
    "pyarrow": "train",
    "trl": "train",
    "ray": "ray",
    "supervision": "supervision",
    "gradio": "app",
    "starlette": "app",
}


class SIFError(Exception):
    """Base of every error that sifthinker raises on purpose. Its text says where, got, wanted, what to do."""


class BoxError(SIFError, ValueError):
    """Boxes of a wrong shape, order, range or space."""


class DepthError(SIFError, ValueError):
    """A depth map or a depth file that cannot be used."""


class ImageError(SIFError, ValueError):
    """An image that is missing, truncated or too large.

    Attributes:
        code: `missing_image` or `broken_image`.
    """

    def __init__(self, message: str, code: str = "broken_image") -> None:
        super().__init__(message)
        self.code = code


class ChainError(SIFError, ValueError):
    """A text that is not a chain.

    Attributes:
        code: reason code, one of `sifthinker.chain.REASONS`.
        position: character offset in the text where the problem starts.
    """

    def __init__(self, code: str, position: int, message: str) -> None:
        super().__init__(f"character {position}: {message} [{code}]")
        self.code = code
        self.position = position

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are rebuilt from their args by pickle; ours takes three.
        return (_rebuild_chain_error, (self.code, self.position, self.args[0]))


def _rebuild_chain_error(code: str, position: int, text: str) -> ChainError:
    error = ChainError(code, position, "")
    error.args = (text,)
    return error


class RecordError(SIFError, ValueError):
    """A record or an example with a missing or malformed field.

    Attributes:
        code: reason code used in reject files, for instance `missing_image`.
    """

    def __init__(self, message: str, code: str = "bad_record") -> None:
        super().__init__(message)
        self.code = code


class ConfigError(SIFError, ValueError):
    """A wrong recipe, config or option."""


class ModelError(SIFError, ValueError):
    """A model folder or model name that cannot be loaded."""


class MissingExtraError(SIFError, ImportError):
    """An optional package that is not installed; says how to install it.

    Args:
        what: needs it, for instance `training`.
        names: import names of the missing packages, of `EXTRAS`.
        extra: brings everything that `what` needs; the one that brings the missing packages by default.
    """

    def __init__(self, what: str, *names: str, extra: str | None = None) -> None:
        self._extra = extra or _extra_for(names)
        super().__init__(f"{what} needs {' and '.join(names)}: pip install 'sifthinker[{self._extra}]'", name=names[0])
        self._arguments = (what, *names)

    def __reduce__(self) -> tuple[object, ...]:
        return (partial(MissingExtraError, extra=self._extra), self._arguments)


def need(what: str, *names: str) -> None:
    """See that optional packages are installed, before they are imported. Imports nothing.

    The message names the extra that brings all of them, not just those that are missing: a second error would follow.

    Args:
        what: needs them, for the message.
        names: their import names, of `EXTRAS`.
    Raises:
        MissingExtraError: one of them is not.
    """
    missing = [name for name in names if not _is_installed(name)]
    if missing:
        raise MissingExtraError(what, *missing, extra=_extra_for(names))


def _extra_for(names: Iterable[str]) -> str:
    extras = {EXTRAS[name] for name in names}
    return "train" if "train" in extras else min(extras)


def _is_installed(name: str) -> bool:
    if name in sys.modules:
        return sys.modules[name] is not None
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


FaultKind = Literal["outage", "request", "setup"]


# Codes of `EndpointError`. `status_<n>` stands for every HTTP status that is an error.
SERVER_CODES: dict[str, str] = {
    "timeout": "the server did not answer in time",
    "connection": "the server could not be reached, or closed the connection before the reply was complete",
    "status_<n>": "the server answered with HTTP status n, for instance `status_401` for a wrong key",
    "not_json": "the server's reply is not JSON",
    "bad_shape": "the server's reply is JSON without the fields of a chat completion",
    "server_error": "the server reported an error without a status",
    "gave_up": "the run stopped because several requests in a row failed",
}

# Codes of `RecordError` for a complete file. A record that is left out has a code of `records.REJECTS`.
FILE_CODES: dict[str, str] = {
    "missing_file": "the file or folder does not exist, or cannot be read",
    "not_coco": "the file is not a COCO instances file",
}


class EndpointError(SIFError):
    """A model server that failed after every allowed retry, or refused what it was asked.

    Attributes:
        code: `timeout`, `connection`, `status_<n>`, `not_json`, `bad_shape`, `server_error`, or `gave_up` for a build that
            stopped after several of these.
        attempts: number of requests made.
        kind: what can be done. `outage`: the same request may be answered later. `request`: the server refuses this one
            request; others may pass. `setup`: no request will be answered before something is changed, such as the key, the
            address, the model's name or the account's credit.
    """

    def __init__(self, message: str, code: str, attempts: int, kind: FaultKind = "outage") -> None:
        super().__init__(message)
        self.code = code
        self.attempts = attempts
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return (EndpointError, (self.args[0], self.code, self.attempts, self.kind))


class BudgetError(SIFError):
    """What a build may cost has been spent; what was finished is kept."""
