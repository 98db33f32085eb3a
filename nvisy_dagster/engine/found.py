"""What a source that reads only what changed has found, in words."""

from collections.abc import Iterable

from nvisy_dagster.engine.metrics import Counts

FOUND = ("found_new", "found_changed", "found_removed", "found_unchanged")


def found_in_words(counts: Iterable[Counts]) -> str | None:
    """Such as `3 new, 1 changed, 2 removed, 194 unchanged`; `None` if nothing was counted."""
    some = list(counts)
    sums = {name: sum(getattr(one, name) for one in some) for name in FOUND}
    if not any(sums.values()):
        return None
    return ", ".join(f"{number:,} {name.removeprefix('found_')}" for name, number in sums.items())
