"""Folders of graphs that people work on: what is sound is loaded, what is wrong is shown."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from nvisy_dagster.registry import Registry
from nvisy_dagster.translator.definitions import (
    LoadedGraph,
    graph_files,
    job_names,
    load_one,
    make_runtime,
    name_clash,
    translate,
)
from nvisy_dagster.translator.wrong_graphs import WrongGraph, wrong_definitions, wrong_graph


def folder_definitions(
    graphs: Path | str | Sequence[Path | str],
    *,
    storage: Path | str | None = None,
    registry: Registry | None = None,
) -> dg.Definitions:
    """As `build_definitions`, but a graph with mistakes does not keep the others from being loaded.

    It is told in the log, and shown as a job that fails, see `wrong_graphs`.

    Args:
        graphs: A graph file, a folder, or several of them.
        storage: Root folder of run state, or the URL of an object store.
        registry: Which components there are; by default those that are installed.

    Raises:
        ConfigError: A file or folder is not there, or a folder holds no graph.
    """
    sound: list[LoadedGraph] = []
    wrong: list[WrongGraph] = []
    taken: dict[str, LoadedGraph] = {}
    for file in graph_files(graphs):
        try:
            loaded = load_one(file, registry=registry)
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are loaded
            wrong.append(wrong_graph(file, error))
            continue
        clash = name_clash(loaded, taken)
        if clash is not None:
            wrong.append(WrongGraph(file, clash))
            continue
        taken |= dict.fromkeys(job_names(loaded), loaded)
        sound.append(loaded)
    log = dg.get_dagster_logger("nvisy")
    for one in wrong:
        log.error(one.told)
    runtimes = [make_runtime(one, storage) for one in sound]
    shown = wrong_definitions(wrong, taken)
    return dg.Definitions.merge(translate(runtimes, runtimes), shown) if runtimes else shown
