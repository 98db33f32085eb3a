"""Telling an error: what is wrong, where, what to do about it, and the exit code."""

import json
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from nvisy_dagster.cli.exit_codes import ExitCode
from nvisy_dagster.cli.line_numbers import LineNumbers
from nvisy_dagster.cli.loading import FileErrors
from nvisy_dagster.engine.failure import NodeError, RunConflictError
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.reading import read_bytes
from nvisy_dagster.sdk import ConfigError, NvisyError

SHOWN = 50
"""Mistakes of one file that are shown to people; JSON has them all."""

Scrub = Callable[[str], str]


def as_it_is(text: str) -> str:
    """The text, in which there is nothing to hide."""
    return text


def report(error: Exception, *, as_json: bool, debug: bool, scrub: Scrub = as_it_is) -> ExitCode:
    """Tell an error on stderr, with `as_json` on stdout.

    Args:
        error: What was raised.
        as_json: Whether a program reads it.
        debug: Whether to show the traceback too.
        scrub: Takes secrets out of texts.
    """
    if debug:
        click.echo(scrub("".join(traceback.format_exception(error))), err=True)
    if as_json:
        document = {"success": False, "error": describe(error, scrub)}
        click.echo(json.dumps(document, indent=2))
    else:
        for line in error_lines(error, scrub):
            click.echo(line, err=True)
    return exit_code(error)


def exit_code(error: Exception) -> ExitCode:
    """The exit code that tells of this error."""
    if isinstance(error, RunConflictError):
        return ExitCode.CONFLICT
    return ExitCode.WRONG if isinstance(error, ConfigError) else ExitCode.FAILED


def describe(error: Exception, scrub: Scrub = as_it_is) -> dict[str, Any]:
    """The error as JSON."""
    if isinstance(error, GraphErrors):
        return {"kind": "graph", "mistakes": mistakes(error)}
    if not isinstance(error, NvisyError):
        return {"kind": "bug", "message": scrub(f"{type(error).__name__}: {error}")}
    described: dict[str, Any] = {"kind": error.tag, "message": scrub(error.message)}
    described["remedy"] = None if error.remedy is None else scrub(error.remedy)
    if isinstance(error, NodeError):
        described |= {"node": error.node, "retryable": error.retryable}
    return described


def mistakes(errors: GraphErrors) -> list[dict[str, Any]]:
    """Every mistake in a document as JSON, with its line where the file can tell."""
    lines = _lines(errors)
    found = [
        {
            "file": errors.file,
            "path": one.path,
            "line": one.line or lines.line(one.path),
            "column": one.column,
            "message": one.message,
            "remedy": one.remedy,
        }
        for one in errors.errors
    ]
    # In the order of the file, which is the order in which they are corrected.
    return sorted(found, key=lambda one: one["line"] or 0)


def error_lines(error: Exception, scrub: Scrub = as_it_is) -> Iterator[str]:
    """The error for people."""
    if isinstance(error, GraphErrors):
        yield from _mistake_lines(error)
    elif isinstance(error, NvisyError):
        yield click.style("error: ", fg="red") + scrub(error.message)
        if error.remedy:
            yield f"  remedy: {scrub(error.remedy)}"
    else:
        yield click.style("error: ", fg="red") + scrub(f"{type(error).__name__}: {error}")
        yield "  this is a bug in nvisy or a component; run again with --debug and report it"


def _mistake_lines(errors: GraphErrors) -> Iterator[str]:
    found = mistakes(errors)
    for one in found[:SHOWN]:
        place = ":".join(
            str(part) for part in (one["file"], one["line"], one["column"]) if part is not None
        )
        path = "" if one["path"] == "$" else click.style(one["path"], bold=True) + ": "
        yield f"{place}: {path}{one['message']}"
        if one["remedy"]:
            yield f"    {one['remedy']}"
    if len(found) > SHOWN:
        yield f"and {len(found) - SHOWN} more"
    count = "1 mistake" if len(found) == 1 else f"{len(found)} mistakes"
    yield click.style(f"{count} in {errors.what} {errors.file or ''}".rstrip(), fg="red")


def _lines(errors: GraphErrors) -> LineNumbers:
    path = errors.path if isinstance(errors, FileErrors) else None
    return LineNumbers(_text(path))


def _text(path: Path | None) -> str:
    try:
        return "" if path is None else read_bytes(path, what="document").decode()
    except (GraphErrors, ValueError):
        return ""
