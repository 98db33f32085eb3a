"""Finding and showing dead letters."""

import datetime as dt
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import click
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nvisy_dagster.cli.dead_letters_values import plain, readable
from nvisy_dagster.cli.loading import FileErrors
from nvisy_dagster.compiler import connections_beside
from nvisy_dagster.engine.dead_letter_box import ALL, DeadLetterBox, LetterFilter, Status
from nvisy_dagster.engine.storage import is_kept
from nvisy_dagster.engine.storage_place import storage_root
from nvisy_dagster.graph.errors import GraphErrors, nearest, shown
from nvisy_dagster.graph.load import load_graph
from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES
from nvisy_dagster.sdk.error_tags import ERROR_TAGS
from nvisy_dagster.sdk.identity import format_uuid

PLAIN_WIDTH = 160
HIDDEN = "not shown: NVISY_PREVIEW is off"
_AGO = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
SHOWN_OF_ID = 13
SHOWN_OF_RUN = 8
SHORTEST_ID = 4
"""Characters of an id that are enough to look for it."""


def box_of(graph: Path, storage: Path | None) -> tuple[DeadLetterBox, str]:
    """The dead letters of a graph, and its name.

    Args:
        graph: A graph file, or a graph's name.
        storage: Root folder of run state.

    Raises:
        FileErrors: The file is no graph.
        ConfigError: There is neither such a file nor a graph of this name that ever ran.
    """
    root = storage_root(storage)
    name = str(graph)
    is_file = graph.is_file() or graph.suffix == ".json" or len(graph.parts) > 1
    if is_file:
        try:
            name = load_graph(graph, connections=connections_beside(graph)).name
        except GraphErrors as errors:
            raise FileErrors(errors, graph) from errors
    box = DeadLetterBox(root, name)
    if not is_file and not is_kept(box.folder):
        raise ConfigError(
            f"there is no file {name}, and no graph of this name has run in the storage {root}",
            remedy="name the graph's file, or another storage with --storage",
        )
    return box, name


def letter_filter(status: str, chosen: Mapping[str, str | None]) -> LetterFilter:
    """The letters that options ask for.

    Args:
        status: What became of them, or `all`.
        chosen: The options `node`, `tag`, `run` and `since`.

    Raises:
        click.BadParameter: `since` is no time.
    """
    since = chosen.get("since")
    return LetterFilter(
        node=chosen.get("node"),
        tag=chosen.get("tag"),
        run=chosen.get("run"),
        since=None if since is None else _time(since),
        status=None if status == "all" else cast("Status", status),
    )


def _time(text: str) -> dt.datetime:
    ago = _AGO.fullmatch(text)
    if ago is not None:
        seconds = int(ago[1]) * _SECONDS[ago[2]]
        try:
            return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)
        except OverflowError:
            return dt.datetime.min.replace(tzinfo=dt.UTC)
    try:
        return dt.datetime.fromisoformat(text).astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f'"{text}" is neither a span such as 2h or 3d, nor a time such as 2025-01-31T12:00',
            param_hint="--since",
        ) from None


def chosen_letters(box: DeadLetterBox, status: str, chosen: Mapping[str, str | None]) -> pa.Table:
    """The letters that options ask for; arguments as of `letter_filter`.

    Raises:
        ConfigError: There is no such tag.
        click.BadParameter: `since` is no time.
    """
    check_tag(box, chosen.get("tag"))
    return box.letters(letter_filter(status, chosen))


def check_tag(box: DeadLetterBox, tag: str | None) -> None:
    """See that a tag is one of ours, or one that a letter has, which may be of another package.

    Raises:
        ConfigError: It is neither.
    """
    if tag is None or tag in ERROR_TAGS:
        return
    present = set(box.letters(ALL)["tag"].to_pylist())
    if tag in present:
        return
    near = nearest(tag, present) or nearest(tag, ERROR_TAGS)
    words = [f'did you mean "{near}"?'] if near else []
    words.append(f"tags of its dead letters: {', '.join(sorted(present)) or 'none'}")
    words.append(f"all: {', '.join(ERROR_TAGS)}")
    raise ConfigError(f"there is no tag {shown(tag)} of an error", remedy="; ".join(words))


def choose_open(
    box: DeadLetterBox, graph: str, ids: Sequence[str], chosen: Mapping[str, str | None]
) -> pa.Table:
    """The open letters that ids and options choose; all, if they say nothing.

    Raises:
        ConfigError: An id is that of no open letter, or there is no such tag.
        click.BadParameter: `since` is no time.
    """
    if not ids:
        return chosen_letters(box, "open", chosen)
    check_tag(box, chosen.get("tag"))
    found = letter_filter("open", chosen).of(find(box, graph, ids))
    if not found.num_rows:
        raise ConfigError(
            "none of these letters is open and fits the options",
            remedy="`nvisy dead-letters list --status all` tells what became of them",
        )
    return found


def find(box: DeadLetterBox, graph: str, ids: Sequence[str]) -> pa.Table:
    """The letters of these ids, whatever became of them.

    Raises:
        ConfigError: There is none of an id, or its begin is that of several.
    """
    letters = box.letters(ALL)
    texts = [format_uuid(one) for one in letters["letter_id"].to_pylist()]
    rows: dict[int, None] = {}
    for wanted in ids:
        text = wanted.lower().strip()
        if len(text) < SHORTEST_ID:
            raise ConfigError(
                f"{wanted!r} is too short to tell a dead letter by",
                remedy=f"give at least the first {SHORTEST_ID} characters of its id; "
                "`nvisy dead-letters list --status all` lists them",
            )
        found = [row for row, one in enumerate(texts) if one.startswith(text)]
        if not found:
            raise ConfigError(
                f"graph {graph!r} has no dead letter {wanted!r}",
                remedy="`nvisy dead-letters list --status all` lists them",
            )
        if len({texts[row] for row in found}) > 1:
            raise ConfigError(f"{len(found)} dead letters begin with {wanted!r}", remedy="say more")
        rows |= dict.fromkeys(found)
    return letters.take(pa.array(list(rows), pa.int64()))


def summary(letters: pa.Table) -> str:
    """How many letters there are, by node and kind of error."""
    keys = zip(letters["node"].to_pylist(), letters["tag"].to_pylist(), strict=True)
    counts = Counter(keys).items()
    counted = ", ".join(f"{count:,} {tag} at {node}" for (node, tag), count in counts)
    noun = "letter" if letters.num_rows == 1 else "letters"
    return f"{letters.num_rows:,} dead {noun} ({counted})" if counted else f"0 dead {noun}"


def print_list(graph: str, letters: pa.Table, limit: int, *, as_json: bool) -> None:
    """Write what is known of letters to stdout."""
    visible = letters.slice(max(0, letters.num_rows - limit)) if limit else letters
    if as_json:
        document = {
            "graph": graph,
            "count": letters.num_rows,
            "letters": [_entry(row) for row in visible.to_pylist()],
        }
        click.echo(json.dumps(document, indent=2))
        return
    if not letters.num_rows:
        click.echo("no dead letters")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for heading in ("id", "node", "tag", "attempt", "status"):
        table.add_column(heading, overflow="fold")
    for heading, ratio in (("from", 2), ("message", 3)):
        table.add_column(heading, no_wrap=True, overflow="ellipsis", ratio=ratio)
    for row in visible.to_pylist():
        table.add_row(
            format_uuid(row["letter_id"])[:SHOWN_OF_ID],
            *(Text(readable(row[name])) for name in ("node", "tag")),
            str(row["attempt"]),
            _status(row),
            Text(readable(_place(row))),
            Text(readable(row["message"])),
        )
    _console().print(table)
    rest = letters.num_rows - visible.num_rows
    click.echo(summary(letters) + (f"; the {rest:,} oldest are not visible" if rest else ""))


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    ids = {name: format_uuid(row[name]) for name in ("letter_id", "record_id")}
    times = {name: plain(row[name]) for name in ("failed_at", "marked_at")}
    names = ("node", "tag", "message", "attempt", "run_id", "uri", "position", "graph_folder")
    return {**ids, **{n: row[n] for n in names}, **times, "status": row["status"],
            "marked_by": row["marked_by"]}  # fmt: skip


def _status(row: Mapping[str, Any]) -> Text:
    by = f" by {row['marked_by'][:SHOWN_OF_RUN]}" if row["marked_by"] else ""
    return Text(readable(f"{row['status']}{by}"))


def _place(row: Mapping[str, Any]) -> str:
    uri = row["uri"] or ""
    # The end of an address tells most.
    head, slash, tail = uri.rpartition("/")
    short = f".../{tail}" if head and slash and tail else uri
    return short if row["position"] is None else f"{short} at {row['position']}"


def whole_letters(box: DeadLetterBox, letters: pa.Table) -> Iterator[dict[str, Any]]:
    """Letters with their records, as JSON values."""
    marks = {
        (row["chain"], row["letter_id"]): row
        for row in letters.select(["chain", "letter_id", "status", "marked_by"]).to_pylist()
    }
    for chain, batch in box.read(letters):
        for letter in batch.to_pylist():
            mark = marks[chain, letter["letter_id"]]
            yield {
                **plain(letter),
                "cursor": json.loads(letter["cursor"]),
                "status": mark["status"],
                "marked_by": mark["marked_by"],
            }


def print_letters(box: DeadLetterBox, letters: pa.Table, *, as_json: bool) -> None:
    """Write whole letters to stdout, lineage and payload."""
    from nvisy_dagster.translator.preview import previews_wanted

    found = list(whole_letters(box, letters))
    if not previews_wanted():
        for letter in found:
            letter["record"] = {
                name: value if name in ENVELOPE_NAMES - {"_metadata", "_tags"} else HIDDEN
                for name, value in letter["record"].items()
            }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for letter in found:
        for line in _lines(letter):
            click.echo(line)


def _lines(letter: Mapping[str, Any]) -> Iterator[str]:
    record = letter["record"]
    status = letter["status"]
    by = f" by run {letter['marked_by']}" if letter["marked_by"] else ""
    yield click.style(f"letter   {letter['letter_id']}", bold=True)
    yield f"status   {status}{by}"
    yield f"node     {readable(letter['node'])}"
    yield f"error    {readable(letter['tag'])}: {readable(letter['message'])}"
    yield f"attempt  {letter['attempt']}, in run {readable(letter['run_id'])}"
    yield f"failed   {letter['failed_at']}"
    yield f"cursor   {readable(json.dumps(letter['cursor']))}"
    source = record.get("_source") or {}
    position = source.get("position")
    place = "" if position is None else f" at {position}"
    yield f"from     {readable(source.get('uri') or 'an unknown source')}{place}"
    parents = ", ".join(record.get("_parent_ids") or []) or "no parent"
    yield f"trace    {record['_id']} <- parent {parents} <- root {record['_root_id']}"
    yield "record"
    for name, value in record.items():
        if name not in ENVELOPE_NAMES:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"  {readable(name)}: {readable(text, lines=True)}"


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(highlight=False, width=PLAIN_WIDTH)
    return console
