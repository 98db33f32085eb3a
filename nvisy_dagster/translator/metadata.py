"""What a node's asset shows of a run: aggregates, the schema, a few records."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import dagster as dg
import pyarrow as pa

from nvisy_dagster.engine.accounting import passed_on, sum_in_words
from nvisy_dagster.engine.found import FOUND, found_in_words
from nvisy_dagster.engine.metrics import SECONDS, NodeMetrics
from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.translator.preview import preview_table

FINDINGS = "broken"
"""The entry that tells how many records break each rule."""

_STAGE_COLUMNS = (
    "records_in",
    "records_out",
    "dropped",
    "dead",
    "bytes_in",
    "bytes_out",
    "calls",
    "retries",
)


@dataclass(frozen=True)
class Shown:
    """What is told of every node of a stage alike."""

    stage_seconds: float
    resumed: bool
    """Whether the stage went on from an earlier attempt's checkpoint."""
    redactor: Redactor
    preview: bool
    """Whether records may be shown."""


def node_metadata(
    metrics: NodeMetrics, shown: Shown, location: str | None
) -> dict[str, dg.MetadataValue]:
    """The metadata of one materialization of a node's asset.

    Args:
        metrics: What the node did.
        shown: What holds for its whole stage.
        location: URI of what it reads or writes.
    """
    counts = asdict(metrics.counts)
    seconds = {name: counts.pop(name) for name in SECONDS}
    found_words = found_in_words([metrics.counts])
    if found_words is None:
        counts = {name: value for name, value in counts.items() if name not in FOUND}
    if not metrics.counts.superseded:
        del counts["superseded"]
    counts["records_kept"] = passed_on(metrics)
    found: dict[str, dg.MetadataValue] = {
        name: dg.MetadataValue.int(value) for name, value in counts.items()
    }
    found["dagster/row_count"] = dg.MetadataValue.int(metrics.counts.records_out)
    if found_words is not None:
        found["incremental"] = dg.MetadataValue.text(found_words)
    found["sum"] = dg.MetadataValue.text(sum_in_words(metrics))
    if metrics.findings:
        found[FINDINGS] = findings_table(metrics.findings)
    seconds |= {
        "wait_in_seconds": metrics.wait_in_seconds,
        "wait_out_seconds": metrics.wait_out_seconds,
        "stage_seconds": shown.stage_seconds,
    }
    found |= {name: dg.MetadataValue.float(round(value, 3)) for name, value in seconds.items()}
    found["resumed"] = dg.MetadataValue.bool(shown.resumed)
    if location is not None:
        found["location"] = location_value(location)
    if metrics.schema is not None:
        found["dagster/column_schema"] = dg.MetadataValue.table_schema(table_schema(metrics.schema))
    if shown.preview and metrics.preview is not None:
        found["preview"] = preview_table(metrics.preview, shown.redactor)
    return found


def findings_table(findings: Mapping[str, int]) -> dg.TableMetadataValue:
    """What was found, a row for each kind: one event for hundreds of them."""
    rows = [dg.TableRecord({"what": what, "records": count}) for what, count in findings.items()]
    columns = [dg.TableColumn("what"), dg.TableColumn("records", type="int")]
    return dg.MetadataValue.table(rows, dg.TableSchema(columns))


def told_findings(metadata: Mapping[str, dg.MetadataValue]) -> dict[str, int]:
    """The same read from what a run left."""
    found = metadata.get(FINDINGS)
    if not isinstance(found, dg.TableMetadataValue):
        return {}
    rows = (row.data for row in found.records)
    return {str(row["what"]): int(row["records"] or 0) for row in rows}


def location_value(uri: str) -> dg.MetadataValue:
    """A URI as the metadata that shows it best: a path, a link or a text."""
    if uri.startswith("file://"):
        return dg.MetadataValue.path(uri.removeprefix("file://"))
    if uri.startswith(("http://", "https://")):
        return dg.MetadataValue.url(uri)
    return dg.MetadataValue.text(uri)


def table_schema(schema: pa.Schema) -> dg.TableSchema:
    """An Arrow schema in Dagster's words."""
    return dg.TableSchema([
        dg.TableColumn(
            field.name,
            type=str(field.type),
            constraints=dg.TableColumnConstraints(nullable=field.nullable),
        )
        for field in schema
    ])


def stage_table(metrics: Sequence[NodeMetrics]) -> dg.TableMetadataValue:
    """A stage's nodes, a row each."""
    records: list[dg.TableRecord] = []
    for node in metrics:
        counts = asdict(node.counts)
        row: dict[str, str | int | float] = {"node": node.node, "kind": node.kind}
        row |= {name: counts[name] for name in _STAGE_COLUMNS}
        row |= {name: round(counts[name], 3) for name in SECONDS}
        row["sum"] = sum_in_words(node)
        records.append(dg.TableRecord(row))
    columns = [
        dg.TableColumn("node"),
        dg.TableColumn("kind"),
        *(dg.TableColumn(name, type="int") for name in _STAGE_COLUMNS),
        *(dg.TableColumn(name, type="float") for name in SECONDS),
        dg.TableColumn("sum"),
    ]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))


def free_metadata(metadata: Mapping[str, object]) -> dict[str, dg.MetadataValue]:
    """What the author wrote under `metadata`, as one entry so that it never hides one of ours."""
    return {"metadata": dg.MetadataValue.json(dict(metadata))} if metadata else {}
