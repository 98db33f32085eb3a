"""Components in a terminal: a list of all, or everything about one."""

import json
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from nvisy_dagster.sdk import ConfigError, NvisyError

if TYPE_CHECKING:
    from nvisy_dagster.cli.component_description import ComponentDescription, FieldDescription

WIDTH = 92
Describe = Callable[[str], "Sequence[ComponentDescription]"]


def show_all(what: str, names: Sequence[str], describe: Describe, *, as_json: bool) -> None:
    """List everything of a kind, a line each; a broken component does not hide the others."""
    found: list[dict[str, Any]] = []
    lines: list[tuple[str, str]] = []
    for name in names:
        try:
            described = describe(name)
        except Exception as error:  # noqa: BLE001 - a component is foreign code
            message = error.message if isinstance(error, NvisyError) else _first_line(error)
            found.append({"name": name, "error": message})
            lines.append((name, f"broken: {message}"))
            continue
        found.append({"name": name, "components": [one.to_json() for one in described]})
        lines.extend((f"{name} ({one.kind})", one.summary + _missing(one)) for one in described)
    if as_json:
        click.echo(json.dumps({what: found}, indent=2, default=str))
        return
    width = max((len(name) for name, _ in lines), default=0)
    for name, text in lines:
        click.echo(f"{click.style(name.ljust(width), fg='cyan')}  {text}")


def show_one(described: "Sequence[ComponentDescription]", *, as_json: bool) -> None:
    """Show everything about a connector or an action."""
    if as_json:
        document = {"name": described[0].name, "components": [one.to_json() for one in described]}
        click.echo(json.dumps(document, indent=2, default=str))
        return
    for index, one in enumerate(described):
        if index:
            click.echo()
        for line in _page(one):
            click.echo(line)


def unknown(what: str, name: str, names: Sequence[str], planned: frozenset[str]) -> ConfigError:
    """There is nothing of this name."""
    from nvisy_dagster.graph.errors import suggest

    if name in planned:
        return ConfigError(f'{what} "{name}" is not built yet', remedy=f"built: {', '.join(names)}")
    return ConfigError(f'there is no {what} "{name}"', remedy=suggest(name, names))


def _page(one: "ComponentDescription") -> Iterator[str]:
    yield f"{click.style(one.name, bold=True)} ({one.kind}): {one.summary}{_missing(one)}"
    if one.description:
        yield ""
        yield one.description
    yield ""
    if one.accepts:
        yield f"takes:      {', '.join(one.accepts)}"
    if one.guarantee:
        yield f"guarantee:  {one.guarantee}, after a source that can be read again"
    told = (f"{name} {_value(value)}" for name, value in one.capabilities.items())
    yield f"promises:   {', '.join(told)}"
    if one.extra:
        yield f"installed:  pip install 'nvisy-dagster[{one.extra}]'"
    yield ""
    yield click.style("params", bold=True)
    yield from _fields(one.params)
    if one.connection:
        yield ""
        need = "required" if one.connection.required else "optional"
        yield click.style(f'connection of type "{one.connection.type}"', bold=True) + f" ({need})"
        yield from _fields(one.connection.fields)


def _fields(fields: "Sequence[FieldDescription]") -> Iterator[str]:
    if not fields:
        yield "  none"
    for field in fields:
        default = "required" if field.required else f"default {_value(field.default)}"
        yield f"  {click.style(field.name, fg='cyan')}: {field.type}, {default}"
        text = " ".join(field.description.split())
        yield from textwrap.wrap(text, WIDTH, initial_indent="      ", subsequent_indent="      ")


def _value(value: object) -> str:
    return "none" if value is None else json.dumps(value, default=str, ensure_ascii=False)


def _missing(one: "ComponentDescription") -> str:
    if not one.missing:
        return ""
    remedy = f"pip install 'nvisy-dagster[{one.extra}]'" if one.extra else ", ".join(one.missing)
    return f" [not installed: {remedy}]"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
