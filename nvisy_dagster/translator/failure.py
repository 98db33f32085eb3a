"""How a stage's failure reaches Dagster: named, with its remedy, and without a secret."""

import traceback
from dataclasses import dataclass
from typing import Any, cast

import dagster as dg

from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.sdk import NvisyError

_FENCE = ("```\n", "\n```")
"""Around a text of several lines, which Dagster would join."""


@dataclass(frozen=True)
class ToldFailure:
    """What a failure says, secrets removed."""

    message: str
    node: str | None = None
    tag: str | None = None
    remedy: str | None = None
    retryable: bool = False
    """Whether running again may succeed without any change."""


def stage_failure(error: Exception, redactor: Redactor) -> dg.Failure:
    """The failure to raise, outside of the `except` block, so that no cause travels with it.

    Its description has the remedy too: a log shows nothing else.

    Args:
        error: What ended the stage.
        redactor: Knows the secrets of the run.
    """
    if not isinstance(error, NvisyError):
        text = f"unexpected {type(error).__name__}: {error}"
        remedy = "this is a bug; report it with the run's log"
        facts = {"tag": "bug", "remedy": remedy, "traceback": _trace(error)}
        return _failure(f"{text} ({remedy})", facts, redactor, allow_retries=False)
    facts = {"tag": error.tag}
    if error.remedy:
        facts["remedy"] = error.remedy
    if error.tag == "bug":
        facts["traceback"] = _trace(error)
    if not isinstance(error, NodeError):
        return _failure(str(error), facts, redactor, allow_retries=False)
    facts["node"] = error.node
    if error.retryable:
        facts["retryable"] = "yes"
    return _failure(str(error), facts, redactor, allow_retries=error.retryable)


def read_failure(failure: Any) -> ToldFailure:  # noqa: ANN401 - Dagster's record of it is private
    """What a failure of ours says, each thing once."""
    facts = {name: _plain(str(value.value)) for name, value in failure.metadata.items()}
    message = failure.description or ""
    remedy = facts.get("remedy")
    return ToldFailure(
        message=message.removesuffix(f" ({remedy})") if remedy else message,
        node=facts.get("node"),
        tag=facts.get("tag"),
        remedy=remedy,
        retryable="retryable" in facts,
    )


def _failure(
    text: str, facts: dict[str, str], redactor: Redactor, *, allow_retries: bool
) -> dg.Failure:
    metadata: dict[str, dg.MetadataValue] = {}
    for name, value in facts.items():
        clean = redactor.scrub(value)
        shown = dg.MetadataValue.md(f"{_FENCE[0]}{clean}{_FENCE[1]}") if "\n" in clean else None
        metadata[name] = shown or dg.MetadataValue.text(clean)
    return dg.Failure(redactor.scrub(text), metadata=metadata, allow_retries=allow_retries)


def _plain(text: str) -> str:
    return text.removeprefix(_FENCE[0]).removesuffix(_FENCE[1])


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(_origin(error), chain=False))


def _origin(error: BaseException) -> BaseException:
    """The error in which it began, without the layers that the engine put around it."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if inner is None:
            break
        error = cast("BaseException", inner)
    return error
