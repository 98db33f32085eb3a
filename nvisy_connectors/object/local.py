"""Files of a local or mounted disk."""

from anyio import to_thread
from pydantic import Field

from nvisy_connectors.object.errors import disk_error
from nvisy_connectors.object.local_folder import LocalFolder
from nvisy_connectors.object.params import ReadParams, WriteParams
from nvisy_connectors.object.sink import ObjectSink
from nvisy_connectors.object.source import ObjectSource
from nvisy_dagster.sdk import ConfigError


class LocalSourceParams(ReadParams):
    """Which files to read."""

    path: str = Field(min_length=1, max_length=4096)
    """Folder, with all its folders, or one file. A relative path begins at the folder of the
    graph."""


class LocalSinkParams(WriteParams):
    """Where to write."""

    path: str = Field(min_length=1, max_length=4096)
    """Folder; it is made if it is missing. A relative path begins at the folder of the
    graph."""


class LocalSource(ObjectSource[LocalSourceParams]):
    """Read files below a folder, sorted by name.

    Names that begin with a dot are left out. Linked folders are not entered, and a link to a file
    outside of the folder is an error.
    """

    name = "local"

    def location(self) -> str:
        """`file:///absolute/path`."""
        return self.resolve(self.params.path).as_uri()

    async def make_folder(self) -> LocalFolder:
        """The folder, or the folder of the one file."""
        return await to_thread.run_sync(self._make_folder)

    def _make_folder(self) -> LocalFolder:
        path = self.resolve(self.params.path)
        if path.is_dir():
            return LocalFolder(path)
        if not path.is_file():
            raise ConfigError(
                f"there is no file or folder {path}",
                remedy=f"check `path`; a relative one begins at {self.resolve('.')}",
                tag="not_found",
            )
        if self.params.glob:
            raise ConfigError(
                f"`glob` chooses files in a folder, and {path} is a file",
                remedy="leave `glob` out, or give the folder as `path`",
                tag="path",
            )
        return LocalFolder(path.parent, only=path.name)


class LocalSink(ObjectSink[LocalSinkParams]):
    """Write files to a folder.

    A file appears whole, under its name, when its epoch is committed and on the disk.
    """

    name = "local"

    def location(self) -> str:
        """`file:///absolute/path`."""
        return self.resolve(self.params.path).as_uri()

    async def make_folder(self) -> LocalFolder:
        """The folder, made if it is missing."""
        return await to_thread.run_sync(self._make_folder)

    def _make_folder(self) -> LocalFolder:
        path = self.resolve(self.params.path)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, path.as_uri(), writing=True) from error
        return LocalFolder(path)
