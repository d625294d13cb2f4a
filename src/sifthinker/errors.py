"""The exceptions that sifthinker raises.

    SIFError
    ├── BoxError       boxes are not (N, 4), not finite, empty, or outside their space
    ├── DepthError     a depth map or depth file cannot be used
    ├── ImageError     an image is missing, truncated or too large
    ├── ChainError     a text is not a chain; has a reason code and a position
    ├── RecordError    a record or an example is malformed
    ├── ConfigError    a recipe, a training config or a command-line value is wrong
    ├── ModelError     a model folder or name cannot be loaded
    ├── MissingExtraError  an optional package is not installed; an `ImportError` too
    ├── EndpointError  a model server failed after every allowed retry, or refused a request
    └── BudgetError    the budget of the teacher is spent

Malformed *model output* is data, not an error: readers of completions return reasons instead of raising.
All except the last three are also `ValueError`s, so callers can catch the standard type.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from functools import partial
from typing import Literal

# Import name of every optional package → extra that installs it. `train` also installs `models`.
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
    """Base class of every error that sifthinker raises. The message gives the place, the fault and what to do."""


class BoxError(SIFError, ValueError):
    """Boxes of the wrong shape, order, range or space."""


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
        # Pickle rebuilds exceptions from their args. This one takes three arguments.
        return (_rebuild_chain_error, (self.code, self.position, self.args[0]))


def _rebuild_chain_error(code: str, position: int, text: str) -> ChainError:
    error = ChainError(code, position, "")
    error.args = (text,)
    return error


class RecordError(SIFError, ValueError):
    """A record or an example with a missing or malformed field.

    Attributes:
        code: reason code used in reject files, for example `missing_image`.
    """

    def __init__(self, message: str, code: str = "bad_record") -> None:
        super().__init__(message)
        self.code = code


class ConfigError(SIFError, ValueError):
    """An invalid recipe, config or option."""


class ModelError(SIFError, ValueError):
    """A model folder or model name that cannot be loaded."""


class MissingExtraError(SIFError, ImportError):
    """An optional package that is not installed. The message shows how to install it.

    Args:
        what: the feature that needs it, for example `training`.
        names: import names of the missing packages, keys of `EXTRAS`.
        extra: extra that installs everything for `what`; by default the one that installs the missing packages.
    """

    def __init__(self, what: str, *names: str, extra: str | None = None) -> None:
        self._extra = extra or _extra_for(names)
        super().__init__(f"{what} needs {' and '.join(names)}: pip install 'sifthinker[{self._extra}]'", name=names[0])
        self._arguments = (what, *names)

    def __reduce__(self) -> tuple[object, ...]:
        return (partial(MissingExtraError, extra=self._extra), self._arguments)


def need(what: str, *names: str) -> None:
    """Check that optional packages are installed, without importing them.

    The message gives the extra that installs all of them, not only the missing ones, to avoid a second error.

    Args:
        what: the feature that needs them, for the message.
        names: their import names, keys of `EXTRAS`.
    Raises:
        MissingExtraError: one of them is not installed.
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
    """A model server that failed after every allowed retry, or refused a request.

    Attributes:
        code: `timeout`, `connection`, `status_<n>`, `not_json`, `bad_shape`, `server_error`, or `gave_up` for a build that
            stopped after several of these.
        attempts: number of requests made.
        kind: kind of fault. `outage`: the same request may succeed later. `request`: the server refuses this request, but
            may accept others. `setup`: no request succeeds until something changes, such as the key, the address, the model
            name or the account's credit.
    """

    def __init__(self, message: str, code: str, attempts: int, kind: FaultKind = "outage") -> None:
        super().__init__(message)
        self.code = code
        self.attempts = attempts
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        return (EndpointError, (self.args[0], self.code, self.attempts, self.kind))


class BudgetError(SIFError):
    """The budget of a build is spent. Finished records are kept."""
