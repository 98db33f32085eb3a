"""Checkpoints: the cursors that every reached sink has committed."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nvisy_dagster.engine.documents import VersionedDocument
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import BEGIN_ANEW
from nvisy_dagster.engine.lease import Lease


class SourcePosition(BaseModel):
    """Where one source stands."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cursor: dict[str, Any] | None = None
    done: bool = False


class Part(BaseModel):
    """One committed file of a materialized output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    epoch: int
    rows: int
    bytes: int


class Checkpoint(BaseModel):
    """All that is needed to go on after a crash, and nothing that is not yet durable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    basis: str = ""
    """Hash of where the stage reads and writes; it goes on only where that is still so."""
    generation: str = ""
    """Made anew whenever the stage begins from nothing: tells the parts of one time from those of
    another."""
    token: int = 0
    """Fencing token of the lease under which it was written."""
    epoch: int = 0
    complete: bool = False
    sources: dict[str, SourcePosition] = {}
    parts: dict[str, list[Part]] = {}
    """Materialized output -> its files, in order."""
    counts: dict[str, dict[str, float]] = {}
    """Node -> its counts as of this epoch's barrier."""


class CheckpointStore:
    """The checkpoint of one stage, in a document that is replaced atomically.

    Args:
        path: Where it is.
        lease: Under which it is written; without, it is only read.
    """

    def __init__(self, path: Path, lease: Lease | None = None) -> None:
        self._lease = lease
        self._document = VersionedDocument(path, Checkpoint, BEGIN_ANEW, lease)

    def read(self) -> Checkpoint:
        """The last checkpoint; an empty one if there is none.

        Raises:
            StorageError: It is damaged, or another version wrote it.
        """
        return self._document.read() or Checkpoint()

    def claim(self) -> Checkpoint:
        """The last checkpoint; from now on no earlier holder of the lease can replace it.

        Raises:
            FencedError: Another run took over.
            StorageError: It is damaged, another version wrote it, or it cannot be written.
        """
        checkpoint = self.read()
        if self._document.needs_claim:
            self._write(checkpoint)
        return checkpoint

    def discard(self) -> None:
        """Remove the checkpoint, if there is one, for good."""
        if self._document.needs_claim:
            # Where an earlier holder could make it anew, an empty one takes its place.
            self._document.read()
            self._write(Checkpoint())
        else:
            self._document.remove()

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; it is durable on return.

        Raises:
            FencedError: Another run took over; the checkpoint is as that one left it.
            StorageError: The disk is full or refuses; the checkpoint is the old one.
        """
        failpoint("checkpoint.before_write")
        self._write(checkpoint)
        failpoint("checkpoint.after_write")

    def _write(self, checkpoint: Checkpoint) -> None:
        token = self._lease.token if self._lease is not None else checkpoint.token
        self._document.write(checkpoint.model_copy(update={"token": token}))
