"""The reference page of the primitives."""

from collections.abc import Iterator

from nvisy_dagster.cli.component_description import describe_fields, split_docstring
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import ENVELOPE, ENVELOPE_NAMES
from nvisy_dagster.sdk.primitives import PRIMITIVE_MODELS, Record

_DIMENSION = 256
"""Any: it stands in the page as `d`."""


def primitives_page() -> str:
    """The page as Markdown."""
    lines = [
        "# Primitives",
        "",
        "An edge carries records of one primitive, in columns. A record may have further columns;",
        "they are kept.",
        "",
        "## Envelope",
        "",
        "Columns that every record carries before its payload.",
        "",
        *_envelope(),
    ]
    for name, model in PRIMITIVE_MODELS.items():
        lines += ["", f"## {name}", "", " ".join(split_docstring(model)).strip(), ""]
        lines += _payload(name, model)
    return "\n".join(lines) + "\n"


def _envelope() -> Iterator[str]:
    meanings = {f"_{field.name}": field.description for field in describe_fields(Record)}
    yield "| column | Arrow type | nullable | meaning |"
    yield "|---|---|---|---|"
    for field in ENVELOPE:
        yield _row(field.name, str(field.type), meanings.get(field.name, ""), field.nullable)


def _payload(name: str, model: type[Record]) -> Iterator[str]:
    meanings = {field.name: field.description for field in describe_fields(model)}
    schema = schema_of(name, _DIMENSION)
    payload = [field for field in schema if field.name not in ENVELOPE_NAMES]
    if not payload:
        yield "It has no columns of its own: any may be there."
        return
    yield "| column | Arrow type | nullable | meaning |"
    yield "|---|---|---|---|"
    for field in payload:
        kind = str(field.type).replace(f"[{_DIMENSION}]", "[d]")
        yield _row(field.name, kind, meanings.get(field.name, ""), field.nullable)


def _row(name: str, kind: str, meaning: str, nullable: bool) -> str:  # noqa: FBT001 - a cell
    cells = (f"`{name}`", f"`{kind}`", "yes" if nullable else "no", " ".join(meaning.split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
