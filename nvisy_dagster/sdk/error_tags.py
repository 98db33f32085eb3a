"""The kinds of errors: what `tag` of an error, a dead letter or a Dagster failure may say.

A tag names what went wrong, for programs; it is stable across releases. What happens next is
decided by the class of the error, and here is which class each tag comes with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["fails", "record", "retried", "either"]
"""`fails`: the run fails until somebody acts. `record`: single records are refused, and `on_error`
decides. `retried`: by the node's retry policy, then by Dagster. `either`: by the error's class."""


@dataclass(frozen=True)
class ErrorTag:
    """One kind of error."""

    outcome: Outcome
    meaning: str


ERROR_TAGS: Mapping[str, ErrorTag] = {
    "auth": ErrorTag("fails", "A system refuses the credentials, or what they may do."),
    "bug": ErrorTag("fails", "An error that nobody planned for, in this project or a component."),
    "cancelled": ErrorTag("fails", "The run was asked to stop; the next one goes on."),
    "changed": ErrorTag("either", "What is read is not what it was when the read began."),
    "config": ErrorTag("fails", "The graph, its params or its connections must be corrected."),
    "conflict": ErrorTag("fails", "Something else holds or wrote what this run needs alone."),
    "connection": ErrorTag("retried", "A system cannot be reached, or the connection broke."),
    "crash": ErrorTag("either", "A process died: of a record, or of what nobody knows."),
    "disk": ErrorTag("retried", "A disk failed to read or write."),
    "disk_full": ErrorTag("fails", "There is no room, or no more than a quota allows."),
    "drift": ErrorTag("either", "A record does not fit the columns of those before it."),
    "encoding": ErrorTag("record", "A text is not in the encoding that it should be in."),
    "error": ErrorTag("either", "Of no other kind."),
    "error_limit": ErrorTag("fails", "More records failed than `error_limit` allows."),
    "expression": ErrorTag("either", "A SQL expression is refused, or fails on a record."),
    "format": ErrorTag("either", "A file is not in the format that it should be in."),
    "graph": ErrorTag("fails", "The graph has mistakes; they are listed with their JSON paths."),
    "install": ErrorTag("fails", "A package or a model's file is not installed."),
    "memory": ErrorTag("fails", "All records together take more memory than a param allows."),
    "not_found": ErrorTag("fails", "There is no such bucket, collection, table, file or model."),
    "path": ErrorTag("fails", "A path is no valid one, or leads where it must not."),
    "permission": ErrorTag("fails", "The operating system refuses the access."),
    "progress_lost": ErrorTag("fails", "What an earlier run left behind is gone."),
    "protocol": ErrorTag("either", "A system answered with what its protocol does not allow."),
    "quota": ErrorTag("fails", "An account's quota or credit is spent."),
    "rate_limit": ErrorTag("retried", "A system asks for fewer calls."),
    "refused": ErrorTag("either", "A system refuses a request or a record, saying why."),
    "schema": ErrorTag("fails", "Columns or types do not fit."),
    "server": ErrorTag("retried", "A system failed on its side."),
    "storage": ErrorTag("fails", "A file of the run's own state cannot be read or written."),
    "timeout": ErrorTag("either", "It took longer than it may."),
    "too_large": ErrorTag("record", "A record is larger than what is read or sent at once."),
    "validation": ErrorTag("record", "A record does not hold what it must."),
    "vector": ErrorTag("record", "A vector has another dimension, or numbers that are not finite."),
}
"""By name, sorted. A component of another package may use names of its own; these are ours."""
