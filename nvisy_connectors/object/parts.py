"""Names of the objects that a sink writes: `part-<run>-<epoch>-<n>.<extension>`.

The epoch is the one in which the part was begun; it appears when that is committed.

In folders of partitions, `dt=2024-01-01/region=eu/part-<run>-<epoch>-<n>-p2.<extension>`: the
number of folders tells from which one it was written, so that a sink never takes a part for its own
that another sink, which writes to one of these folders, has made.
"""

import hashlib
import re
from dataclasses import dataclass

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_NAME = re.compile(
    r"part-(?P<run>[^/]+?)-(?P<epoch>\d{8,})-(?P<number>\d+)"
    r"(?:-(?P<record>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))?"
    r"(?:-p(?P<folders>\d{1,3}))?"
    r"\.(?P<extension>txt|bin|(?:jsonl|csv)(?:\.gz|\.zst|\.bz2)?|parquet|arrow)"
)


@dataclass(frozen=True)
class PartName:
    """What the name of a part tells."""

    run: str
    """Token of the chain of attempts that wrote it, see `run_token`."""
    epoch: int
    number: int
    extension: str
    record: str | None = None
    """Id of the one record in it, for formats with one per part."""
    folder: str = ""
    """Folders of its partition, such as `dt=2024-01-01/region=eu/`."""

    def __str__(self) -> str:
        record = f"-{self.record}" if self.record else ""
        folders = f"-p{self.folder.count('/')}" if self.folder else ""
        name = f"part-{self.run}-{self.epoch:08d}-{self.number}{record}{folders}.{self.extension}"
        return self.folder + name


def parse_part(key: str) -> PartName | None:
    """The name behind a key, `None` for objects of others."""
    folder, slash, name = key.rpartition("/")
    found = _NAME.fullmatch(name)
    if found is None or key.count("/") != int(found["folders"] or 0):
        return None
    if not all("=" in one for one in folder.split("/") if slash):
        return None
    return PartName(
        run=found["run"],
        epoch=int(found["epoch"]),
        number=int(found["number"]),
        extension=found["extension"],
        record=found["record"],
        folder=folder + slash,
    )


def run_token(progress_id: str) -> str:
    """The id of a run as it stands in names: itself, or its hash where that would not be safe."""
    if _SAFE.fullmatch(progress_id):
        return progress_id
    return hashlib.blake2b(progress_id.encode(), digest_size=16).hexdigest()
