"""A child process that does what documents tell it to: hang, crash, eat memory."""

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from nvisy_connectors.documents import child
from nvisy_connectors.documents.extract import extract


def parse(data, mime_type, settings):  # noqa: C901, PLR0912 - one branch per command
    command, _, rest = data.partition(b" ")
    match command:
        case b"!hang":
            ctypes.PyDLL(None).usleep(ctypes.c_uint(600_000_000))  # keeps the interpreter's lock
        case b"!sleep":
            time.sleep(float(rest))
        case b"!segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"!exit":
            os._exit(3)
        case b"!once":
            if not (place := Path(os.fsdecode(rest))).exists():
                place.touch()
                os.abort()
        case b"!memory":
            kept = [bytearray(b"x" * (8 << 20)) for _ in range(1 << 20)]
            del kept
        case b"!slow-memory":
            kept = []
            while True:
                kept.append(b"x" * (4 << 20))
                time.sleep(0.02)
        case b"!chatty":
            sys.stdout.write("spam " * 100_000)
            os.write(1, b"x" * 500_000)
        case b"!environment":
            data = json.dumps(dict(os.environ)).encode()
        case b"!lie":
            os.write(int(rest), child.ANSWER.pack(b"D", 1 << 60))
            time.sleep(60)
        case b"!write":
            Path(os.fsdecode(rest)).write_bytes(b"x" * (32 << 20))
        case _:
            return extract(data, mime_type, settings)
    return extract(data, "text/plain", settings)


if __name__ == "__main__":
    child.main(json.loads(sys.argv[1]), parse)
