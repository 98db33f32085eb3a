"""AI-data pipelines as plain JSON graphs, compiled to Dagster and run at the speed of Arrow.

`build_definitions` and `NvisyGraph` are imported when they are first asked for, because importing
Dagster takes a second.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "build_definitions": "definitions",
    "NvisyConnection": "resources",
    "NvisyGraph": "component",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - one of several
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.translator.{_PUBLIC[name]}"), name)
