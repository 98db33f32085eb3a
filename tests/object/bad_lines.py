"""JSON lines some of which are bad, and what a source makes of them."""

import json
import random

from nvisy_connectors.object.local import LocalSource, LocalSourceParams
from nvisy_dagster.sdk.envelope import payload

ROWS = 30_000


def source(path, kind="jsonl", **params):
    found = LocalSource(LocalSourceParams(path=str(path), format=kind, **params), node_id="read")
    found.bad_records = "reject"
    return found


def rows_of(batches):
    return [row for batch in batches for row in payload(batch.data).to_pylist()]


def places_of(batches):
    """Where each good record came from."""
    return [
        (value["uri"], value["position"])
        for batch in batches
        for value in batch.data.column("_source").to_pylist()
    ]


def rejected_in(batches):
    return [bad for batch in batches for bad in batch.rejected]


def good_line(number: int) -> bytes:
    value = {"id": number, "name": f"n {number} ü", "score": number / 8, "in": {"tags": ["a"]}}
    return json.dumps(value, ensure_ascii=number % 2 == 0).encode()


BREAKS = {
    "cut": lambda line: line[: len(line) // 2],
    "colon": lambda line: line.replace(b'": ', b'" ', 1),
    "encoding": lambda line: line.replace(b"n ", b"\xff\xfe", 1),
    "text": lambda _: b"oops",
    "null": lambda _: b" null ",
    "array": lambda line: b"[" + line + b"]",
    "two": lambda line: line + b" " + line,
    "type": lambda line: line.replace(b'"id": ', b'"id": true, "x": ', 1),
    "nested type": lambda line: line.replace(b'["a"]', b'[["a"]]', 1),
    "number": lambda line: line.replace(b'"score": ', b'"score": 1e999, "score2": ', 1),
    "twice": lambda line: line[:-1] + b', "id": 3}',
    "open": lambda line: line[:-1],
    "closed": lambda line: line + b"}",
}


def spoilt(rate: float, seed: int) -> tuple[list[bytes], dict[int, bytes]]:
    """Lines some of which are bad, and those by their number."""
    draw = random.Random(seed)
    made, bad = [], {}
    for number in range(1, ROWS + 1):
        line = good_line(number)
        if draw.random() < rate:
            line = draw.choice(list(BREAKS.values()))(line)
            bad[number] = line
        made.append(line)
    return made, bad
