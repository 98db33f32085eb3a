"""Running a console block as its reader would, and comparing what it prints."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
READER = "/home/you"
"""What stands for the reader's folder on the pages."""

_MARK = "\x1e"
_UUID = re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_ULID = re.compile(r"\b[0-9A-HJKMNP-TV-Z]{26}\b")
_DECIMAL = re.compile(r"\b\d+\.\d+\b(?!\.)")
_SPEED = re.compile(r" # [\d,]+ (?=(done|failed|stopped|waiting|running)\b)")
"""Seconds and records per second in a row of the run's table."""


@dataclass(frozen=True)
class Command:
    """A command of a console block and what the page says it prints."""

    text: str
    expected: list[str]


def commands_of(text: str) -> list[Command]:
    """The commands of a console block."""
    commands: list[Command] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            commands.append(Command(line[2:], []))
        elif commands and commands[-1].text.endswith("\\"):
            whole = f"{commands[-1].text[:-1].rstrip()} {line.strip()}"
            commands[-1] = Command(whole, [])
        else:
            assert commands, f"output before the first command: {line!r}"
            commands[-1].expected.append(line)
    return commands


def run_console(text: str, folder: Path, place: str) -> Path:
    """Run the commands of a block, one after the other, in one shell.

    Returns:
        The folder that the shell ended in.
    """
    commands = commands_of(text)
    script = "".join(f"{one.text}\n__code=$?; echo '{_MARK}'$__code; (exit $__code)\n"
                     for one in commands)  # fmt: skip
    done = subprocess.run(
        ["bash", "-c", f"{script}pwd"],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=170,
        check=False,
    )
    printed, *rest = done.stdout.split(_MARK)
    for index, command in enumerate(commands):
        code, _, after = rest[index].partition("\n")
        told = commands[index + 1 : index + 2] and commands[index + 1].text == "echo $?"
        where = f"{place}: $ {command.text}\n{printed}"
        assert code == "0" or told, f"{where}\nexit code {code}"
        _compare(command.expected, printed.replace(_root(folder), READER), where)
        printed = after
    return Path(printed.strip())


def serve_console(text: str, folder: Path, place: str) -> None:
    """Start the server of a block on a free port, wait until it answers, and stop it."""
    [command] = commands_of(text)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [*shlex.split(command.text), "--port", str(port)],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}"):
            assert server.poll() is None, f"{place}: ended with {server.returncode}"
            assert time.monotonic() < deadline, f"{place}: does not answer"
            time.sleep(0.2)
    finally:
        server.terminate()
        try:
            server.wait(40)
        finally:
            # Its children too, should it not have stopped them.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _environment() -> dict[str, str]:
    tools = Path(sys.executable).parent
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NVISY_", "DAGSTER_"))}
    return inherited | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
    }


def _root(folder: Path) -> str:
    """The temporary folder that plays the reader's home."""
    return str(next(one for one in (folder, *folder.parents) if one.name == "home"))


def _compare(expected: list[str], printed: str, where: str) -> None:
    """Every expected line is printed, in this order; after `...` others may come between."""
    lines = [_stable(line) for line in printed.splitlines() if line.strip()]
    position, skipping = 0, False
    for line in (one for one in expected if one.strip()):
        if line.strip() == "...":
            skipping = True
            continue
        wanted = _stable(line)
        found = lines.index(wanted, position) if wanted in lines[position:] else -1
        assert found >= 0, f"{where}\nexpected, and not printed: {line}"
        assert skipping or found == position, f"{where}\nprinted before {line!r}: {lines[position]}"
        position, skipping = found + 1, False
    if expected:
        assert skipping or position == len(lines), f"{where}\nnot on the page: {lines[position]}"


def _stable(line: str) -> str:
    """The line without what differs from run to run."""
    line = _UUID.sub("<id>", " ".join(line.split()))
    line = _DECIMAL.sub("#", _ULID.sub("<id>", line))
    return _SPEED.sub(" # # ", f"{line} ").strip()
