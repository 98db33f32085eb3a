"""The code location that `workspace.yaml` names: the graphs of a folder.

`NVISY_GRAPHS` names the folder, or several files and folders separated like those in `PATH`; by
default it is `graphs` in the working folder. A graph with mistakes does not keep the others from
being loaded; a job named like it says what is wrong.
"""

import os

from nvisy_dagster.translator.folder import folder_definitions

GRAPHS_VARIABLE = "NVISY_GRAPHS"

defs = folder_definitions([
    path for path in os.environ.get(GRAPHS_VARIABLE, "graphs").split(os.pathsep) if path
])
