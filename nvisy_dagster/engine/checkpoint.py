"""Checkpoints: the cursors that every reached sink has committed."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import BEGIN_ANEW
from nvisy_dagster.engine.storage import read_model, sync_folder, told, write_json


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
    epoch: int = 0
    complete: bool = False
    sources: dict[str, SourcePosition] = {}
    parts: dict[str, list[Part]] = {}
    """Materialized output -> its files, in order."""
    counts: dict[str, dict[str, float]] = {}
    """Node -> its counts as of this epoch's barrier."""


class CheckpointStore:
    """The checkpoint of one stage, in a file that is replaced atomically.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Checkpoint:
        """The last checkpoint; an empty one if there is none.

        Raises:
            StorageError: It is damaged, or another version wrote it.
        """
        return read_model(self._path, Checkpoint, BEGIN_ANEW) or Checkpoint()

    def discard(self) -> None:
        """Remove the checkpoint, if there is one, for good."""
        if self._path.exists():
            with told(self._path):
                self._path.unlink()
                sync_folder(self._path.parent)

    def write(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint; it is durable on return."""
        failpoint("checkpoint.before_write")
        write_json(self._path, checkpoint.model_dump(mode="json"))
        failpoint("checkpoint.after_write")
