"""What a component promises, as data."""

from dataclasses import dataclass
from typing import Literal

WriteMode = Literal["append", "upsert", "epoch", "transaction"]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a component promises. Shown on its reference page, tested by its conformance suite."""

    replayable: bool = True
    """Source: reading again from a cursor gives the same records with the same ids."""

    write_mode: WriteMode = "append"
    """Sink: what a replayed record does.

    `append`: it is there twice. `upsert`: it replaces itself by its id. `epoch`: the sink discards,
    when it starts, whatever was written after the last checkpoint. `transaction`: the checkpoint is
    committed together with the records, so that none is ever replayed (`Sink.keeps_checkpoint`);
    in a stage where others commit too, it replaces itself, or is there twice if the params say so.
    """

    concurrency: int = 1
    """Calls of `apply` or `write` that may be in flight at once, unless a policy says otherwise."""

    max_rows: int | None = None
    """Action, sink: largest batch of one call; the engine cuts larger ones."""

    row_wise: bool = False
    """Action: the same rows come out however the batches are cut."""

    removes: bool = False
    """Sink: it can remove what was made of a root record, so that incremental runs fit it."""

    checks: bool = False
    """Action: records that it refuses are those that do not follow rules; Dagster shows how many
    as a check of the node's asset."""

    expensive: bool = False
    """Action: its work costs money; its output is materialized so that it is never paid twice."""


def guarantee(source: Capabilities, sink: Capabilities) -> str:
    """Delivery guarantee of a replayable or other source into a sink, in the field's words."""
    if sink.write_mode in {"epoch", "transaction"}:
        return "exactly once"
    if source.replayable and sink.write_mode == "upsert":
        return "effectively once"
    return "at least once"
