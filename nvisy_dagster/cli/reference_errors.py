"""The reference page of error tags."""

from nvisy_dagster.sdk.error_tags import ERROR_TAGS, Outcome

_OUTCOMES: dict[Outcome, str] = {
    "fails": "the run fails until somebody acts",
    "record": "single records; `on_error` decides",
    "retried": "retried by the node's policy, then by Dagster",
    "either": "depends on where it happens",
}


def errors_page() -> str:
    """A table of all tags."""
    lines = [
        "# Error tags",
        "",
        "Every error has a tag that programs can rely on: in `nvisy run --json`, in the metadata",
        "of a failed Dagster step, and in dead letters.",
        "",
        "| tag | meaning | what happens |",
        "|---|---|---|",
    ]
    lines += [
        f"| `{name}` | {tag.meaning} | {_OUTCOMES[tag.outcome]} |"
        for name, tag in ERROR_TAGS.items()
    ]
    return "\n".join([*lines, ""])
