"""Names that Dagster accepts, for names that a graph's author chose."""

import keyword
import re
from collections.abc import Iterable

_TAKEN = frozenset({
    *keyword.kwlist,
    "context",
    "conf",
    "config",
    "meta",
    "arg_dict",
    "dict",
    "input_arg_dict",
    "output_arg_dict",
    "int",
    "str",
    "float",
    "bool",
    "input",
    "output",
    "type",
})
"""Words that Dagster refuses as names."""


def dagster_name(name: str) -> str:
    """A name of letters, digits and `_` that Dagster accepts; readable, not reversible."""
    clean = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return f"{clean}_" if clean in _TAKEN else clean


def dagster_names(names: Iterable[str]) -> dict[str, str]:
    """A Dagster name for each name; no two are the same."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        clean = unique = dagster_name(name)
        number = 2
        while unique in taken:
            unique, number = f"{clean}_{number}", number + 1
        taken.add(unique)
        found[name] = unique
    return found
