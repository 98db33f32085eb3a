"""Named places at which a test can kill the process; inert unless the environment names one."""

import os
import signal

_NAME, _COUNT, _SIGNAL, *_ = (*os.environ.get("NVISY_FAILPOINT", "").split(":"), "", "")
_hits = 0


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL here if `NVISY_FAILPOINT=name:n` names this n-th passage.

    `name:n:SIGSTOP` sends another signal instead.
    """
    global _hits  # noqa: PLW0603 - one counter per process is what the variable speaks of
    if not _NAME or name != _NAME:
        return
    _hits += 1
    if _hits == int(_COUNT or 1):
        os.kill(os.getpid(), signal.Signals[_SIGNAL or "SIGKILL"])
