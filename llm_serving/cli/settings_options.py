"""Command-line flags out of `Settings`: a field is a flag, its description the help line.

Flags carry what was typed; parsing and range checks are the settings' own.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from llm_serving.config import Settings, env_name, flag_name
from llm_serving.setting_values import parse_bytes

Command = TypeVar("Command", bound=Callable[..., Any])

_METAVARS: dict[Any, str] = {int: "INTEGER", float: "NUMBER", Path: "PATH"}


def settings_options(*, without: Collection[str] = ()) -> Callable[[Command], Command]:
    """Add a flag for every field but those in `without`; the function gets them as `**flags`."""

    def decorate(function: Command) -> Command:
        for name, field in reversed(Settings.model_fields.items()):
            if name not in without:
                function = _option(name, field)(function)
        return function

    return decorate


def read_settings(flags: dict[str, Any], **more: Any) -> Settings:
    """Flags that were given beat the environment, which beats the defaults.

    Raises: SettingsError naming the flag and the variable.
    """
    given = {name: value for name, value in {**flags, **more}.items() if value is not None and value != ()}
    return Settings(**given)


def _option(name: str, field: FieldInfo) -> Callable[[Command], Command]:
    flag = flag_name(name)
    text = f"{field.description}  [{env_name(name)}{_default(field)}]"
    if field.annotation is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    if get_origin(field.annotation) is tuple:
        return click.option(flag, name, multiple=True, metavar="TEXT", help=text)
    return click.option(flag, name, default=None, metavar=_metavar(field), help=text)


def _metavar(field: FieldInfo) -> str:
    if any(getattr(part, "func", None) is parse_bytes for part in field.metadata):
        return "BYTES"
    annotation: Any = field.annotation
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return _METAVARS.get(annotation, "TEXT")


def _default(field: FieldInfo) -> str:
    if field.default in (None, "", ()):
        return ""
    value = (
        {True: "on", False: "off"}.get(field.default) if isinstance(field.default, bool) else field.default
    )
    return f"; {value}"
