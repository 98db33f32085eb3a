"""The code location that `workspace.yaml` names: the graphs of a folder.

`NVISY_GRAPHS` names the folder, or several files and folders separated like those in `PATH`; by
default it is `graphs` in the working folder.
"""

import os

from nvisy_dagster.translator.definitions import build_definitions

GRAPHS_VARIABLE = "NVISY_GRAPHS"

defs = build_definitions([
    path for path in os.environ.get(GRAPHS_VARIABLE, "graphs").split(os.pathsep) if path
])
