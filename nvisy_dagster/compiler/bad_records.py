"""Whether sources can do what `on_error` asks of them."""

from collections.abc import Iterable

from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.compiler.resolve import Resolved
from nvisy_dagster.sdk import Source


def check_bad_records(nodes: Iterable[Resolved], problems: Problems) -> None:
    """Refuse `on_error` on a source that cannot tell which records are bad.

    The graph's own `on_error` is a default: it holds for the sources that can.
    """
    for resolved in nodes:
        node, component = resolved.node, resolved.component
        if node.type != "source" or node.on_error in {None, "fail"}:
            continue
        if issubclass(component, Source) and not component.skips_bad_records:
            problems.add(
                "nodes",
                resolved.index,
                "on_error",
                message=f'"{node.on_error}" needs a source that can tell which records are bad, '
                f"and {resolved.component_name!r} cannot",
                remedy="remove it: what such a source cannot read fails the run",
            )
