"""Names of the objects that a sink writes: `part-<run>-<epoch>-<n>.<extension>`."""

import hashlib
import re
from dataclasses import dataclass

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_NAME = re.compile(
    r"part-(?P<run>[^/]+?)-(?P<epoch>\d{8,})-(?P<number>\d+)"
    r"(?:-(?P<record>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))?"
    r"\.(?P<extension>txt|bin|jsonl|csv|parquet)"
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

    def __str__(self) -> str:
        record = f"-{self.record}" if self.record else ""
        return f"part-{self.run}-{self.epoch:08d}-{self.number}{record}.{self.extension}"


def parse_part(key: str) -> PartName | None:
    """The name behind a key, `None` for objects of others."""
    found = _NAME.fullmatch(key)
    if found is None:
        return None
    return PartName(
        run=found["run"],
        epoch=int(found["epoch"]),
        number=int(found["number"]),
        extension=found["extension"],
        record=found["record"],
    )


def run_token(progress_id: str) -> str:
    """The id of a run as it stands in names: itself, or its hash where that would not be safe."""
    if _SAFE.fullmatch(progress_id):
        return progress_id
    return hashlib.blake2b(progress_id.encode(), digest_size=16).hexdigest()
