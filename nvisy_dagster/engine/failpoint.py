"""Named places at which a test can kill the process; inert unless the environment names one."""

import os
import signal
from collections import Counter


def _places(told: str) -> dict[tuple[str, int], signal.Signals]:
    places = {}
    for place in filter(None, told.split(",")):
        name, count, sent, *_ = (*place.split(":"), "", "")
        places[name, int(count or 1)] = signal.Signals[sent or "SIGKILL"]
    return places


_PLACES = _places(os.environ.get("NVISY_FAILPOINT", ""))
_passages: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL here if `NVISY_FAILPOINT=name:n` names this n-th passage.

    `name:n:SIGSTOP` sends another signal instead; several places are separated by commas.
    """
    if not _PLACES:
        return
    _passages[name] += 1
    if sent := _PLACES.get((name, _passages[name])):
        os.kill(os.getpid(), sent)
