"""What is told of a node while a run goes on."""

from nvisy_dagster.cli.run_record import NodeRecord
from nvisy_dagster.engine.metrics import Counts, NodeMetrics


def observed(record: NodeRecord, records: int, now: float) -> None:
    record.observe(NodeMetrics("pay", "action", counts=Counts(records_in=records)), now)


def test_a_step_that_is_tried_again_has_no_negative_rate():
    record = NodeRecord("pay", "action", "pay")
    observed(record, 0, 0.0)
    observed(record, 600, 2.0)
    assert record.current_rate == 300
    # Its checkpoint said 100; so the attempt that failed had made nothing durable beyond it.
    observed(record, 100, 3.0)
    assert record.current_rate == 0
    observed(record, 150, 4.0)
    assert record.current_rate == 50
    assert record.rate == 150 / 4


def test_a_run_that_goes_on_and_is_thrown_back_counts_from_there():
    record = NodeRecord("pay", "action", "pay")
    observed(record, 400, 0.0)
    observed(record, 500, 1.0)
    observed(record, 300, 2.0)
    observed(record, 340, 4.0)
    assert record.rate == 10
