"""No component is registered without a conformance suite."""

import importlib.util
import inspect
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from nvisy_dagster.sdk import (
    Action,
    BlockingAction,
    Component,
    JoiningAction,
    Router,
    SequentialAction,
    Sink,
    Source,
)
from nvisy_dagster.sdk.testing import (
    ActionConformance,
    BlockingActionConformance,
    Conformance,
    JoiningActionConformance,
    RouterConformance,
    SequentialActionConformance,
    SinkConformance,
    SourceConformance,
)

TESTS = Path(__file__).parent
GROUPS = ("nvisy.connectors", "nvisy.actions")
SUITES = {
    Source: SourceConformance,
    Sink: SinkConformance,
    Action: ActionConformance,
    BlockingAction: BlockingActionConformance,
    JoiningAction: JoiningActionConformance,
    SequentialAction: SequentialActionConformance,
    Router: RouterConformance,
}

WAIVERS: dict[str, str] = {}
"""`module:Class` -> why it has no suite yet. Strict: a waiver that is not needed any more fails."""


def components_of(module):
    """The concrete components that a registered module makes public."""
    found = {
        value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and inspect.isclass(value)
        and issubclass(value, tuple(SUITES))
        and not inspect.isabstract(value)
    }
    return sorted(found, key=lambda component: component.__qualname__)


def registered():
    """One parameter per component, and one per entry point that gives none."""
    for group in GROUPS:
        for entry in entry_points(group=group):
            try:
                components = components_of(entry.load())
            except Exception as error:  # noqa: BLE001 - told by the test of this entry point
                yield pytest.param(f"{entry.value}: {error!r}", id=f"{group}/{entry.name}")
                continue
            if not components:
                problem = f"{entry.value} holds no concrete component"
                yield pytest.param(problem, id=f"{group}/{entry.name}")
            for component in components:
                path = f"{component.__module__}:{component.__qualname__}"
                reason = WAIVERS.get(path)
                marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
                yield pytest.param(component, id=path, marks=marks)


def import_test_module(path):
    """The module of a test file: the one that pytest has, else a new one."""
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path):
            return module
    name = f"registry_scan_{path.stem}_{abs(hash(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as pytest does for tests that are no package
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@pytest.fixture(scope="session")
def suites():
    """Every collected suite by its component, and why some test modules could not be read."""
    found, unreadable = {}, {}
    for path in sorted(TESTS.rglob("test_*.py")):
        if "Conformance" not in path.read_text("utf-8") or path == Path(__file__):
            continue
        try:
            module = import_test_module(path)
        except (Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - told where it matters
            unreadable[str(path)] = repr(error)
            continue
        for name, value in vars(module).items():
            if (
                name.startswith("Test")
                and inspect.isclass(value)
                and issubclass(value, Conformance)
            ):
                found.setdefault(getattr(value, "component", None), []).append(value)
    return found, unreadable


def problem_of(component, suites):
    """What is wrong with the suites of a component, `None` when nothing is."""
    found, unreadable = suites
    (kind,) = {SUITES[base] for base in SUITES if issubclass(component, base)}
    if any(issubclass(suite, kind) for suite in found.get(component, ())):
        return None
    return (
        f"{component.__module__}:{component.__qualname__} has no {kind.__name__} under tests/"
        f" (see docs/extending.md); test modules that could not be imported: {unreadable or 'none'}"
    )


@pytest.mark.parametrize("component", list(registered()))
def test_component_has_its_suite(component, suites):
    assert not isinstance(component, str), component
    problem = problem_of(component, suites)
    assert problem is None, problem


def test_waivers_name_registered_components():
    known = {parameter.id for parameter in registered()}
    assert WAIVERS.keys() <= known


def test_a_component_with_a_suite_is_recognised(suites):
    found, _ = suites
    acme = {c.__name__ for c in found if c and c.__module__.startswith("acme_sqlite")}
    assert acme == {"SqliteSource", "SqliteSink", "Lines", "ByLength"}


def test_a_component_without_a_suite_is_refused(suites):
    class Orphan(Sink):
        async def write(self, batch):
            pass

        async def commit(self, epoch):
            pass

    class WrongSuite(ActionConformance):
        component = Orphan

    found, unreadable = suites
    assert "SinkConformance" in problem_of(Orphan, suites)
    assert problem_of(Orphan, ({**found, Orphan: [WrongSuite]}, unreadable)) is not None


def test_only_public_concrete_components_count():
    class Module:
        base = Component
        abstract = Sink

    assert components_of(Module) == []
