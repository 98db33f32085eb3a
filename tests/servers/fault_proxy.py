"""A proxy before an object store that lets writes and reads go wrong, and says what passed."""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

ABORT = struct.pack("ii", 1, 0)
"""Of `SO_LINGER`: closing sends a reset."""
KINDS = ("refused", "unanswered", "misreported", "torn")
"""An error before it was applied; applied, but the answer is lost, or is an error; cut off in the
middle."""
READ_KINDS = ("unavailable", "reset", "truncated", "short", "other")
"""503; no answer; cut off in its middle; half of it, as if that were all; of another version."""


class _Request:
    """One request of a connection that is kept open."""

    def __init__(self, head: bytes, read: Callable[[int], bytes]) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        self.head = head
        self.method, self.target, _ = first.split(" ", 2)
        fields = dict(line.lower().split(": ", 1) for line in lines if ": " in line)
        assert "chunked" not in fields.get("transfer-encoding", ""), "not spoken here"
        self.length = int(fields.get("content-length", 0))
        self.expects = "100-continue" in fields.get("expect", "")
        self._read = read

    def body(self) -> bytes:
        return self._read(self.length)


@dataclass
class Strike:
    """What goes wrong."""

    number: int
    kind: str
    always: bool
    """Also whenever the same object is written again; else once."""
    status: str = "500 Internal Server Error"
    """The answer, if it is refused."""
    text: str = ""
    path: str = ""
    happened: int = 0


@dataclass
class ReadFault:
    """What goes wrong with reads of an object."""

    kind: str
    path: str
    """Part of the paths that are hit."""
    times: int
    skipped: int = 0
    """Reads that are let pass before."""
    happened: int = 0


@dataclass
class FaultProxy:
    """Address of a running proxy, and what it is to do."""

    endpoint: str = ""
    puts: list[str] = field(default_factory=list)
    """Paths that were written."""
    strike: Strike | None = None
    read_fault: ReadFault | None = None
    lost: str = ""
    """Requests of objects whose path has this in it are refused: the store cannot reach them."""
    held: threading.Event = field(default_factory=threading.Event)
    """Set when a write is held back."""
    released: threading.Event = field(default_factory=threading.Event)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, number: int, kind: str, *, always: bool = False) -> None:
        """Let the n-th write from now go wrong; 0 for none."""
        self.puts.clear()
        self.strike = Strike(number, kind, always) if number else None

    def refuse_all(self, status: str, text: str = "", after: int = 0) -> None:
        """Answer every write like this, after some that are let pass."""
        self.puts.clear()
        self.strike = Strike(after, "refused", always=True, status=status, text=text, path="*")

    def hold(self, number: int) -> None:
        """Hold back the n-th write from now until it is released, however long."""
        self.held.clear()
        self.released.clear()
        self.fail(number, "held")

    def judge_read(self, request: _Request) -> str:
        """What goes wrong with a read, if anything."""
        fault = self.read_fault
        if fault is None or request.method != "GET" or fault.path not in unquote(request.target):
            return ""
        with self._turn:
            if fault.skipped:
                fault.skipped -= 1
                return ""
            if fault.happened >= fault.times:
                return ""
            fault.happened += 1
            return fault.kind

    def judge(self, request: _Request) -> Strike | None:
        """What goes wrong with a request, if anything."""
        path = urlsplit(request.target).path
        if self.lost and self.lost in path:
            return Strike(0, "refused", always=True, status="503 Service Unavailable")
        if request.method not in {"PUT", "POST"}:
            return None
        with self._turn:
            self.puts.append(path)
            strike = self.strike
            if strike is None:
                return None
            if strike.path == "*":
                hit = len(self.puts) > strike.number
            elif strike.happened:
                hit = strike.always and strike.path == path
            else:
                hit = len(self.puts) == strike.number
            if hit:
                strike.happened += 1
                strike.path = strike.path or path
            return strike if hit else None


@contextmanager
def fault_proxy(endpoint: str) -> Generator[FaultProxy]:
    """Run a proxy before a plain HTTP server, until the block is left."""
    there = urlsplit(endpoint)
    proxy = FaultProxy()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy.endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        address = (there.hostname or "", there.port or 80)

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_serve, args=(proxy, client, address), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(proxy: FaultProxy, client: socket.socket, address: tuple[str, int]) -> None:
    with client, contextlib.suppress(OSError, EOFError):
        server = socket.create_connection(address)
        with server:
            while True:
                head, read = _head(client)
                request = _Request(head, read)
                if request.expects:
                    client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                if not _pass(proxy, request, client, server):
                    return


def _pass(
    proxy: FaultProxy, request: _Request, client: socket.socket, server: socket.socket
) -> bool:
    """Returns whether the connections may be used for another request."""
    strike = proxy.judge(request)
    body = request.body()
    message = request.head + b"\r\n\r\n" + body
    if strike is None and (kind := proxy.judge_read(request)):
        return _spoiled(kind, request, message, client, server)
    if strike is None:
        server.sendall(message)
        return _answer(request, server, client)
    if strike.kind in {"refused", "misreported"}:
        if strike.kind == "misreported":
            server.sendall(message)
            if not _answer(request, server, None):
                return False
        told = strike.text.encode()
        client.sendall(
            f"HTTP/1.1 {strike.status}\r\ncontent-length: {len(told)}\r\n\r\n".encode() + told
        )
        return True
    if strike.kind == "unanswered":
        server.sendall(message)
        _answer(request, server, None)
    elif strike.kind == "held":
        proxy.held.set()
        proxy.released.wait()
        server.sendall(message)
        return _answer(request, server, client)
    else:
        server.sendall(message[: len(request.head) + 4 + len(body) // 2])
        _reset(server)
    _reset(client)
    return False


def _spoiled(
    kind: str, request: _Request, message: bytes, client: socket.socket, server: socket.socket
) -> bool:
    if kind == "unavailable":
        client.sendall(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        return True
    if kind == "reset":
        _reset(client)
        return False
    server.sendall(message)
    answer: list[bytes] = []
    usable = _answer(request, server, None, answer)
    head, body = answer[0], b"".join(answer[2:])
    if kind == "other":
        head = re.sub(rb"(?i)\r\netag: [^\r]+", b'\r\netag: "of-another"', head)
    if kind == "short":
        body = body[: len(body) // 2]
        head = re.sub(rb"(?i)\r\n(content-length|transfer-encoding): [^\r]+", b"", head)
        head += f"\r\ncontent-length: {len(body)}".encode()
    client.sendall(head + b"\r\n\r\n" + body[: len(body) // 2 if kind == "truncated" else None])
    return usable and kind != "truncated"


def _answer(
    request: _Request,
    server: socket.socket,
    client: socket.socket | None,
    kept: list[bytes] | None = None,
) -> bool:
    while True:
        head, read = _head(server)
        if not head.startswith(b"HTTP/1.1 100"):
            break
    fields = head.decode("latin-1").lower()
    status = int(head.split(b" ", 2)[1])
    parts = [head, b"\r\n\r\n"]
    if request.method != "HEAD" and status not in {204, 304}:
        if "transfer-encoding: chunked" in fields:
            while True:
                line = _line(read)
                size = int(line.split(b";")[0], 16)
                parts += [line, b"\r\n", read(size + 2)]
                if size == 0:
                    break
        else:
            length = fields.partition("\r\ncontent-length:")[2].split("\r\n", 1)[0].strip()
            parts.append(read(int(length or 0)))
    if client is not None:
        client.sendall(b"".join(parts))
    if kept is not None:
        kept.extend(parts)
    return "connection: close" not in fields


def _head(peer: socket.socket) -> tuple[bytes, Callable[[int], bytes]]:
    """The head of the next message, and what reads on from there."""
    pending = bytearray()
    while b"\r\n\r\n" not in pending:
        pending += _received(peer)
    head, _, rest = bytes(pending).partition(b"\r\n\r\n")
    left = bytearray(rest)

    def read(count: int) -> bytes:
        while len(left) < count:
            left.extend(_received(peer))
        taken = bytes(left[:count])
        del left[:count]
        return taken

    return head, read


def _line(read: Callable[[int], bytes]) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        line += read(1)
    return line[:-2]


def _received(peer: socket.socket) -> bytes:
    data = peer.recv(1 << 16)
    if not data:
        raise EOFError
    return data


def _reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    peer.close()
