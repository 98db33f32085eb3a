"""Asset checks: what the nodes that check records found in a run."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import dagster as dg

from nvisy_dagster.compiler import Node, Plan
from nvisy_dagster.engine.dead_letter_box import ALL, DeadLetterBox
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.sdk import NvisyError
from nvisy_dagster.translator.metadata import FINDINGS, findings_table, told_findings
from nvisy_dagster.translator.preview import previews_wanted
from nvisy_dagster.translator.runtime import Runtime
from nvisy_dagster.translator.stage_names import StageNames
from nvisy_dagster.translator.stage_run import StageReport

CHECK = "valid_records"
"""Name of the check of every such node."""
MOST_REASONS = 20


def checking_nodes(plan: Plan) -> Iterator[Node]:
    """Nodes whose component says that it checks records."""
    return (node for node in plan.nodes.values() if node.component.capabilities.checks)


def check_definitions(plan: Plan, names: StageNames) -> list[dg.AssetChecksDefinition]:
    """The checks of a graph, so that they are listed; a run of the graph evaluates them.

    Evaluated by themselves they tell again what the node's last run found.
    """
    return [_definition(names.node_key(node.id)) for node in checking_nodes(plan)]


def _definition(key: dg.AssetKey) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=key,
        name=CHECK,
        description="Whether all records followed the rules, in the last run that went through.",
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        event = context.instance.get_latest_materialization_event(key)
        made = event.asset_materialization if event else None
        if made is None:
            return dg.AssetCheckResult(
                passed=False,
                severity=dg.AssetCheckSeverity.WARN,
                description="the graph has not run yet",
            )
        counts = made.metadata
        found = _Found(
            _number(counts["records_in"].value),
            _number(counts["failed"].value),
            told_findings(counts),
        )
        return dg.AssetCheckResult(
            passed=found.passed,
            severity=found.severity,
            description=found.description,
            metadata=found.metadata,
        )

    return check


def evaluations(
    runtime: Runtime, names: StageNames, report: StageReport, run_id: str
) -> list[dg.AssetCheckEvaluation]:
    """What the nodes of a stage found, as events for the op that ran it."""
    checking = {node.id for node in checking_nodes(runtime.plan)}
    found: list[dg.AssetCheckEvaluation] = []
    for metrics in report.result.metrics:
        if metrics.node not in checking:
            continue
        reasons = _reasons(runtime, report, metrics, run_id)
        found.append(_evaluation(names, metrics, reasons))
    return found


def evaluations_of_failure(
    runtime: Runtime, names: StageNames, metrics: Iterable[NodeMetrics]
) -> list[dg.AssetCheckEvaluation]:
    """What nodes found at which their stage failed, because `on_error` says so.

    The counts go up to the batch with the first record that failed.
    """
    checking = {node.id for node in checking_nodes(runtime.plan)}
    return [
        _evaluation(names, one, {}, dg.AssetCheckSeverity.ERROR)
        for one in metrics
        if one.node in checking
        and one.counts.failed
        and runtime.plan.nodes[one.node].policies.on_error == "fail"
    ]


def _evaluation(
    names: StageNames,
    metrics: NodeMetrics,
    reasons: Mapping[str, int],
    severity: dg.AssetCheckSeverity | None = None,
) -> dg.AssetCheckEvaluation:
    counts = metrics.counts
    found = _Found(counts.records_in, counts.failed, metrics.findings, reasons)
    return dg.AssetCheckEvaluation(
        asset_key=names.node_key(metrics.node),
        check_name=CHECK,
        passed=found.passed,
        severity=severity or found.severity,
        description=found.description,
        metadata=found.metadata,
    )


@dataclass(frozen=True)
class _Found:
    """What a node found, in Dagster's words."""

    checked: int
    failed: int
    findings: Mapping[str, int]
    reasons: Mapping[str, int] = field(default_factory=dict[str, int])
    severity: ClassVar = dg.AssetCheckSeverity.WARN
    """The run went on without these records, as the graph says: no error of the run."""

    @property
    def passed(self) -> bool:
        return not self.failed

    @property
    def description(self) -> str:
        return f"{self.failed:,} of {self.checked:,} records failed"

    @property
    def metadata(self) -> dict[str, dg.MetadataValue[Any]]:
        share = self.failed / self.checked if self.checked else 0.0
        shown: dict[str, dg.MetadataValue[Any]] = {
            "checked": dg.MetadataValue.int(self.checked),
            "failed": dg.MetadataValue.int(self.failed),
            "share_failed": dg.MetadataValue.float(share),
        }
        if self.findings:
            shown[FINDINGS] = findings_table(self.findings)
        if self.reasons:
            rows = [
                dg.TableRecord({"reason": why, "records": n}) for why, n in self.reasons.items()
            ]
            columns = [dg.TableColumn("reason"), dg.TableColumn("records", type="int")]
            shown["reasons"] = dg.MetadataValue.table(rows, dg.TableSchema(columns))
        return shown


def _reasons(
    runtime: Runtime, report: StageReport, metrics: NodeMetrics, run_id: str
) -> dict[str, int]:
    """The most frequent reasons of the dead letters that the run left at a node."""
    # A reason may show the value that did not fit.
    if not (metrics.counts.dead and runtime.preview and previews_wanted()):
        return {}
    try:
        letters = DeadLetterBox(runtime.storage, runtime.plan.name).letters(ALL)
    except (NvisyError, OSError):
        # A fact beside the run: it must not fail for it.
        return {}
    columns = (letters[name].to_pylist() for name in ("node", "run_id", "message"))
    told = Counter(
        report.redactor.scrub(message)
        for node, run, message in zip(*columns, strict=True)
        if node == metrics.node and run == run_id
    )
    return dict(told.most_common(MOST_REASONS))


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
