"""A stand-in for a Qdrant server: its REST API over `QdrantClient(":memory:")`.

It is a facade, not Qdrant: no binary of the server is to be had from a package registry. Bodies
are parsed by the client's own models and answers are built from them, so the wire contract is the
client's; what points match a filter is decided by the client's local mode. Added here, in the words
of the server: API keys, 404 for missing collections, 409 for existing ones, 400 for vectors of
another dimension. Not there: durability, indexes (they are only listed), gRPC, clusters.

Run as a program it prints its port on the first line. Faults are switched on with
`PUT /_facade/faults` (a list of `Fault`), requests are read with `GET /_facade/requests`.
"""

import argparse
import socket
import warnings
from collections.abc import Callable
from typing import Any, Literal

import anyio
import uvicorn
from pydantic import BaseModel, TypeAdapter, ValidationError
from qdrant_client import QdrantClient
from qdrant_client.http import models as m
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

ANY = TypeAdapter(Any)


class Fault(BaseModel):
    """What goes wrong, on the requests whose method and end of path it names."""

    kind: Literal["status", "hang", "partial", "cut", "acknowledge", "refuse"]
    """`partial` writes half of the points and answers 500, `cut` sends half an answer,
    `acknowledge` says that a write is queued, `refuse` answers 400 to points with these `ids`."""
    method: str = "PUT"
    path: str = "/points"
    times: int = 1
    status: int = 500
    retry_after: str | None = None
    ids: list[str] = []


class RefusedError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Facade:
    """The collections, the faults that are switched on, and what was asked."""

    def __init__(self, api_key: str | None) -> None:
        self.api_key = api_key
        self.local = QdrantClient(":memory:")
        self.indexes: dict[str, dict[str, str]] = {}
        self.faults: list[Fault] = []
        self.requests: list[dict[str, Any]] = []

    def app(self) -> Starlette:
        """The ASGI application."""
        points = "/collections/{name}/points"
        return Starlette(
            routes=[
                Route("/_facade/faults", self._set_faults, methods=["PUT"]),
                Route("/_facade/requests", self._get_requests),
                self._route("/collections", "GET", None, lambda *_: self.local.get_collections()),
                self._route("/collections/{name}", "GET", None, self._describe),
                self._route("/collections/{name}", "PUT", m.CreateCollection, self._create),
                self._route("/collections/{name}", "DELETE", None, self._drop),
                self._route("/collections/{name}/index", "PUT", m.CreateFieldIndex, self._index),
                self._route(points, "PUT", m.PointInsertOperations, self._upsert),
                self._route(f"{points}/delete", "POST", m.PointsSelector, self._delete),
                self._route(f"{points}/scroll", "POST", m.ScrollRequest, self._scroll),
                self._route(f"{points}/count", "POST", m.CountRequest, self._count),
                self._route(f"{points}/query", "POST", m.QueryRequest, self._query),
            ]
        )

    def _route(
        self, path: str, method: str, model: Any, answer: Callable[[str, Any], Any]
    ) -> Route:
        body_type = TypeAdapter(model) if model else None

        async def endpoint(request: Request) -> Response:
            raw = await request.body()
            self.requests.append({
                "method": method,
                "path": request.url.path,
                "query": dict(request.query_params),
                "bytes": len(raw),
            })
            if self.api_key and request.headers.get("api-key") != self.api_key:
                return _error(401, "Must provide an API key or an Authorization bearer token")
            try:
                body = body_type.validate_json(raw) if body_type else None
            except ValidationError as error:
                return _error(400, f"Format error in JSON body: {error.errors()[0]['msg']}")
            return await self._answer(request, body, answer)

        return Route(path, endpoint, methods=[method])

    async def _answer(
        self, request: Request, body: Any, answer: Callable[[str, Any], Any]
    ) -> Response:
        name = request.path_params.get("name", "")
        fault = self._fault(request, body)
        kind = fault.kind if fault else None
        if fault and kind in {"status", "refuse"}:
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else None
            status = 400 if kind == "refuse" else fault.status
            return _error(status, f"switched on: {kind}", headers)
        if kind == "hang":
            await anyio.sleep(3600)
        try:
            if kind == "partial":
                body.points = body.points[: len(body.points) // 2]
                answer(name, body)
                return _error(500, "switched on: partial")
            result = answer(name, body)
        except RefusedError as error:
            return _error(error.status, str(error))
        if kind == "acknowledge":
            result = m.UpdateResult(operation_id=0, status=m.UpdateStatus.ACKNOWLEDGED)
        content = b'{"time":0.001,"status":"ok","result":' + ANY.dump_json(result) + b"}"
        cut = len(content) // 2 if kind == "cut" else len(content)
        return Response(content[:cut], media_type="application/json")

    def _fault(self, request: Request, body: Any) -> Fault | None:
        for fault in self.faults:
            here = fault.method == request.method and request.url.path.endswith(fault.path)
            if not here or fault.times <= 0:
                continue
            if fault.kind == "refuse" and not {str(p.id) for p in body.points} & set(fault.ids):
                continue
            fault.times -= 1
            return fault
        return None

    async def _set_faults(self, request: Request) -> Response:
        self.faults = TypeAdapter(list[Fault]).validate_json(await request.body())
        self.requests.clear()
        return JSONResponse({})

    async def _get_requests(self, _: Request) -> Response:
        return JSONResponse(self.requests)

    def _existing(self, name: str) -> None:
        if not self.local.collection_exists(name):
            raise RefusedError(404, f"Not found: Collection `{name}` doesn't exist!")

    def _describe(self, name: str, _: Any) -> Any:
        self._existing(name)
        info = self.local.get_collection(name).model_dump()
        info["payload_schema"] = {
            field: {"data_type": kind, "points": 0}
            for field, kind in self.indexes.get(name, {}).items()
        }
        return info

    def _create(self, name: str, body: m.CreateCollection) -> bool:
        if self.local.collection_exists(name):
            raise RefusedError(409, f"Wrong input: Collection `{name}` already exists!")
        return self.local.create_collection(
            name, vectors_config=body.vectors, sparse_vectors_config=body.sparse_vectors
        )

    def _drop(self, name: str, _: Any) -> bool:
        return self.local.delete_collection(name)

    def _index(self, name: str, body: m.CreateFieldIndex) -> m.UpdateResult:
        self._existing(name)
        self.indexes.setdefault(name, {})[body.field_name] = str(body.field_schema)
        return m.UpdateResult(operation_id=0, status=m.UpdateStatus.COMPLETED)

    def _upsert(self, name: str, body: m.PointsList) -> m.UpdateResult:
        self._existing(name)
        params = self.local.get_collection(name).config.params.vectors
        if isinstance(params, m.VectorParams):
            for point in body.points:
                if len(point.vector) != params.size:
                    raise RefusedError(
                        400,
                        "Wrong input: Vector dimension error: expected dim: "
                        f"{params.size}, got {len(point.vector)}",
                    )
        return self.local.upsert(name, body.points)

    def _delete(self, name: str, body: Any) -> m.UpdateResult:
        self._existing(name)
        return self.local.delete(name, body)

    def _count(self, name: str, body: m.CountRequest) -> m.CountResult:
        self._existing(name)
        return self.local.count(name, count_filter=body.filter)

    def _scroll(self, name: str, body: m.ScrollRequest) -> m.ScrollResult:
        self._existing(name)
        points, following = self.local.scroll(
            name,
            scroll_filter=body.filter,
            limit=body.limit or 10,
            offset=body.offset,
            with_payload=True if body.with_payload is None else body.with_payload,
            with_vectors=body.with_vector or False,
        )
        return m.ScrollResult(points=points, next_page_offset=following)

    def _query(self, name: str, body: m.QueryRequest) -> m.QueryResponse:
        self._existing(name)
        return self.local.query_points(
            name,
            query=body.query,
            query_filter=body.filter,
            limit=body.limit or 10,
            with_payload=body.with_payload or False,
            with_vectors=body.with_vector or False,
        )


def _error(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"status": {"error": message}, "time": 0.0}, status, headers)


def main() -> None:
    """Serve on a free port until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--api-key")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # local mode warns about what it does not do
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201 - how the caller learns the port
    app = Facade(options.api_key).app()
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none", lifespan="off"))
    anyio.run(server.serve, [listener])


if __name__ == "__main__":
    main()
