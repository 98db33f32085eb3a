"""An OpenAI-compatible `/v1/embeddings` server for tests and benchmarks; not OpenAI itself.

It speaks the documented wire format and fails on demand. Its vectors follow from the CRC-32 of the
text alone (`vector_of`), so that a vector found anywhere can be checked against its text. As a
script, `python tests/servers/openai_stub.py PORT`, it takes its time like a real API: 20 ms a
request and 0.05 ms a text.
"""

import argparse
import asyncio
import base64
import binascii
import json
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

POOL_SIZE = 8192
MAX_INPUTS = 2048
EARLY_SECONDS = 0.01
"""What the clock of a client may be off."""

Behaviour = Literal[
    "hang",  # never answers
    "reset",  # drops the connection
    "truncate",  # announces a body and sends half of it
    "cut_json",  # a complete answer with half of its JSON
    "floats",  # ignores encoding_format
    "missing",  # one vector too few
    "doubled",  # two vectors of one index
    "reversed",  # in another order, as the API allows
    "not_finite",  # NaN in the first vector
    "ragged",  # one vector of another dimension
    "slow",  # the right answer, `slow_seconds` late
]


@dataclass(frozen=True)
class Refuse:
    """Answer with an error."""

    status: int
    error: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ComeBack:
    """Answer 429 and say when to come back; who comes before that is counted as `early`."""

    seconds: int
    as_date: bool = False

    def answer(self) -> tuple[str, float]:
        """The value of Retry-After, and the moment that it means."""
        moment = time.time() + self.seconds
        if not self.as_date:
            return str(self.seconds), moment
        # A date has no fractions.
        return formatdate(int(moment), usegmt=True), float(int(moment))


Fault = Behaviour | Refuse | ComeBack

LLM_FAULTS: Sequence[tuple[float, Fault]] = (
    (0.05, ComeBack(1)),
    (0.05, ComeBack(2, as_date=True)),
    (0.05, Refuse(500, {"message": "server error"})),
    (0.02, "hang"),
    (0.02, "reset"),
    (0.01, "cut_json"),
    (0.01, "slow"),
)
"""What a provider does on a bad day: a sixth of all requests go wrong."""


class Vectors:
    """A pool of unit vectors, each ready in both encodings so that serving costs little."""

    def __init__(self, dimensions: int) -> None:
        pool = np.random.default_rng(5).standard_normal((POOL_SIZE, dimensions)).astype("<f4")
        self.pool = pool / np.linalg.norm(pool, axis=1, keepdims=True)
        self.base64 = [b'"%s"' % base64.b64encode(vector.tobytes()) for vector in self.pool]

    def of(self, text: str) -> npt.NDArray[np.float32]:
        """The vector that stands for a text."""
        return self.pool[_place(text)]

    def encoded(self, text: str, encoding: str) -> bytes:
        """The vector as JSON."""
        if encoding == "base64":
            return self.base64[_place(text)]
        return json.dumps([float(x) for x in self.of(text)]).encode()


class OpenAIStub:
    """The server.

    Args:
        dimensions: Size of its vectors.
        request_seconds: Time that a request takes.
        text_seconds: Time that each text of it takes.
        poison: A request that holds a text with this in it is refused as a whole.
        rates: Chance of each fault, for storms.
        slow_seconds: How late a slow answer is.
        watch: Whether to remember what happened to each text.
        seed: Of the chances.
    """

    def __init__(
        self,
        *,
        dimensions: int = 384,
        request_seconds: float = 0.0,
        text_seconds: float = 0.0,
        poison: str | None = None,
        rates: Sequence[tuple[float, Fault]] = (),
        slow_seconds: float = 0.3,
        watch: bool = False,
        seed: int = 7,
    ) -> None:
        self.vectors = Vectors(dimensions)
        self.request_seconds = request_seconds
        self.text_seconds = text_seconds
        self.poison = poison
        self.rates = rates
        self.slow_seconds = slow_seconds
        self.watch = watch
        self.faults: deque[Fault] = deque()
        """What befalls the next requests, one each."""
        self.requests: deque[tuple[dict[str, str], dict[str, Any]]] = deque(maxlen=16)
        """Headers (lower case) and body of the latest requests."""
        self.counts = {"requests": 0, "texts": 0, "most_in_flight": 0, "in_flight": 0, "early": 0}
        self.faulty: Counter[str] = Counter()
        """How often each fault befell a request."""
        self.moments: list[tuple[float, str]] = []
        """When requests came, by the monotonic clock, and their first text, if it watches."""
        self.attempts: Counter[str] = Counter()
        """How often each text was sent, if it watches."""
        self._not_before: dict[str, float] = {}
        self._handlers: set[asyncio.Task[Any]] = set()
        self._random = random.Random(seed)
        self.url = ""

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator["OpenAIStub"]:
        """Listen on 127.0.0.1, on a free port by default; `url` is the API's base URL."""
        server = await asyncio.start_server(
            self._connection, "127.0.0.1", port, limit=1 << 26, backlog=512
        )
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        try:
            yield self
        finally:
            server.close()
            for handler in self._handlers:
                handler.cancel()
            await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        try:
            while True:
                line, headers = await _head(reader)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if line[1].endswith("/embeddings"):
                    await self._embeddings(headers, from_json(body), reader, writer)
                elif line[1].endswith("/stats"):
                    _answer(writer, 200, json.dumps(self.counts).encode())
                else:
                    _answer(writer, 404, b'{"error": {"message": "unknown url"}}')
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._handlers.discard(handler)
            writer.transport.abort()

    async def _embeddings(
        self,
        headers: dict[str, str],
        body: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        self.requests.append((headers, body))
        counts = self.counts
        counts["requests"] += 1
        counts["texts"] += len(texts)
        counts["in_flight"] += 1
        if self.watch:
            self._note(texts)
        counts["most_in_flight"] = max(counts["most_in_flight"], counts["in_flight"])
        try:
            await asyncio.sleep(self.request_seconds + self.text_seconds * len(texts))
            fault = self._fault(texts)
            if fault is not None:
                self.faulty[str(fault)] += 1
            if fault == "hang":
                # Until the client has had enough of it.
                await reader.read()
                return
            await self._respond(fault, texts, body, writer)
        finally:
            counts["in_flight"] -= 1

    def _note(self, texts: list[str]) -> None:
        self.moments.append((time.monotonic(), texts[0]))
        self.attempts.update(texts)
        now = time.time() + EARLY_SECONDS
        self.counts["early"] += any(self._not_before.get(text, 0.0) > now for text in texts)

    def _fault(self, texts: list[str]) -> Fault | None:
        if self.faults:
            return self.faults.popleft()
        chance = self._random.random()
        for rate, fault in self.rates:
            chance -= rate
            if chance < 0:
                return fault
        if len(texts) > MAX_INPUTS:
            return Refuse(400, {"message": f"array too long: max {MAX_INPUTS}", "param": "input"})
        if "" in texts or (self.poison and any(self.poison in text for text in texts)):
            return Refuse(400, {"message": "invalid input", "param": "input"})
        return None

    async def _respond(
        self,
        fault: Fault | None,
        texts: list[str],
        body: dict[str, Any],
        writer: asyncio.StreamWriter,
    ) -> None:
        if isinstance(fault, ComeBack):
            when, moment = fault.answer()
            self._not_before.update(dict.fromkeys(texts, moment))
            fault = Refuse(429, {"message": "rate limit"}, {"Retry-After": when})
        if isinstance(fault, Refuse):
            error = json.dumps({"error": dict(fault.error)}).encode()
            return _answer(writer, fault.status, error, fault.headers)
        if fault == "slow":
            await asyncio.sleep(self.slow_seconds)
        if fault == "reset":
            return writer.transport.abort()
        answer = self._document(fault, texts, body)
        if fault == "cut_json":
            answer = answer[: len(answer) // 2]
        _answer(writer, 200, answer, short=fault == "truncate")
        return None

    def _document(self, fault: Fault | None, texts: list[str], body: dict[str, Any]) -> bytes:
        encoding = "float" if fault == "floats" else body.get("encoding_format", "float")
        items = [(index, self.vectors.encoded(text, encoding)) for index, text in enumerate(texts)]
        if fault == "missing":
            items.pop()
        elif fault == "doubled":
            items[-1] = (0, items[-1][1])
        elif fault == "reversed":
            items.reverse()
        elif fault == "not_finite":
            broken = self.vectors.of(texts[0]).copy()
            broken[1] = np.nan
            items[0] = (0, b'"%s"' % base64.b64encode(broken.tobytes()))
        elif fault == "ragged":
            items[-1] = (items[-1][0], b'"%s"' % base64.b64encode(b"\0" * 8))
        data = b",".join(
            b'{"object":"embedding","index":%d,"embedding":%s}' % item for item in items
        )
        tokens = sum(map(len, texts)) // 4
        return b'{"object":"list","model":%s,"data":[%s],"usage":{"total_tokens":%d}}' % (
            json.dumps(body["model"]).encode(),
            data,
            tokens,
        )


async def _head(reader: asyncio.StreamReader) -> tuple[list[str], dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.rstrip().split("\r\n")
    pairs = (entry.partition(":") for entry in fields)
    return line.split(), {name.lower(): value.strip() for name, _, value in pairs}


def _answer(
    writer: asyncio.StreamWriter,
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    *,
    short: bool = False,
) -> None:
    lines = [f"HTTP/1.1 {status} -", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    writer.write(body[: len(body) // 2] if short else body)
    if short:
        writer.close()


def _place(text: str) -> int:
    return binascii.crc32(text.encode()) % POOL_SIZE


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--err429", type=float, default=0, help="chance of 429, Retry-After: 1")
    parser.add_argument("--err500", type=float, default=0, help="chance of 500")
    parser.add_argument("--poison", help="refuse requests that hold such a text")
    parser.add_argument("--base", type=float, default=0.02, help="seconds a request")
    parser.add_argument("--per", type=float, default=0.00005, help="seconds a text")
    parser.add_argument("--dimensions", type=int, default=384)
    options = parser.parse_args()
    stub = OpenAIStub(
        dimensions=options.dimensions,
        request_seconds=options.base,
        text_seconds=options.per,
        poison=options.poison,
        rates=[
            (options.err429, Refuse(429, {"message": "rate limit"}, {"Retry-After": "1"})),
            (options.err500, Refuse(500, {"message": "server error"})),
        ],
    )
    async with stub.serve(options.port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
