"""`nvisy dead-letters`: what it shows, writes, forgets and replays."""

import json
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from cli.conftest import action, counter, table, write_graph
from engine.counting import numbers_in


@pytest.fixture
def graph(counting, nvisy, here) -> Path:
    """A graph that ran: record 7 failed at `pay`, 8 and 9 in the sink."""
    path = write(here, poison=[7], refuse=[8, 9])
    assert nvisy("run", path, "--engine-only", "--quiet").exit_code == 0
    return path


def write(here: Path, *, poison=(), refuse=(), name="g", **more) -> Path:
    pay = action("pay", ledger=str(here / "ledger"), poison=list(poison))
    nodes = [counter(rows=100), pay, table(here, refuse=list(refuse))]
    return write_graph(here / f"{name}.json", nodes, **{"on_error": "dead_letter", **more})


def listed(nvisy, *arguments) -> list[dict]:
    return json.loads(nvisy("dead-letters", "list", *arguments, "--json").stdout)["letters"]


def test_list(graph, nvisy):
    for named in (graph, "g"):
        out = nvisy("dead-letters", "list", named).stdout
        assert out.splitlines()[0].split()[:4] == ["id", "node", "tag", "attempt"]
        assert "8 is refused" in out
        assert "count: at 7" in out
        assert "3 dead letters (1 validation at pay, 2 validation at table)" in out
    letters = listed(nvisy, graph)
    assert [one["position"] for one in letters] == [7, 8, 9]
    assert letters[0].keys() >= {"letter_id", "record_id", "node", "tag", "message", "attempt",
                                 "run_id", "uri", "failed_at", "status"}  # fmt: skip


def test_list_filters(graph, nvisy):
    def positions(*options):
        return [one["position"] for one in listed(nvisy, graph, *options)]

    run = listed(nvisy, graph)[0]["run_id"]
    assert positions("--node", "pay") == [7]
    assert positions("--tag", "format") == []
    assert positions("--run", run[:8]) == [7, 8, 9]
    assert positions("--since", "1h") == [7, 8, 9]
    assert positions("--since", "2999-01-01") == []
    assert positions("--limit", "1") == [9]
    wrong = nvisy("dead-letters", "list", graph, "--since", "yesterday")
    assert wrong.exit_code == 2
    assert "neither a span such as 2h" in wrong.stderr


def test_nothing_and_nobody(counting, nvisy, here):
    path = write(here)
    assert nvisy("dead-letters", "list", path).stdout == "no dead letters\n"
    unknown = nvisy("dead-letters", "list", "nobody")
    assert unknown.exit_code == 2
    assert "no graph of this name has run" in unknown.stderr
    missing = nvisy("dead-letters", "list", "missing.json")
    assert missing.exit_code == 2


def test_show(graph, nvisy, monkeypatch):
    letter = listed(nvisy, graph)[0]
    out = nvisy("dead-letters", "show", graph, letter["letter_id"][:8]).stdout
    assert f"letter   {letter['letter_id']}" in out
    assert "error    validation: poison" in out
    assert "from     count: at 7" in out
    assert f"trace    {letter['record_id']} <- parent no parent <- root" in out
    assert out.endswith("record\n  n: 7\n")
    [document] = json.loads(
        nvisy("dead-letters", "show", graph, letter["letter_id"], "--json").stdout
    )
    assert document["record"]["n"] == 7
    assert document["record"]["_id"] == letter["record_id"]
    assert document["cursor"] == {}
    unknown = nvisy("dead-letters", "show", graph, "ffffffff")
    assert (unknown.exit_code, "has no dead letter" in unknown.stderr) == (2, True)
    monkeypatch.setenv("NVISY_PREVIEW", "off")
    hidden = nvisy("dead-letters", "show", graph, letter["letter_id"]).stdout
    assert "n: not shown: NVISY_PREVIEW is off" in hidden
    assert "from     count: at 7" in hidden


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_export(graph, nvisy, here, ending):
    file = here / f"letters{ending}"
    result = nvisy("dead-letters", "export", graph, file)
    assert result.stdout == f"3 letters written to {file}\n"
    if ending == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        rows = pq.read_table(file).to_pylist()
    assert [row["record"]["n"] for row in rows] == [7, 8, 9]
    assert {row["attempt"] for row in rows} == {1}
    assert not list(here.glob(".letters*"))


def test_export_to_what_it_does_not_write(graph, nvisy, here):
    result = nvisy("dead-letters", "export", graph, here / "letters.csv")
    assert result.exit_code == 2
    assert "to .jsonl or .parquet files" in result.stderr


def test_discard(graph, nvisy):
    # Nobody answers the question.
    assert nvisy("dead-letters", "discard", graph).exit_code == 1
    assert len(listed(nvisy, graph)) == 3
    result = nvisy("dead-letters", "discard", graph, "--node", "table", "--yes")
    assert "discarded 2" in result.stdout
    assert [one["position"] for one in listed(nvisy, graph)] == [7]
    assert [one["position"] for one in listed(nvisy, graph, "--status", "discarded")] == [8, 9]
    assert len(listed(nvisy, graph, "--status", "all")) == 3
    one = listed(nvisy, graph)[0]["letter_id"]
    nvisy("dead-letters", "discard", graph, one, "--yes")
    assert nvisy("dead-letters", "discard", graph, "--yes").stdout == "no open dead letters\n"
    again = nvisy("dead-letters", "discard", graph, one, "--yes")
    assert (again.exit_code, "none of these letters is open" in again.stderr) == (2, True)


def test_replay(graph, nvisy, here):
    write(here, refuse=[9])
    result = nvisy("dead-letters", "replay", graph)
    assert result.exit_code == 0, result.output
    assert "3 letters replayed: 2 got through, 1 letter left of them" in result.stdout
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert rows["@pay"][1] == "dead_letters"
    assert numbers_in(here / "t.db") == [n for n in range(100) if n != 9]
    [left] = listed(nvisy, graph)
    assert (left["position"], left["attempt"]) == (9, 2)
    replayed = listed(nvisy, graph, "--status", "replayed")
    assert [one["position"] for one in replayed] == [7, 8]
    assert replayed[0]["marked_by"] == left["run_id"]
    write(here)
    document = json.loads(nvisy("dead-letters", "replay", graph, "--json").stdout)
    assert (document["success"], document["letters"], document["through"]) == (True, 1, 1)
    assert nvisy("dead-letters", "replay", graph).stdout == "no open dead letters\n"
    assert numbers_in(here / "t.db") == list(range(100))


def test_replay_of_some(graph, nvisy, here):
    write(here)
    letter = listed(nvisy, graph, "--node", "table")[0]["letter_id"]
    assert nvisy("dead-letters", "replay", graph, letter, "-q").exit_code == 0
    assert nvisy("dead-letters", "replay", graph, "--node", "pay", "-q").exit_code == 0
    assert [one["position"] for one in listed(nvisy, graph)] == [9]


def test_replay_that_fails_goes_on(graph, nvisy, here):
    write(here, refuse=[9], on_error="fail")
    failed = nvisy("dead-letters", "replay", graph)
    assert failed.exit_code == 1
    assert "node 'table': record" in failed.stderr
    assert "9 is refused" in failed.stderr
    assert len(listed(nvisy, graph)) == 3
    write(here)
    again = nvisy("dead-letters", "replay", graph)
    assert "going on with a replay that was cut off" in again.stderr
    assert "3 letters replayed: 3 got through" in again.stdout
    assert numbers_in(here / "t.db") == list(range(100))


def test_letters_of_a_node_that_is_gone(graph, nvisy, here):
    nodes = [counter(rows=100), table(here)]
    write_graph(graph, nodes, on_error="dead_letter")
    result = nvisy("dead-letters", "replay", graph)
    assert result.exit_code == 1
    assert "1 letter cannot be replayed. 1 of them: the graph has no node 'pay'" in result.stderr
    assert "2 letters replayed: 2 got through" in result.stdout
    assert [one["position"] for one in listed(nvisy, graph)] == [7]


def test_replay_while_the_graph_runs(counting, nvisy, start, here):
    path = write(here, poison=[7])
    assert nvisy("run", path, "--engine-only", "--quiet").exit_code == 0
    slow = [counter(rows=100, batch_rows=1, pause_seconds=0.2), table(here)]
    write_graph(path, slow, on_error="dead_letter")
    process = start("run", path, "--engine-only", "--quiet", stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((here / ".nvisy").glob("graphs/g/*/count__table-*/lease/*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    write(here)
    refused = nvisy("dead-letters", "replay", path)
    assert refused.exit_code == 4, refused.output
    assert "is running this graph now" in refused.stderr
    assert not list((here / ".nvisy" / "replays").rglob("selection.parquet"))
    process.kill()


def test_what_a_later_run_closed(graph, nvisy, here):
    write(here, refuse=[9])
    assert nvisy("run", graph, "--engine-only", "--quiet").exit_code == 0
    [left] = listed(nvisy, graph)
    assert (left["position"], left["attempt"]) == (9, 2)
    closed = listed(nvisy, graph, "--status", "superseded")
    assert [one["position"] for one in closed] == [7, 8]
    assert listed(nvisy, graph, "--all") == [*closed, left]
    run = closed[0]["marked_by"]
    assert run == left["run_id"]
    table = nvisy("dead-letters", "list", graph, "--all").stdout
    assert f"superseded by {run[:8]}" in table
    shown = nvisy("dead-letters", "show", graph, closed[0]["letter_id"]).stdout
    assert f"status   superseded by run {run}" in shown
    discard = nvisy("dead-letters", "discard", graph, closed[0]["letter_id"], "--yes")
    assert (discard.exit_code, "none of these letters is open" in discard.stderr) == (2, True)
    # There is nothing to write over what that run wrote.
    replayed = nvisy("dead-letters", "replay", graph, closed[0]["letter_id"])
    assert (replayed.exit_code, "none of these letters is open" in replayed.stderr) == (2, True)


def lines_graph(here: Path, kind: str) -> Path:
    nodes = [
        {"id": "read", "type": "source", "connector": "local",
         "params": {"path": "in", "format": "jsonl", "columns": {"n": kind}}},
        {"id": "out", "type": "sink", "connector": "local",
         "params": {"path": "out", "format": "jsonl"}},
    ]  # fmt: skip
    return write_graph(here / "lines.json", nodes, on_error="dead_letter")


def test_replay_of_letters_of_a_source(nvisy, here):
    (here / "in").mkdir()
    (here / "in" / "x.jsonl").write_text('{"n": 1}\n{"n": 2.5}\n{"n": 3\n')
    graph = lines_graph(here, "int64")
    assert nvisy("run", graph, "--engine-only", "--quiet").exit_code == 0
    assert [one["position"] for one in listed(nvisy, graph)] == [2, 3]
    lines_graph(here, "float64")
    result = nvisy("dead-letters", "replay", graph)
    # All that are open were meant: what fails again is a dead letter, as after a run.
    assert result.exit_code == 0, result.output
    assert "2 letters replayed: 1 got through, 1 letter left of them" in result.stdout
    written = [json.loads(line)["n"] for file in (here / "out").glob("*")
               for line in file.read_text().splitlines()]  # fmt: skip
    assert sorted(written) == [1, 2.5]
    [left] = listed(nvisy, graph)
    assert (left["position"], left["attempt"]) == (3, 2)
    # This very letter was asked for.
    for asked in ([left["letter_id"]], ["--node", "read"]):
        again = nvisy("dead-letters", "replay", graph, *asked, "--json")
        assert again.exit_code == 1
        document = json.loads(again.stdout)
        assert (document["success"], document["letters"], document["left"]) == (False, 1, 1)


def test_what_only_a_run_can_read_again(nvisy, here, monkeypatch):
    from nvisy_connectors.object.formats import jsonl

    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 100)
    (here / "in").mkdir()
    (here / "in" / "x.jsonl").write_text('{"n": 1}\n{"n": "' + "x" * 500 + '"}\n{"n": 2.5}\n')
    graph = lines_graph(here, "int64")
    document = json.loads(graph.read_text())
    document["nodes"][0]["params"]["batch_bytes"] = 50
    graph.write_text(json.dumps(document))
    assert nvisy("run", graph, "--engine-only", "--quiet").exit_code == 0
    assert [one["position"] for one in listed(nvisy, graph)] == [2, 3]
    lines_graph(here, "float64")
    result = nvisy("dead-letters", "replay", graph)
    assert result.exit_code == 0, result.output
    assert "1 letter replayed: 1 got through" in result.stdout
    assert "1 letter cannot be replayed. 1 of them: it cannot be read again" in result.stderr
    # Nothing is left that could be replayed: that is no failure, unless it was asked for.
    result = nvisy("dead-letters", "replay", graph, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["letters"], document["refused"], document["left_to_runs"]) == (0, 1, 1)
    assert nvisy("dead-letters", "replay", graph, "--node", "read").exit_code == 1
    assert [one["position"] for one in listed(nvisy, graph)] == [2]


def test_an_id_that_is_too_short_is_told_how_long_it_must_be(graph, nvisy):
    for command in (["show"], ["discard", "--yes"], ["replay"]):
        short = nvisy("dead-letters", command[0], graph, "0", *command[1:])
        assert short.exit_code == 2
        assert "'0' is too short" in short.stderr
        assert "at least the first 4 characters of its id" in short.stderr
    assert len(listed(nvisy, graph)) == 3


def test_a_tag_that_is_none_is_told_with_those_that_are(graph, nvisy, here):
    for command in (["list"], ["discard", "--yes"], ["replay"], ["export", here / "x.jsonl"]):
        wrong = nvisy("dead-letters", command[0], graph, *command[1:], "--tag", "validatoin")
        assert wrong.exit_code == 2
        assert 'there is no tag "validatoin" of an error' in wrong.stderr
        assert 'did you mean "validation"?' in wrong.stderr
    far = nvisy("dead-letters", "list", graph, "--tag", "nosuch").stderr
    assert "tags of its dead letters: validation" in far
    assert "rate_limit" in far
    # One of ours of which there is none.
    assert nvisy("dead-letters", "list", graph, "--tag", "timeout").stdout == "no dead letters\n"
    assert len(listed(nvisy, graph)) == 3


def test_a_replay_that_brings_nothing_through_fails(graph, nvisy, here):
    write(here, poison=[7], refuse=[8, 9])
    result = nvisy("dead-letters", "replay", graph)
    assert "3 letters replayed: 0 got through, 3 letters left of them" in result.stdout
    assert result.exit_code == 1
    assert json.loads(nvisy("dead-letters", "replay", graph, "--json").stdout)["success"] is False
