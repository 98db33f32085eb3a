"""The process that parses: it reads documents from its standard input, and answers with JSON.

`python -m nvisy_connectors.documents.child SETTINGS`. It ends with its parent, whatever it does.
"""

import ctypes
import json
import os
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

REQUEST = struct.Struct(">IQ")
"""Lengths of the request's JSON and of the document that follows it."""

ANSWER = struct.Struct(">cQ")
"""Kind of the answer, and the length of the JSON that follows."""

READY, DOCUMENT, REFUSED = b"R", b"D", b"F"

MESSAGES_BYTES = 16 << 20
"""Longest file that it can write: that of its messages about one document."""

_PR_SET_PDEATHSIG = 1

_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\n"
    b"trailer<</Root 1 0 R>>\n%%EOF\n"
)
"""The smallest document of the kind that takes most to be read."""


def main(settings: dict[str, Any], parse: Callable[..., dict[str, Any]] | None = None) -> None:
    """Serve until the input ends.

    Args:
        settings: `parent`, `memory_bytes`, `answer_bytes`, and those of the parser.
        parse: Parses one document.
    """
    requests, answers = _take_pipes()
    _bind_to_parent(settings["parent"])
    _limit_memory(settings["memory_bytes"])
    from nvisy_connectors.documents.extract import RefusedError, Settings, extract

    parse = parse or extract
    told = Settings(**settings["parser"])
    _warm_up(lambda: parse(_PDF, "application/pdf", told))
    _limit_files()
    _send(answers, READY, {})
    while (request := _receive(requests)) is not None:
        try:
            answer, kind = parse(request[1], request[0]["mime_type"], told), DOCUMENT
        except RefusedError as error:
            answer, kind = {"tag": error.tag, "reason": error.reason}, REFUSED
        if not _send(answers, kind, answer, settings["answer_bytes"]):
            reason = "is larger, with its structure, than `max_text_bytes` allows"
            _send(answers, REFUSED, {"tag": "too_large", "reason": reason})
        del request, answer


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Its input and output, out of the reach of what prints or reads by itself."""
    pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return pipes


def _bind_to_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before
        os._exit(1)


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _warm_up(parse: Callable[[], object]) -> None:
    """Parse a first document, with a folder of its own that is gone afterwards.

    The parser unpacks the library that reads PDF, and loads it: not from a folder where others may
    put one in its place. It also makes folders for caches, which nothing outlives either.
    """
    folder = tempfile.mkdtemp(prefix="nvisy-parse-")
    os.environ |= {"HOME": folder, "TMPDIR": folder, "XDG_CACHE_HOME": folder}
    try:
        parse()
    finally:
        shutil.rmtree(folder)


def _limit_files() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MESSAGES_BYTES, MESSAGES_BYTES))


def _limit_memory(memory_bytes: int) -> None:
    import resource

    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
        with suppress(OSError):  # where memory runs out, this process goes first
            os.write(fd := os.open("/proc/self/oom_score_adj", os.O_WRONLY), b"1000")
            os.close(fd)


def _receive(requests: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    lengths = requests.read(REQUEST.size)
    if len(lengths) < REQUEST.size:
        return None
    head, size = REQUEST.unpack(lengths)
    return json.loads(requests.read(head)), requests.read(size)


def _send(answers: BinaryIO, kind: bytes, answer: object, most: int | None = None) -> bool:
    """Whether it was sent: it is not when it is too long."""
    text = json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
    if most is not None and len(text) > most:
        return False
    answers.write(ANSWER.pack(kind, len(text)))
    answers.write(text)
    answers.flush()
    return True


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
