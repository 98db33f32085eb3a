"""The tabular example against the same computation in plain Python."""

import json

import pyarrow.parquet as pq
import pytest

GRAPH = "examples/orders/orders.json"


@pytest.fixture
def orders(checkout):
    return checkout / "examples" / "orders"


def expected(orders):
    large, small = {}, {}
    for line in (orders / "orders.jsonl").read_text("utf-8").splitlines():
        order = json.loads(line)
        if order["status"] != "paid":
            continue
        total = order["quantity"] * order["unit_price"]
        row = {
            "order_id": order["order_id"],
            "customer": order["customer"]["name"].strip(),
            "country": order["customer"]["country"].upper(),
            "quantity": order["quantity"],
            "unit_price": order["unit_price"],
            "total": pytest.approx(total, abs=0.006),
        }
        (large if total >= 500 else small)[order["order_id"]] = row
    return large, small


def written(folder):
    [part] = folder.glob("*.parquet")
    rows = pq.read_table(part).to_pylist()
    assert len({row["order_id"] for row in rows}) == len(rows)
    return {row["order_id"]: row for row in rows}


def test_orders(run, orders):
    large, small = expected(orders)
    assert large
    assert small
    run("nvisy", "run", GRAPH)
    assert written(orders / "out" / "large") == large
    assert written(orders / "out" / "small") == small

    # The second run replaces the parts of the first one.
    run("nvisy", "run", "--engine-only", GRAPH)
    assert written(orders / "out" / "large") == large
    assert written(orders / "out" / "small") == small
