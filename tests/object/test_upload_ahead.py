"""Parts that are sent while they grow: each byte once, and what goes wrong costs time only."""

import mmap
import os
from types import SimpleNamespace

import pytest

from nvisy_connectors.object import uploads
from nvisy_connectors.object.uploads import Upload, UploadAhead
from nvisy_dagster.sdk import TransientError

pytestmark = pytest.mark.anyio

PAGE = mmap.ALLOCATIONGRANULARITY
DATA = bytes(range(251)) * (4 * PAGE // 251)


class Kept(Upload):
    """Keeps what it is sent; and may do more meanwhile."""

    def __init__(self, meanwhile=lambda: None):
        self.data, self.is_closed = b"", False
        self._meanwhile = meanwhile

    async def write(self, data):
        self._meanwhile()
        self.data += bytes(data)

    async def close(self):
        self.is_closed = True


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(uploads, "CHUNK_BYTES", PAGE)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "part"
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize("ends", [[1.5, 3.5], [2, 3], [0.5, 1, 3.2], [3.9]])
async def test_each_byte_is_sent_once_whenever_the_file_grew(file, ends):
    kept = Kept()
    ahead = UploadAhead(kept, file)
    for end in ends:
        file.write_bytes(DATA[: int(end * PAGE)])
        await ahead.send()
        assert kept.data == DATA[: int(end) * PAGE]
    assert await ahead.finish()
    assert (kept.data, kept.is_closed) == (DATA[: int(ends[-1] * PAGE)], True)


async def test_a_file_that_still_grows_is_not_sent_ahead(file):
    def grow():
        with file.open("ab") as opened:
            opened.write(DATA[:PAGE])

    file.write_bytes(DATA[: PAGE // 2])
    kept = Kept(grow)
    # What comes behind half a page cannot be mapped.
    assert not await UploadAhead(kept, file).finish()
    assert not kept.is_closed


async def test_a_file_that_is_gone_is_not_sent_ahead(file):
    kept = Kept(lambda: file.unlink(missing_ok=True))
    file.write_bytes(DATA[: 2 * PAGE])
    ahead = UploadAhead(kept, file)
    await ahead.send()
    assert not await ahead.finish()
    assert not kept.is_closed


async def test_a_file_that_becomes_shorter_is_not_sent_ahead(file, monkeypatch):
    def told_before(number):
        told = os.fstat(number)
        os.truncate(file, 0)
        return told

    file.write_bytes(DATA)
    monkeypatch.setattr(uploads, "os", SimpleNamespace(fstat=told_before))
    kept = Kept()
    assert not await UploadAhead(kept, file).finish()
    assert (kept.data, kept.is_closed) == (b"", False)


async def test_what_the_store_did_not_take_is_not_sent_ahead(file):
    def refuse():
        raise TransientError("it cannot be reached")

    file.write_bytes(DATA)
    kept = Kept(refuse)
    ahead = UploadAhead(kept, file)
    await ahead.send()
    assert not await ahead.finish()
    assert (kept.data, kept.is_closed) == (b"", False)
