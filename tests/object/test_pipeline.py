"""Calls that outlive whoever waits for them."""

import asyncio
import gc
import weakref

import anyio
import anyio.lowlevel
import pytest

from nvisy_connectors.object import pipeline
from nvisy_connectors.object.pipeline import uncancelled

pytestmark = pytest.mark.anyio


class Owner:
    """What a call works on, such as a stream of pages."""


async def waiting(call, owner, seconds):
    with anyio.move_on_after(seconds) as scope:
        await uncancelled(call, owner)
    return scope.cancelled_caught


async def test_a_cancelled_task_waits_for_the_call():
    call = asyncio.ensure_future(asyncio.sleep(0.1, "done"))
    assert await waiting(call, Owner(), 0.01)
    assert call.done()
    assert call.result() == "done"


async def test_a_call_without_end_is_left_alone_with_its_owner(monkeypatch):
    monkeypatch.setattr(pipeline, "FINISH_SECONDS", 0.05)
    call, owner = asyncio.get_running_loop().create_future(), Owner()
    alive = weakref.ref(owner)
    with anyio.fail_after(60):
        assert await waiting(call, owner, 0.01)
    del owner
    gc.collect()
    assert alive() is not None
    assert not call.cancelled()
    call.set_exception(OSError("nobody waits for this any more, and nobody is bothered"))
    await anyio.lowlevel.checkpoint()
    gc.collect()
    assert alive() is None
