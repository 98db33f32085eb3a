"""Named places at which a test can kill the process; inert unless the environment names one."""

import os
import signal

_ARMED = os.environ.get("NVISY_FAILPOINT", "")
_NAME, _, _COUNT = _ARMED.partition(":")
_hits = 0


def failpoint(name: str) -> None:
    """Kill this process with SIGKILL here if `NVISY_FAILPOINT=name:n` names this n-th passage."""
    global _hits  # noqa: PLW0603 - one counter per process is what the variable speaks of
    if name != _NAME:
        return
    _hits += 1
    if _hits >= int(_COUNT or 1):
        os.kill(os.getpid(), signal.SIGKILL)
