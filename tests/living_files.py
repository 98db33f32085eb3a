"""Files of a folder in which a run is at work."""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any


def living_files(folder: Path, pattern: str) -> list[Path]:
    """As `rglob`, which fails when a folder goes while it looks: that one has no files any more."""
    found = (Path(at, name) for at, _, names in os.walk(folder) for name in names)
    return [path for path in found if path.match(pattern)]


def living_json(folder: Path, pattern: str) -> list[Any]:
    """What those files hold that are still there when they are read."""
    found: list[Any] = []
    for path in living_files(folder, pattern):
        with suppress(FileNotFoundError):
            found.append(json.loads(path.read_text()))
    return found
