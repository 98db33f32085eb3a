"""Which files of dead letters count: those that a checkpoint lists.

While an attempt chain has its state, the checkpoints of its stages list them. Before that state is
removed, the list is kept beside the letters.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from nvisy_dagster.engine.checkpoint import CheckpointStore, Part
from nvisy_dagster.engine.dead_letter import listed_as
from nvisy_dagster.engine.storage import (
    is_file,
    is_kept,
    names,
    read_model,
    remove_folder,
    safe_name,
    write_json,
)
from nvisy_dagster.engine.superseded import settle

FOLDER = "dead_letters"
LISTING = "listing.json"
MARKS = "marks"
_PREFIX = listed_as("")


@dataclass(frozen=True)
class ListedPart:
    """One file of letters."""

    file: Path
    """Below the folder of the chain's letters."""
    rows: int


class _Listing(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    parts: dict[str, list[Part]]
    """Name under which checkpoints list the letters of a node -> their files."""


def listed_parts(graph: Path, chain: str) -> list[ListedPart]:
    """The files of letters of one attempt chain.

    Args:
        graph: Folder of the graph's state.
        chain: Names the attempt chain.

    Raises:
        StorageError: A checkpoint is damaged.
    """
    letters = graph / FOLDER / chain
    kept = read_model(letters / LISTING, _Listing, f"remove {letters}; its letters are lost")
    # Once it is there it is final: the state may be half removed.
    parts = kept.parts if kept else _checkpointed(graph / chain)
    found = [
        ListedPart(Path(safe_name(name.removeprefix(_PREFIX))) / part.file, part.rows)
        for name, some in parts.items()
        for part in some
    ]
    # A stage that was begun anew has removed what an earlier version of it lists.
    return sorted(
        (part for part in found if is_file(letters / part.file)), key=lambda part: part.file
    )


def is_whole(graph: Path, chain: str) -> bool:
    """Whether the list of a chain's letters is final, and all of its files are there.

    Raises:
        StorageError: The list is damaged.
    """
    letters = graph / FOLDER / chain
    kept = read_model(letters / LISTING, _Listing, f"remove {letters}; its letters are lost")
    if kept is None:
        return False
    return all(is_file(letters / part) for part in _files(kept.parts))


def _files(parts: Mapping[str, Sequence[Part]]) -> Iterator[Path]:
    for name, some in parts.items():
        for part in some:
            yield Path(safe_name(name.removeprefix(_PREFIX))) / part.file


def keep_listing(graph: Path, chain: str, state: Path | None = None) -> None:
    """Keep what a chain's checkpoints say of letters, before its state is removed.

    Args:
        graph: Folder of the graph's state, which holds the letters.
        chain: Names the attempt chain.
        state: The chain's own state, if it is not in the folder of the graph.

    Raises:
        StorageError: The disk is full or refuses.
    """
    letters = graph / FOLDER / chain
    state = state or graph / chain
    if not is_kept(letters) or not is_kept(state):
        return
    settle(letters, state, graph / FOLDER / MARKS, remove=True)
    if is_kept(letters / LISTING):
        return
    parts = _checkpointed(state)
    if parts:
        listing = _Listing(parts=parts)
        write_json(letters / LISTING, listing.model_dump(mode="json"))
    else:
        remove_folder(letters)


def _checkpointed(state: Path) -> dict[str, list[Part]]:
    parts: dict[str, list[Part]] = {}
    for stage in sorted(names(state)):
        checkpoint = CheckpointStore(state / stage / "checkpoint.json").read()
        for name, listed in checkpoint.parts.items():
            if name.startswith(_PREFIX):
                parts.setdefault(name, []).extend(listed)
    return parts
