"""Every error that Cleave raises on purpose, as one tree named after the boundary that failed.

    CleaveError
    ├── ConfigError          a config, flag, path or checkpoint that the user has to change
    │   └── FingerprintError a shipped checkpoint that no longer fits the code
    ├── DataError            a data set or input that cannot be read or is not what it claims
    ├── GenerationError      a language model or its endpoint failed to reply
    ├── ParseError           a model replied, the reply is not in the agreed form
    ├── BudgetExceeded       the caller's limit on tokens, calls, seconds or money ran out
    ├── RoleUnavailable      an actor or deployment that hosts a role cannot be reached or placed
    │   └── Overloaded       it is there, and has as many requests waiting as it accepts
    ├── TrainingError        a training that cannot go on: a loss, gradient or weight that is not finite
    ├── CountingError        a process that counts n-grams died
    └── StorageError         a run folder cannot be written or read (full disk, permissions)

Each message is one sentence that ends with the remedy. `exit_code` and `http_status` say how the command line and the
HTTP routes report it. Anything else that escapes is a bug and keeps its traceback.
"""

from typing import ClassVar


class CleaveError(Exception):
    """Base of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"


class ConfigError(CleaveError):
    """The user's config, flag, path or checkpoint has to change."""

    exit_code = 2
    http_status = 400
    code = "invalid_request"


class FingerprintError(ConfigError):
    """A shipped checkpoint was trained for another task profile, prompt version or tokenizer."""

    code = "stale_checkpoint"


class DataError(CleaveError):
    """A data set or an input cannot be read, or is not what it claims to be."""

    exit_code = 2
    http_status = 400
    code = "invalid_input"


class GenerationError(CleaveError):
    """A language model, or the endpoint that hosts it, failed to reply."""

    http_status = 502
    code = "generation_failed"


class ParseError(CleaveError):
    """A model replied, but not in the agreed form. `text` is what it said."""

    http_status = 502
    code = "unparsable_reply"

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message)
        self.text = text

    def __reduce__(self) -> tuple[type["ParseError"], tuple[str, str]]:
        return type(self), (str(self), self.text)


class BudgetExceeded(CleaveError):
    """The caller's limit on tokens, calls, seconds or money ran out before an answer was found."""

    http_status = 422
    code = "budget_exceeded"


class Abstained(CleaveError):
    """An answer was found, but it is less likely to be right than the caller demands (`abstain_below`), so it is not given."""

    exit_code = 3
    http_status = 200
    code = "abstained"


class RoleUnavailable(CleaveError):
    """The actor or deployment that hosts a role cannot be reached or cannot be placed."""

    http_status = 503
    code = "role_unavailable"


class Overloaded(RoleUnavailable):
    """The host of a role has as many requests waiting as it accepts; the same request may succeed a little later."""

    http_status = 429
    code = "overloaded"


class TrainingError(CleaveError):
    """A training cannot go on: a loss, gradient or weight is not finite. Nothing of the bad step was kept."""

    exit_code = 2
    code = "training_failed"


class CountingError(CleaveError):
    """A process that counts n-grams died before it was done: killed, or out of memory. No tables were written."""

    code = "counting_failed"


class StorageError(CleaveError):
    """A run folder cannot be written or read: full disk, permissions, a lost mount."""

    exit_code = 2
    http_status = 507
    code = "storage_failed"
