"""Errors a component raises; the class says what the engine does next."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


class NvisyError(Exception):
    """Root of every error that this project raises on purpose.

    Args:
        message: What is wrong, in one sentence, without secrets.
        remedy: What the reader can do about it.
        tag: Machine-readable kind, stable across releases (`auth`, `schema`, `timeout`, ...).
    """

    default_tag = "error"

    def __init__(self, message: str, *, remedy: str | None = None, tag: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.tag = tag or self.default_tag

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class ConfigError(NvisyError):
    """The user must change the graph, the params or the credentials. Never retried.

    Args:
        message: What is wrong.
        remedy: What the user can do about it.
        tag: Machine-readable kind.
        place: Keys and indexes that lead to what is wrong, from the params of the component:
            `("set", "length")`. The compiler makes the JSON path of them.
    """

    default_tag = "config"

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        tag: str | None = None,
        place: Sequence[str | int] = (),
    ) -> None:
        super().__init__(message, remedy=remedy, tag=tag)
        self.place = tuple(place)


class ConfigErrors(ConfigError):  # noqa: N818 - it carries several
    """Several mistakes in the params of one component, so that all can be told at once.

    Args:
        errors: At least one mistake.
    """

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__("; ".join(map(str, errors)), tag=errors[0].tag)
        self.errors = tuple(errors)


def mistakes_in(error: ConfigError) -> Sequence[ConfigError]:
    """The single mistakes that an error tells of."""
    return error.errors if isinstance(error, ConfigErrors) else (error,)


def raise_mistakes(errors: Sequence[ConfigError]) -> None:
    """Raise the mistakes that were found, if there are any.

    Raises:
        ConfigError: The only mistake, or a `ConfigErrors` of all of them.
    """
    single = [one for error in errors for one in mistakes_in(error)]
    if single:
        raise single[0] if len(single) == 1 else ConfigErrors(single)


class DataError(NvisyError):
    """Some records of the batch cannot be processed; the others can.

    Args:
        message: What is wrong with them in general.
        rows: Index of each guilty row in the batch that was handed over, with its own reason.
        remedy: What the reader can do about it.
        tag: Machine-readable kind.
        result: What `apply` or `route` makes of the rows that are not named, exactly as if it were
            called with those alone, which then is not done. Without it they are handed over again;
            give it where it came about anyway. Sinks need none: what they do not name is written.
    """

    default_tag = "validation"

    def __init__(
        self,
        message: str,
        *,
        rows: Mapping[int, str],
        remedy: str | None = None,
        tag: str | None = None,
        result: "pa.RecordBatch | Mapping[str, pa.RecordBatch] | None" = None,
    ) -> None:
        super().__init__(message, remedy=remedy, tag=tag)
        self.rows = dict(rows)
        self.result = result


class TransientError(NvisyError):
    """The same call may succeed later. Retried by the node's retry policy.

    Args:
        message: What happened.
        retry_after: Seconds that the system asked us to wait, if it did.
        remedy: What the reader can do if it never succeeds.
        tag: Machine-readable kind.
    """

    default_tag = "connection"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        remedy: str | None = None,
        tag: str | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy, tag=tag)
        self.retry_after = retry_after


class EpochLostError(TransientError):
    """What a sink took since its last commit is gone, and calling it again cannot bring it back.

    Not retried as a call: the stage begins again from its checkpoint.
    """
