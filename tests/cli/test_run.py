"""`nvisy run`: results, failures, signals, what a terminal and a log file see."""

import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from cli.conftest import action, counter, table, write_graph
from engine.counting import numbers_in

from nvisy_dagster.cli import run_view

EVERY_BATCH = {"interval_rows": 10, "interval_seconds": 0.05}
DEADLINE_SECONDS = 180
SLOW_ROWS = 200


def wait_until(condition, process=None) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"it ended with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def rows(database: Path) -> int:
    try:
        return len(numbers_in(database))
    except sqlite3.OperationalError:
        return 0


def slow_graph(here: Path, pause_seconds: float) -> Path:
    nodes = [counter(rows=SLOW_ROWS, batch_rows=10, pause_seconds=pause_seconds), table(here)]
    return write_graph(here / "slow.json", nodes, checkpoint=EVERY_BATCH)


def test_result_table(counting, nvisy, here):
    graph = write_graph(here / "g.json", [counter(rows=1000), action("even"), table(here)])
    result = nvisy("run", graph, "--engine-only")
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    assert lines["count"][1:5] == ["counter", "1,000", "1,000", "0"]
    assert lines["even"][1:6] == ["even", "1,000", "500", "500", "0"]
    assert lines["table"][1:6] == ["table", "500", "500", "0", "0"]
    assert lines["table"][-1] == "done"
    assert "1,000 records read, 500 written" in result.stdout
    assert "\x1b" not in result.output
    assert numbers_in(here / "t.db") == list(range(0, 1000, 2))


def test_result_as_json(counting, nvisy, here):
    graph = write_graph(here / "g.json", [counter(rows=100), action("even"), table(here)])
    result = nvisy("run", graph, "--engine-only", "--json")
    document = json.loads(result.stdout)
    assert (document["success"], document["resumed"], document["error"]) == (True, False, None)
    by_id = {node["id"]: node for node in document["nodes"]}
    assert by_id["even"]["records_in"] == 100
    assert by_id["even"]["dropped"] == 50
    assert by_id["table"]["state"] == "done"


def test_quiet_says_nothing_when_all_is_well(counting, nvisy, here):
    graph = write_graph(here / "g.json", [counter(rows=10), table(here)])
    result = nvisy("run", graph, "--engine-only", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_storage_is_where_it_is_told(counting, nvisy, here):
    graph = write_graph(here / "g.json", [counter(rows=10), table(here)])
    nvisy("run", graph, "--engine-only", "--storage", "elsewhere")
    assert (here / "elsewhere" / "graphs" / "g").is_dir()
    assert not (here / ".nvisy").exists()


def test_failure_names_node_reason_and_remedy(counting, nvisy, here):
    nodes = [counter(rows=300, batch_rows=10, pause_seconds=0.01), table(here, refuse=[200])]
    graph = write_graph(here / "g.json", nodes, checkpoint=EVERY_BATCH)
    failed = nvisy("run", graph, "--engine-only")
    assert failed.exit_code == 1
    assert "node 'table'" in failed.stderr
    assert "200 is refused" in failed.stderr
    assert '  remedy: correct the data, or set "on_error"' in failed.stderr
    step = "  next: correct it and run again: it goes on from the last checkpoint"
    assert f"{step} (nvisy run {graph})\n" in failed.stderr
    assert re.search(r"^table .* failed$", failed.stdout.replace(" \n", "\n"), re.MULTILINE)


def test_dead_letters_are_counted(counting, nvisy, here):
    nodes = [counter(rows=100), table(here, refuse=[5, 7]) | {"on_error": "dead_letter"}]
    result = nvisy("run", write_graph(here / "g.json", nodes), "--engine-only", "--json")
    sink = json.loads(result.stdout)["nodes"][1]
    assert (sink["records_in"], sink["records_out"], sink["dead"]) == (100, 98, 2)


def test_failure_as_json(counting, nvisy, here):
    graph = write_graph(here / "g.json", [counter(), table(here, refuse=[3])])
    result = nvisy("run", graph, "--engine-only", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert document["error"]["node"] == "table"
    assert document["error"]["remedy"]
    assert [node["state"] for node in document["nodes"]] == ["stopped", "failed"]


def test_wrong_graph_as_json(nvisy, here):
    (here / "g.json").write_text('{"nodes": []}')
    result = nvisy("run", "g.json", "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 2
    assert document["success"] is False
    assert document["error"]["mistakes"][0]["path"] == "$.nodes"


def test_run_timeout_is_no_bug(counting, nvisy, here):
    nodes = [counter(rows=1000, batch_rows=10, pause_seconds=0.05), table(here)]
    graph = write_graph(here / "g.json", nodes, timeout={"graph_seconds": 0.3})
    result = nvisy("run", graph, "--engine-only")
    assert result.exit_code == 1
    assert "the run took longer than 0.3 s" in result.stderr
    assert "this is a bug" not in result.stderr


@pytest.mark.parametrize("flags", [[], ["--debug"], ["--json"], ["--json", "--debug"]])
@pytest.mark.parametrize("crash", [False, True])
def test_secrets_are_never_told(counting, here, flags, crash, monkeypatch):
    from click.testing import CliRunner

    from nvisy_dagster.cli.app import cli

    monkeypatch.setenv("LEAKY_KEY", "hush-hush")
    sink = {"id": "leaky", "type": "sink", "connector": "leaky", "connection": "it"}
    sink |= {"params": {"crash": crash}, "retry": {"max_retries": 0}}
    graph = write_graph(here / "g.json", [counter(rows=1), action("echo"), sink])
    connections = {"it": {"type": "leaky", "key": "${env:LEAKY_KEY}"}}
    (here / "connections.json").write_text(json.dumps(connections))
    for command in (["run", str(graph), "--engine-only"], ["search", str(graph), "hush?"]):
        result = CliRunner().invoke(cli, [*command, *flags])
        assert result.exit_code == 1
        assert "***" in result.output
        assert "hush-hush" not in result.output


@pytest.mark.parametrize(
    ("number", "mode"),
    [
        (signal.SIGTERM, ["--engine-only"]),
        pytest.param(signal.SIGINT, ["--engine-only"], marks=pytest.mark.soak),
        (signal.SIGINT, []),
    ],
    ids=["SIGTERM", "SIGINT", "SIGINT in Dagster"],
)
def test_signal_keeps_the_checkpoint_and_the_next_run_goes_on(start, here, number, mode):
    graph = slow_graph(here, 0.05)
    process = start("run", graph, *mode)
    wait_until(lambda: rows(here / "t.db") >= 20, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 3, stderr
    assert "interrupted: every client is closed, and what was committed stays" in stderr
    assert "run it again" in stderr
    assert "Traceback" not in stderr
    assert 20 <= rows(here / "t.db") < SLOW_ROWS
    again = start("run", slow_graph(here, 0.05), *mode, "--json")
    stdout, stderr = again.communicate(timeout=180)
    assert again.returncode == 0, stderr
    document = json.loads(stdout)
    assert document["resumed"] is True
    assert numbers_in(here / "t.db") == list(range(SLOW_ROWS))
    # All counted once, over both runs.
    assert document["nodes"][1]["records_out"] == SLOW_ROWS


@pytest.mark.parametrize(
    "mode",
    [["--engine-only"], pytest.param([], marks=pytest.mark.soak)],
    ids=["engine", "dagster"],
)
def test_second_signal_stops_at_once(start, here, mode):
    marker = here / "marker"
    nodes = [counter(rows=100), action("stubborn", marker=str(marker)), table(here)]
    process = start("run", write_graph(here / "g.json", nodes), *mode)
    wait_until(marker.exists, process)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.7)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    assert process.wait(60) == 3
    assert time.monotonic() - started < 10
    assert "stopped at once" in process.stderr.read()


@pytest.mark.parametrize("mode", [["--engine-only"], []], ids=["engine", "dagster"])
def test_second_live_run_is_a_conflict(start, here, mode):
    graph = slow_graph(here, 3.0)  # not over before the second one has come up, on any machine
    first = start("run", graph, "--engine-only")
    wait_until(lambda: rows(here / "t.db") >= 1, first)
    second = start("run", graph, *mode)
    _, stderr = second.communicate(timeout=180)
    assert second.returncode == 4, stderr
    assert "is running this graph now" in stderr
    first.send_signal(signal.SIGINT)
    assert first.wait(DEADLINE_SECONDS) == 3


def test_run_in_dagster_is_recorded_and_its_failure_is_told(start, here):
    nodes = [counter(rows=100), table(here, refuse=[7])]
    process = start("run", write_graph(here / "g.json", nodes))
    stdout, stderr = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "node 'table'" in stderr
    assert "7 is refused" in stderr
    assert stderr.count("correct the data") == 1
    # Nothing was committed, so there is nothing to go on from.
    assert "next:" not in stderr
    assert "Traceback" not in stderr + stdout
    # Dagster's own chatter stays out of the way.
    assert "STEP_" not in stderr + stdout
    with closing(sqlite3.connect(here / ".nvisy" / "dagster" / "history" / "runs.db")) as db:
        assert db.execute("select pipeline_name, status from runs").fetchall() == [("g", "FAILURE")]


def test_log_gets_plain_lines(counting, nvisy, here, monkeypatch):
    monkeypatch.setattr(run_view, "LINE_SECONDS", 0.3)
    nodes = [counter(rows=300, batch_rows=10, pause_seconds=0.03), table(here)]
    graph = write_graph(here / "g.json", nodes)
    lines = nvisy("run", graph, "--engine-only").stderr.splitlines()
    assert lines
    for line in lines:
        assert re.fullmatch(
            r"\d+ s: count [\d,]+ records \([\d,]+/s\); table [\d,]+ records \([\d,]+/s\)", line
        )


def in_terminal(arguments, environment, here) -> tuple[int, str]:
    """Run a command in a pseudo-terminal; its exit code and all that it wrote."""
    main, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "nvisy_dagster.cli", *arguments],
        stdin=end,
        stdout=end,
        stderr=end,
        env={**environment, "TERM": "xterm-256color"},
        cwd=here,
    )
    os.close(end)
    written = b""
    while True:
        try:
            data = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        written += data
    os.close(main)
    return process.wait(DEADLINE_SECONDS), written.decode()


def test_terminal_shows_a_live_table(here, environment):
    nodes = [counter(rows=100, batch_rows=10, pause_seconds=0.1), table(here)]
    graph = write_graph(here / "g.json", nodes)
    code, text = in_terminal(["run", str(graph), "--engine-only"], environment, here)
    assert code == 0
    assert text.count("running") > 2
    assert "\x1b[2K" in text  # drawn over
    assert "\x1b[32msucceeded\x1b[0m" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back


def test_terminal_without_colour(here, environment):
    (here / "g.json").write_text('{"nodes": []}')
    coloured = in_terminal(["validate", "g.json"], environment, here)[1]
    plain = in_terminal(["validate", "g.json"], {**environment, "NO_COLOR": "1"}, here)[1]
    assert "\x1b[31m" in coloured
    assert "\x1b" not in plain
