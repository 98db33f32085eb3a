"""The models an author declares: params, connections and cursors."""

import os
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    StringConstraints,
    ValidationInfo,
)

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
"""A name that is safe to place in SQL and in a file name."""


def _from_folder(path: Path, info: ValidationInfo) -> Path:
    context: dict[str, Path | None] = info.context or {}
    folder = context.get("folder") or Path.cwd()
    return Path(os.path.abspath(folder / path.expanduser()))  # noqa: PTH100 - pure, keeps symlinks


LocalPath = Annotated[Path, AfterValidator(_from_folder)]
"""A path on this machine, absolute once validated: a relative one begins at the folder of the graph
(`folder` in the validation context), else at the working folder."""


def camel(name: str) -> str:
    """`max_retries` -> `maxRetries`: the spelling that published graphs use."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


class Model(BaseModel):
    """Frozen, closed and documented: what every declared model of this project is."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        alias_generator=camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=False,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class Params(Model):
    """Base class of component parameters.

    The docstring under each field becomes its entry on the reference page. Fields are written in
    snake_case; camelCase is accepted on input.
    """


class Cursor(Model):
    """Base class of source positions. Must survive a JSON round trip."""


class Connection(Model):
    """Base class of a user's named access to a system.

    A field that holds a secret is declared `pydantic.SecretStr`: it is never shown, logged or
    written, and a graph file may only fill it with a reference such as `${env:NAME}`.
    """

    type: ClassVar[str]
    """Name of the connector, as written in `connections.json`."""

    def location(self) -> str | None:
        """URI of the system, without credentials; `None` when it has none."""
        return None
