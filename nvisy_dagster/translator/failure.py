"""How a stage's failure reaches Dagster: named, with its remedy, and without a secret."""

import traceback
from typing import cast

import dagster as dg

from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.sdk import NvisyError


def stage_failure(error: Exception, redactor: Redactor) -> dg.Failure:
    """The failure to raise, outside of the `except` block, so that no cause travels with it.

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
    if isinstance(error, NodeError):
        facts["node"] = error.node
        return _failure(str(error), facts, redactor, allow_retries=error.retryable)
    return _failure(str(error), facts, redactor, allow_retries=False)


def _failure(
    text: str, facts: dict[str, str], redactor: Redactor, *, allow_retries: bool
) -> dg.Failure:
    metadata: dict[str, dg.MetadataValue] = {}
    for name, value in facts.items():
        clean = redactor.scrub(value)
        shown = dg.MetadataValue.md(f"```\n{clean}\n```") if "\n" in clean else None
        metadata[name] = shown or dg.MetadataValue.text(clean)
    return dg.Failure(redactor.scrub(text), metadata=metadata, allow_retries=allow_retries)


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
