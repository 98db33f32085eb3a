"""What gets past the sandbox of expressions: nothing, and nobody takes more than their share."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from sandbox_attacks import BOMBS, REFUSED, Bomb
from tabular_batches import batch_of

from nvisy_connectors.tabular import limits
from nvisy_connectors.tabular.allow_list import FUNCTIONS, MACROS
from nvisy_connectors.tabular.costs import RecordSizes
from nvisy_connectors.tabular.database import ask, select
from nvisy_connectors.tabular.expression import parse_expression
from nvisy_connectors.tabular.map import Map, MapParams
from nvisy_connectors.tabular.patterns import pattern_of
from nvisy_dagster.compiler import compile_document
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.sdk import DataError

RUN = """
import atexit, re, sys
from pathlib import Path
# Not what `wait4` says, which counts the process that this one was forked from.
peak = lambda: re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
atexit.register(lambda: Path("peak").write_text(peak()))
from nvisy_connectors.tabular import limits
limits.TIME_LIMIT_SECONDS, limits.TICK_SECONDS = 1, 0.1
from nvisy_dagster.cli import main
sys.argv = ["nvisy", "run", "--engine-only", "graph.json"]
main()
"""


def graph(expression: str, on_error: str = "dead_letter") -> dict:
    columns = {"text": "string", "score": "float64"}
    source = {"path": "rows.jsonl", "format": "jsonl", "columns": columns}
    sink = {"path": "out", "format": "jsonl"}
    return {
        "name": "attack",
        "nodes": [
            {"id": "rows", "type": "source", "connector": "local", "params": source},
            {
                "id": "attacked",
                "type": "action",
                "action": "map",
                "params": {"set": {"made": expression}, "drop": ["text"]},
            },
            {"id": "out", "type": "sink", "connector": "local", "params": sink},
        ],
        "edges": [{"from": "rows", "to": "attacked"}, {"from": "attacked", "to": "out"}],
        "on_error": on_error,
        "retry": {"max_retries": 0},
    }


@pytest.mark.parametrize(
    ("expression", "told", "character"), REFUSED, ids=[ascii(text[:40]) for text, *_ in REFUSED]
)
def test_the_compiler_refuses_it_and_names_node_and_place(expression, told, character):
    started = time.process_time()
    with pytest.raises(GraphErrors) as refused:
        compile_document(graph(expression))
    assert time.process_time() - started < 5
    [error] = refused.value.errors
    assert error.path == "$.nodes[1].params.set.made"
    assert told in str(error)
    if character is not None:
        assert f"(at character {character})" in str(error)


def attack(folder: Path, bomb: Bomb, on_error: str) -> tuple[int, str, float, float]:
    """Exit code, output, seconds, and peak of memory in megabytes of a run."""
    (folder / "graph.json").write_text(json.dumps(graph(bomb.expression, on_error)))
    texts = ["short", bomb.text, "also short", "4"]
    rows = [json.dumps({"text": text, "score": n}) for n, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    started = time.monotonic()
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN], cwd=folder, stdout=output, stderr=subprocess.STDOUT
        )
    process.wait()
    seconds = time.monotonic() - started
    told = (folder / "output").read_text()
    return process.returncode, told, seconds, int((folder / "peak").read_text()) / 1024


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(bomb, id=bomb.name, marks=pytest.mark.soak if number % 3 else [])
        for number, bomb in enumerate(BOMBS)
    ],
)
def test_a_run_stops_it_and_goes_on_with_the_other_records(tmp_path, bomb):
    _, told, seconds, megabytes = attack(tmp_path, bomb, "dead_letter")
    [letter] = dead_letters(tmp_path)
    assert bomb.told in letter["message"]
    assert (letter["node"], letter["position"]) == ("attacked", 2)
    assert letter["tag"] == bomb.tag, told
    assert [row["score"] for row in written(tmp_path)] == [0, 2, 3]
    assert seconds < bomb.seconds
    assert megabytes < bomb.megabytes


def test_with_on_error_fail_the_run_fails_and_tells_where(tmp_path):
    code, told, seconds, _ = attack(tmp_path, BOMBS[0], "fail")
    assert code != 0
    assert "attacked" in told
    assert "expression 'set.made': 'regexp_extract_all' gets a value" in " ".join(told.split())
    assert seconds < 12


def dead_letters(folder: Path) -> list[dict]:
    from nvisy_dagster.engine.dead_letter_box import DeadLetterBox

    return DeadLetterBox(folder / ".nvisy", "attack").letters().to_pylist()


def written(folder: Path) -> list[dict]:
    lines = [line for file in (folder / "out").iterdir() for line in file.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda row: row["score"])


def test_what_is_slow_only_because_there_is_much_of_it_is_not_refused(monkeypatch):
    """The parts of a batch that is interrupted are tried again, until each is fast enough."""
    monkeypatch.setattr(limits, "TIME_LIMIT_SECONDS", 0.5)
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.05)
    action = Map(MapParams(set={"n": "len(regexp_extract_all(text, 'a*b|a'))"}))
    batch = batch_of({"text": ["a" * 10_000] * 60})
    with pytest.raises(DataError) as slow:
        action.transform(batch)
    assert (slow.value.tag, slow.value.rows) == ("time_limit", {})
    assert "60 records" in slow.value.message
    assert action.transform(batch.slice(0, 1)).column("n").to_pylist() == [10_000]


def test_an_interrupt_stops_between_the_records_of_one_vector(monkeypatch):
    monkeypatch.setattr(limits, "TIME_LIMIT_SECONDS", 0.3)
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.05)
    action = Map(MapParams(set={"n": "len(regexp_extract_all(text, 'a*b|a'))"}))
    batch = batch_of({"text": ["a" * 20_000] * 400})
    started = time.process_time()
    with pytest.raises(DataError, match="take longer than"):
        action.transform(batch)
    # All of it would take minutes.
    assert time.process_time() - started < 10


def test_a_query_after_an_interrupted_one_runs(monkeypatch):
    records = pa.record_batch({"text": ["a" * 20_000] * 400})
    monkeypatch.setattr(limits, "TIME_LIMIT_SECONDS", 0.2)
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.05)
    with pytest.raises(DataError):
        select("regexp_extract_all(text, 'a*b|a')", limits.in_small_vectors(records))
    monkeypatch.undo()
    assert select("length(text) AS n", records).column("n").to_pylist() == [20_000] * 400


def test_small_vectors_change_neither_rows_nor_order():
    records = pa.record_batch({"text": [f"{n}" * 1000 for n in range(5000)]})
    made = select("text", limits.in_small_vectors(records))
    assert made.column(0).to_pylist() == records.column(0).to_pylist()


@pytest.mark.parametrize(
    ("pattern", "linear"),
    [
        (r"\s+", True),
        (r"^\s+|\s+$", True),
        (r"https?://\S+|www\.\S+", True),
        (r"[a-z]+@[a-z]+\.[a-z]{2,}", True),
        (r"(foo|bar)\s*", True),
        (r"(a)(b)*c", False),
        ("a*b|a", False),
        ("(a*b|a)", False),
        ("x(a+b)?", False),
        (r"\s+$| ", False),
        (r"(?m)^\s+|\s+$", False),
        ("(?:a*b){2}", False),
        ("[]|]+b", True),
        (r"\Q(a|b)*\Ec", True),
        ("(", False),
    ],
)
def test_patterns_that_may_be_read_again_and_again_are_told_apart(pattern, linear):
    assert pattern_of(pattern).linear is linear


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("abc", 3, 5),
        ("a{500}", 500, 502),
        ("(ab{10}){20}", 220, 230),
        ("((a{30}){30}){2}", 1800, 1802),
    ],
)
def test_a_pattern_weighs_what_its_repetitions_make_of_it(pattern, least, most):
    assert least <= pattern_of(pattern).weight <= most


@pytest.mark.parametrize(
    "expression",
    [
        r"regexp_replace(text, '\s+', ' ', 'g')",
        r"regexp_replace(text, '^\s+|\s+$', '', 'g')",
        r"len(regexp_extract_all(text, '[A-Za-z]+'))",
        "length(lower(text))",
        "len(string_split(text, ' '))",
    ],
)
def test_long_texts_of_ordinary_expressions_pass(expression):
    text = "some words " * 300_000
    made = Map(MapParams(set={"made": expression})).transform(batch_of({"text": [text]}))
    assert made.num_rows == 1


def test_the_sizes_of_nested_values_are_those_of_all_that_is_in_them():
    kind = pa.list_(pa.struct([("a", pa.string())]))
    records = pa.record_batch({
        "nested": pa.array([[{"a": "x" * 1000}] * 50, [], None], kind),
        "TEXT": ["y" * 10, "z" * 5000, None],
    })
    sizes = RecordSizes(records)
    assert sizes.too_large([("nested", 1.0)], 20_000).tolist() == [0]
    assert sizes.too_large([("text", 2.0)], 9_000).tolist() == [1]
    assert sizes.too_large([("text", 1.0), ("", 100.0)], 50).tolist() == [0, 1, 2]
    assert not sizes.too_large([("nested", 1.0)], 60_000).size


def test_a_message_that_is_cut_within_a_character_is_told():
    value = "0" * 16 + "\x80" * 7 + "\u0800" + "\U00010000" * 4 + "\x80"
    action = Map(MapParams(set={"n": "json_array_length(x)"}))
    with pytest.raises(DataError) as told:
        action.transform(batch_of({"x": [value, "[1]"]}))
    assert list(told.value.rows) == [0]


def test_the_place_of_a_costly_call_is_known():
    [call] = parse_expression("x", "len(regexp_extract_all(text, 'a*b|a'))").calls
    assert (call.name, call.offset, call.slow) == ("regexp_extract_all", 4, True)


def test_the_documentation_lists_the_functions_that_are_allowed():
    page = (Path(__file__).parents[2] / "docs" / "expressions.md").read_text()
    listed = page.split("## Allowed functions and operators")[1]
    assert set(re.findall(r"`(.+?)`", listed)) == set(FUNCTIONS)


def test_macros_are_those_of_duckdb():
    sql = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'macro'"
    assert {name for name in FUNCTIONS if (name,) in set(ask(sql))} == MACROS
