"""What the exit code of `nvisy` tells a script."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command."""

    SUCCESS = 0
    FAILED = 1
    WRONG = 2
    INTERRUPTED = 3
    CONFLICT = 4

    @property
    def meaning(self) -> str:
        """What it says, for help and documentation."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitCode.SUCCESS: "success",
    ExitCode.FAILED: "the run failed, or a system refused; it says what to do next",
    ExitCode.WRONG: "wrong usage, graph, connections, params or storage: nothing was run",
    ExitCode.INTERRUPTED: "interrupted by SIGINT or SIGTERM; the checkpoint is kept",
    ExitCode.CONFLICT: "another live run of the same graph holds its state",
}


def exit_codes_help() -> str:
    """The exit codes as a block of help text."""
    lines = [f"  {code.value}  {code.meaning}" for code in ExitCode]
    return "\b\nExit codes:\n" + "\n".join(lines)
