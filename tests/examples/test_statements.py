"""The CSV example against the same computation with Python's own reader."""

import csv
import datetime as dt
from decimal import Decimal


def expected(folder):
    """The rows, and how many could not become any."""
    found, bad = [], 0
    for name, encoding in (("2026-01", "cp1250"), ("2026-02", "utf-8-sig")):
        text = (folder / f"{name}.csv").read_bytes().decode(encoding)
        for row in csv.DictReader(text.splitlines(keepends=True), delimiter=";"):
            amount = row["kwota"].replace(",", ".")
            if not row["kontrahent"] or amount == "brak":
                bad += 1
                continue
            found.append({
                "date": dt.date.fromisoformat(row["data"]).isoformat(),
                "counterparty": row["kontrahent"],
                "title": row["tytuł"],
                "amount": amount,
                "kind": "expense" if Decimal(amount) < 0 else "income",
            })
    return found, bad


def test_statements(run, checkout):
    folder = checkout / "examples" / "statements"
    wanted, bad = expected(folder / "statements")
    formulas = [row for row in wanted if row["title"].startswith("=")]
    assert bad == 2
    assert formulas
    told = run("nvisy", "run", "--engine-only", "examples/statements/statements.json")
    assert f"80 records read, {len(wanted)} written, 2 dead" in told
    [file] = (folder / "out").glob("*.csv")
    assert file.read_bytes().startswith(b"\xef\xbb\xbf")
    with file.open(encoding="utf-8-sig", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in formulas:  # a spreadsheet shows them, and does not compute them
        row["title"] = "'" + row["title"]
    assert rows == wanted
