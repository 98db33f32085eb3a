"""An incremental run in a process of its own, to be killed: `incremental_kill_target.py FOLDER`."""

import json
import sys
from pathlib import Path

from incremental_worlds import run_once

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    document = json.loads((folder / "graph.json").read_text())
    run_once(folder / "state", folder / "vectors", document, fresh=False)
