"""Holds a lease in a process of its own: `lease_target.py FOLDER`; obeys the lines of its input."""

import sys
from pathlib import Path

from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.lease import Lease
from nvisy_dagster.sdk import NvisyError


def main(folder: Path) -> None:
    with Lease(folder, "target") as lease:
        store = CheckpointStore(folder / "checkpoint.json", lease)
        store.claim()
        print("held", lease.token, flush=True)  # noqa: T201
        for line in sys.stdin:
            try:
                if line == "check\n":
                    lease.check()
                else:
                    store.write(Checkpoint(epoch=int(line)))
            except NvisyError as error:
                print(type(error).__name__, error, flush=True)  # noqa: T201
            else:
                print("ok", flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
