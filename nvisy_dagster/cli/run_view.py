"""Showing a run while it goes on: a live table in a terminal, lines of text elsewhere."""

import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nvisy_dagster.cli.run_record import NodeRecord, RunRecord
from nvisy_dagster.engine.metrics import NodeMetrics

LINE_SECONDS = 5.0
"""Time between two progress lines."""
NODES_IN_A_LINE = 8
STOPPING = "finishing the epoch, then stopping; a second Ctrl-C stops at once"
ROWS_LIVE = 30
"""Most nodes in the live table; of a larger graph those that are running are shown."""
PLAIN_WIDTH = 160
"""Width of tables that go to a file."""

_STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "failed": "red", "stopped": "red"}


class View(Protocol):
    """Shows a run to people."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def observe(self, metrics: Sequence[NodeMetrics]) -> None:
        """The engine tells its counts."""
        ...


class QuietView:
    """Shows nothing."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def observe(self, metrics: Sequence[NodeMetrics]) -> None:
        """The engine tells its counts."""
        self.record.observe(metrics)


class LineView(QuietView):
    """Writes a line every few seconds, for logs."""

    def __init__(self, record: RunRecord) -> None:
        super().__init__(record)
        self._told: float | None = None
        self._told_stopping = False

    def observe(self, metrics: Sequence[NodeMetrics]) -> None:
        """The engine tells its counts."""
        super().observe(metrics)
        if self.record.stopping and not self._told_stopping:
            # Told here and not where the signal is handled, which may be amid any other writing.
            self._told_stopping = True
            click.echo(STOPPING, err=True)
        now = time.monotonic()
        if self._told is None:
            # What came before was importing and opening.
            self._told = now
        if now - self._told >= LINE_SECONDS:
            self._told = now
            click.echo(self._line(), err=True)

    def _line(self) -> str:
        running = [node for node in self.record.nodes.values() if node.state == "running"]
        told = [_in_words(node) for node in running[:NODES_IN_A_LINE]]
        if len(running) > NODES_IN_A_LINE:
            told.append(f"and {len(running) - NODES_IN_A_LINE} more")
        return f"{self.record.seconds:.0f} s: {'; '.join(told)}"


class LiveView(QuietView):
    """A table that is drawn again a few times a second."""

    def __init__(self, record: RunRecord, console: Console) -> None:
        super().__init__(record)
        self._live = Live(
            get_renderable=self._table,
            console=console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def _table(self) -> Table:
        shown = list(self.record.nodes.values())
        if len(shown) > ROWS_LIVE:
            shown = [node for node in shown if node.state == "running"][:ROWS_LIVE]
        table = run_table(shown, live=True)
        note = STOPPING if self.record.stopping else ""
        table.caption = Text(f"{self.record.seconds:.0f} s  {note}".rstrip())
        table.caption_justify = "left"
        return table


def choose_view(record: RunRecord, *, quiet: bool) -> View:
    """How to show a run on stderr."""
    if quiet:
        return QuietView(record)
    console = Console(stderr=True, highlight=False)
    terminal = console.is_terminal and not console.is_dumb_terminal
    return LiveView(record, console) if terminal else LineView(record)


def print_table(record: RunRecord) -> None:
    """Write the final table to stdout."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    console.print(run_table(list(record.nodes.values()), live=False))


def run_table(nodes: Sequence[NodeRecord], *, live: bool) -> Table:
    """A row per node."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("node", "component"):
        table.add_column(heading, overflow="fold")
    for heading in ("read/in", "out/written", "dropped", "dead", "seconds", "records/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for node in nodes:
        counts = node.counts
        table.add_row(
            Text(node.node),
            Text(node.component),
            f"{counts.records_in:,}",
            f"{counts.records_out:,}",
            f"{counts.dropped:,}",
            Text(f"{counts.dead:,}", style="red" if counts.dead else ""),
            f"{node.seconds:.1f}",
            f"{node.current_rate if live else node.rate:,.0f}",
            Text(node.state, style=_STYLES[node.state]),
        )
    return table


def _in_words(node: NodeRecord) -> str:
    counts = node.counts
    words = [f"{node.node} {node.handled:,} records ({node.current_rate:,.0f}/s)"]
    if counts.dropped:
        words.append(f"{counts.dropped:,} dropped")
    if counts.dead:
        words.append(f"{counts.dead:,} dead")
    return ", ".join(words)
