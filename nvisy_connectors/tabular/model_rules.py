"""Records held against a pydantic model of the deployment."""

import importlib
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from nvisy_dagster.sdk import ConfigError

ALLOWED = "NVISY_MODEL_MODULES"
"""Environment variable that names the modules whose models a graph may use, separated by commas;
`acme.models.*` stands for all modules below `acme.models`."""

MOST_ERRORS = 3
"""Errors of one record that are told."""


class Model:
    """A model that is ready for use.

    Args:
        path: `module:Class`.

    Raises:
        ConfigError: The deployment does not allow the module, or there is no such model in it.
    """

    def __init__(self, path: str) -> None:
        self.type = _model(path, os.environ.get(ALLOWED, ""))
        # Where there is a default a NULL is nothing, as in JSON that lacks the key.
        self._optional = frozenset(
            name
            for field, info in self.type.model_fields.items()
            if not info.is_required()
            for name in {field, info.alias or field}
        )

    def required(self) -> list[str]:
        """Columns without which no record can be valid, as far as that can be told."""
        validators = self.type.__pydantic_decorators__.model_validators.values()
        if any(validator.info.mode != "after" for validator in validators):
            return []  # it may fill them in
        return [
            info.alias or name
            for name, info in self.type.model_fields.items()
            if info.is_required() and info.validation_alias in {None, info.alias}
        ]

    def errors(self, values: Sequence[object]) -> dict[int, str]:
        """Why values are none of the model, by their place: JSON path and what is wrong.

        Values are not shown: reasons go where the records themselves may not.
        """
        validate = self.type.model_validate
        wrong: list[int] = []
        for place, value in enumerate(values):
            try:
                validate(value)
            except ValidationError:
                wrong.append(place)
        told = ((place, self._error(values[place])) for place in wrong)
        return {place: reason for place, reason in told if reason is not None}

    def _error(self, value: object) -> str | None:
        if isinstance(value, Mapping):
            members = cast("Mapping[str, Any]", value)
            value = {
                name: one
                for name, one in members.items()
                if one is not None or name not in self._optional
            }
        try:
            self.type.model_validate(value)
        except ValidationError as error:
            return _said(error)
        return None


def _said(error: ValidationError) -> str:
    from nvisy_connectors.tabular.json_schema import json_path

    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{json_path(one['loc'])}: {one['msg']} ({one['type']})" for one in found[:MOST_ERRORS]]
    more = len(found) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


@lru_cache(maxsize=64)
def _model(path: str, allowed: str) -> type[BaseModel]:
    module, _, name = path.partition(":")
    if not _is_allowed(module, allowed):
        raise ConfigError(
            f"'model': this deployment allows no models of the module {module!r}",
            remedy=f"name it in the environment variable {ALLOWED} wherever graphs are checked and "
            "run",
            place=("model",),
        )
    try:
        found: object = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module of somebody else's can fail in any way
        raise ConfigError(
            f"'model': {path!r} cannot be imported: {type(error).__name__}: {error}",
            remedy="install the package where graphs are checked and run",
            tag="install",
            place=("model",),
        ) from error
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise ConfigError(f"'model': {path!r} is no pydantic model", place=("model",))
    return found


def _is_allowed(module: str, allowed: str) -> bool:
    names = [one.strip() for one in allowed.split(",")]
    return any(
        module.startswith(one.removesuffix("*")) if one.endswith(".*") else module == one
        for one in names
        if one
    )
