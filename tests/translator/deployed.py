"""What a deployment loads: the graphs of a folder, with the components of these tests."""

import os
import sys
from pathlib import Path

import dagster as dg

sys.path.insert(0, str(Path(__file__).parent))

from toys import registry

from nvisy_dagster.translator.definitions import build_definitions


def bill_job(folder: str) -> dg.JobDefinition:
    """The job of the graph in a folder."""
    path = Path(folder)
    definitions = build_definitions(path / "bill.json", storage=path / "state", registry=registry())
    return definitions.resolve_job_def("bill")


def reconstructable_job(folder: Path) -> object:
    """The job, so that Dagster can build it again."""
    return dg.build_reconstructable_job(
        "deployed",
        "bill_job",
        (str(folder),),
        {},
        reconstructor_working_directory=str(Path(__file__).parent),
    )


if "NVISY_TEST_PROJECT" in os.environ:
    _project = Path(os.environ["NVISY_TEST_PROJECT"])
    defs = build_definitions(
        _project / "bill.json", storage=_project / "state", registry=registry()
    )
