"""Tags: labels that an author chose, and those of Dagster's own that a graph may give its runs."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from nvisy_dagster.graph.errors import nearest, shown

TAG_KEY_PATTERN = r"^[A-Za-z0-9_.\-]{1,63}$"
TAG_VALUE_PATTERN = r"^[A-Za-z0-9_.\-]{0,63}$"
DAGSTERS = "dagster/"
_STRATEGIES = ("FROM_FAILURE", "ALL_STEPS")
_VALUES = {
    "dagster/max_retries": (r"[0-9]{1,4}", 'a whole number such as "3"'),
    "dagster/retry_strategy": ("|".join(_STRATEGIES), " or ".join(f'"{s}"' for s in _STRATEGIES)),
    "dagster/priority": (r"-?[0-9]{1,9}", 'a whole number such as "10" or "-1"'),
    "dagster/max_runtime": (r"[1-9][0-9]{0,8}", 'a whole number of seconds such as "3600"'),
}
"""What a graph may ask of Dagster for its runs: the pattern of the value, and it in words."""
RUN_TAG_KEY_PATTERN = rf"^({TAG_KEY_PATTERN[1:-1]}|{'|'.join(_VALUES)})$"


def is_dagsters(key: str) -> bool:
    """Whether Dagster acts on the tag when it is a run's."""
    return key.startswith(DAGSTERS)


def why_refused(pattern: str, key: str) -> tuple[str, str] | None:
    """What is wrong with a tag that is Dagster's, and what to do; `None` if it is of another kind.

    Args:
        pattern: The pattern that the key does not match.
        key: As the author wrote it.
    """
    if pattern not in {TAG_KEY_PATTERN, RUN_TAG_KEY_PATTERN} or not is_dagsters(key):
        return None
    if pattern == TAG_KEY_PATTERN:
        remedy = "move it to the tags of the graph" if key in _VALUES else "name it otherwise"
        return f"a node cannot set {shown(key)}: it is of whole runs", remedy
    near = nearest(key, _VALUES)
    remedy = f'did you mean "{near}"?' if near else f"it may set {', '.join(_VALUES)}"
    return f"a graph cannot set {shown(key)}: Dagster keeps it for itself", remedy


def _with_values(tags: dict[str, str]) -> dict[str, str]:
    for key, value in tags.items():
        pattern, words = _VALUES.get(key, ("", ""))
        if pattern and re.fullmatch(pattern, value) is None:
            raise PydanticCustomError(
                "tag",
                "{value} is no value of {key}",
                {"value": shown(value), "key": key, "at": (key,), "remedy": f"give it {words}"},
            )
    return tags


TagValue = Annotated[str, Field(pattern=TAG_VALUE_PATTERN)]
Tags = Annotated[
    dict[Annotated[str, Field(pattern=TAG_KEY_PATTERN)], TagValue],
    Field(max_length=100),
]
"""Labels of a node."""
RunTags = Annotated[
    dict[Annotated[str, Field(pattern=RUN_TAG_KEY_PATTERN)], TagValue],
    Field(max_length=100),
    AfterValidator(_with_values),
]
"""Labels of a graph and its runs, and what Dagster shall do with them."""
