"""The processes that parse, as the system lists them."""

import contextlib

import psutil


def parsers() -> list[psutil.Process]:
    """Those that this process started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any("child" in part for part in process.cmdline()):
                found.append(process)
    return found
