"""Union, join and aggregate against the same computation in plain Python, and killed in between."""

import csv
import json
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

GRAPH = "examples/sales/sales.json"


@pytest.fixture
def sales(checkout):
    return checkout / "examples" / "sales"


def rows(file):
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def expected(sales):
    orders = [json.loads(line) for line in (sales / "shop.jsonl").read_text().splitlines()]
    orders += [
        {"order_id": int(row["order_id"]), "customer_id": int(row["customer_id"]),
         "amount": row["amount"], "coupon": None}
        for row in rows(sales / "fair.csv")
    ]  # fmt: skip
    countries = {int(row["customer_id"]): row["country"] for row in rows(sales / "customers.csv")}
    sums: dict = {}
    for order in orders:
        country = countries.get(order["customer_id"])
        if country is not None:
            one = sums.setdefault(country, [0, set(), Decimal(0)])
            one[0] += 1
            one[1].add(order["customer_id"])
            one[2] += Decimal(order["amount"])
    strangers = {order["order_id"] for order in orders if order["customer_id"] not in countries}
    return {c: (n, len(who), total) for c, (n, who, total) in sums.items()}, strangers


def written(sales):
    [table] = (sales / "out" / "countries").glob("*.csv")
    made = rows(table)
    assert [row["country"] for row in made] == sorted(row["country"] for row in made)
    sums = {
        row["country"]: (int(row["orders"]), int(row["customers"]), Decimal(row["amount"]))
        for row in made
    }
    [unknown] = (sales / "out" / "unknown").glob("*.jsonl")
    return sums, {json.loads(line)["order_id"] for line in unknown.read_text().splitlines()}


def test_sales(run, sales):
    wanted = expected(sales)
    assert len(wanted[0]) > 3
    assert wanted[1]
    # Killed when the first join has kept what it made, before anybody knows that it has.
    killed = subprocess.run(
        [Path(sys.executable).parent / "nvisy", "run", "--engine-only", GRAPH],
        cwd=sales.parents[1],
        env={**os.environ, "NVISY_FAILPOINT": "part.after_rename:3", "NVISY_LEASE_SECONDS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert not (sales / "out").exists()
    complete = {
        path.parent.name.rpartition("-")[0]: json.loads(path.read_text())["complete"]
        for path in (sales.parents[1] / ".nvisy").rglob("checkpoint.json")
    }
    assert sum(complete.values()) == 2, complete
    told = run("nvisy", "run", "--engine-only", GRAPH, env={"NVISY_LEASE_SECONDS": "1"})
    assert written(sales) == wanted
    [known] = [line.split() for line in told.splitlines() if line.startswith("known ")]
    [count] = [line.split() for line in told.splitlines() if line.startswith("by_country ")]
    assert known[3] == count[2], told
