"""Parsing as a node does it, with a child that may be told to misbehave."""

from collections.abc import Callable

import pytest
from parser_processes import parsers

from nvisy_connectors.documents.parse import Parse, ParseParams
from nvisy_connectors.documents.worker import Worker


@pytest.fixture
def awkward(monkeypatch):
    """Let the children do what documents say."""
    monkeypatch.setattr(Worker, "module", "awkward_child")


@pytest.fixture
def parser() -> Callable[..., Parse]:
    return lambda **params: Parse(ParseParams(**params), node_id="parse")


@pytest.fixture(autouse=True)
def no_orphans():
    yield
    assert parsers() == []
