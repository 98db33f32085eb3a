"""What every component promises: documentation, params, purity, clean opening and closing."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, SecretStr

from nvisy_dagster.sdk.component import Component
from nvisy_dagster.sdk.params import Connection, Params
from nvisy_dagster.sdk.testing.watch import no_blocking, no_io, no_leaks, promptly

Work = Callable[[Any], Awaitable[None]]
Compile = Callable[[Any], None]


class Conformance:
    """Base of the suites; subclass one of the four that are named after a kind of component.

    Every suite needs a fixture `params`: valid params, over a system or folder of the test's own.
    """

    component: ClassVar[type[Any]]
    """The class under test."""

    may_block: ClassVar[Sequence[tuple[str, Sequence[str]]]] = ()
    """Endings of file names, each with functions of a client in which blocking is forgiven."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture(scope="session")
    @classmethod
    def anyio_backend(cls) -> str:
        """The engine runs on asyncio."""
        return "asyncio"

    @pytest.fixture
    def connection(self) -> Connection | None:
        """Override in the class (one in the module is not seen) for a `connection_type`."""
        if self.component.connection_type is not None and self.component.connection_required:
            pytest.fail(f"define a fixture `connection` in {type(self).__name__}")
        return None

    def build(self, params: Params, connection: Connection | None) -> Component[Any]:
        """Make the component as the engine does."""
        return self.component(params, connection, node_id="conformance")

    def build_to_compile(self, params: Params, connection: Connection | None) -> Component[Any]:
        """Make it as the compiler does: of a connection only its kind is known, no value."""
        return self.build(params, type(connection).model_construct() if connection else None)

    @pytest.fixture
    def work(self) -> Work:
        """What an opened component does in a run; given by the suite of each kind."""
        raise NotImplementedError

    @pytest.fixture
    def compiles(self) -> Compile:
        """What is asked of a component at compile time; given by the suite of each kind."""
        raise NotImplementedError

    def test_documents_itself(self) -> None:
        """The docstring opens with a sentence; every param says what it is."""
        assert getattr(self.component, "name", ""), "set the class attribute `name`"
        text = inspect.cleandoc(self.component.__dict__.get("__doc__") or "")
        assert text, f"{self.component.__name__} has no docstring of its own"
        summary = text.partition("\n\n")[0]
        assert summary.endswith("."), f"the summary must end with a full stop: {summary!r}"
        missing = _undocumented(self.component.params_type)
        if self.component.connection_type is not None:
            missing += _undocumented(self.component.connection_type)
        assert not missing, f"fields without a docstring: {', '.join(missing)}"

    def test_says_what_installs_it(self) -> None:
        """Modules it needs beyond the core come with an extra or distribution to install."""
        assert not self.component.requires or self.component.extra, (
            "`requires` is set: name in `extra` what installs it"
        )

    def test_params_survive_json(self, params: Params) -> None:
        """Params can be written as JSON and read again, in snake_case and in camelCase."""
        kind = self.component.params_type
        assert type(params) is kind, f"the fixture `params` must give {kind.__name__}"
        assert kind.model_validate_json(params.model_dump_json()) == params
        camel = params.model_dump(mode="json", by_alias=True)
        assert kind.model_validate(camel) == params, "the camelCase spelling reads differently"

    def test_tells_no_secret(self, params: Params, connection: Connection | None) -> None:
        """No secret of the connection, of 8 characters or more, shows in what people see."""
        location: Callable[[], str | None] = getattr(
            self.build(params, connection), "location", lambda: None
        )
        places = [connection and connection.location(), location()]
        shown = f"{params!r} {connection!r} {places}"
        secrets = [
            secret
            for _, value in connection or ()
            if isinstance(value, SecretStr) and len(secret := value.get_secret_value()) >= 8
        ]
        told = [secret for secret in secrets if secret in shown]
        assert not told, f"{len(told)} secrets of the connection show in repr() or location()"

    def test_compiles_without_io(
        self, params: Params, connection: Connection | None, compiles: Compile
    ) -> None:
        """What is asked of it at compile time needs no value of a connection and does no I/O."""
        compiles(self.build_to_compile(params, connection))  # may import what it needs
        with no_io():
            compiles(self.build_to_compile(params, connection))

    async def test_opens_and_closes_twice(
        self, params: Params, connection: Connection | None, work: Work
    ) -> None:
        """A second life leaves no task, file or socket that the first one did not."""
        async with self.build(params, connection) as component:
            await work(component)
        async with no_leaks() as alive:
            component = self.build(params, connection)
            alive.append(component)
            async with component:
                await work(component)
            del component

    async def test_closes_unused(self, params: Params, connection: Connection | None) -> None:
        """Opened and closed without work in between, it is quick and leaves nothing."""
        async with self.build(params, connection):
            pass
        with promptly("opening and closing"):
            async with no_leaks() as alive:
                component = self.build(params, connection)
                alive.append(component)
                async with component:
                    pass
                del component

    async def test_never_blocks_the_loop(
        self, params: Params, connection: Connection | None, work: Work
    ) -> None:
        """Files, sockets and sleep are awaited or left to threads (needs `blockbuster`)."""
        async with self.build(params, connection) as component:
            await work(component)  # imports block, once
        with no_blocking(self.may_block):
            async with self.build(params, connection) as component:
                await work(component)


def _undocumented(model: type[BaseModel]) -> list[str]:
    schema = model.model_json_schema(by_alias=False)
    objects = {model.__name__: schema, **schema.get("$defs", {})}
    return [
        f"{owner}.{name}"
        for owner, body in objects.items()
        for name, field in body.get("properties", {}).items()
        if not field.get("description")
    ]
