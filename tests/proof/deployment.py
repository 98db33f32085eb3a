"""What Dagster loads: the graph of the folder that `NVISY_PROOF_FOLDER` names."""

import os
from pathlib import Path

from nvisy_dagster.translator.definitions import build_definitions

_folder = Path(os.environ["NVISY_PROOF_FOLDER"])
defs = build_definitions(_folder / "proof.json", storage=_folder / "state")
