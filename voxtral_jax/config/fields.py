"""Dataclasses from parsed JSON, and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from voxtral_jax.config.checks import check
from voxtral_jax.errors import ConfigError


def build(kind: type, data: Any, where: str) -> Any:
    """A dataclass of a JSON object; unknown fields are ignored.

    Args:
        kind: the dataclass.
        data: the object.
        where: its place in the file, which errors name.

    Raises:
        ConfigError: a field is missing or of a wrong type.
    """
    check(isinstance(data, dict), f"{where}: expected an object, got {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    values = {}
    for entry in dataclasses.fields(kind):
        place = f"{where}: {entry.name}" if where == "params.json" else f"{where}.{entry.name}"
        if entry.name in data and data[entry.name] is not None:
            values[entry.name] = _value(hints[entry.name], data[entry.name], place)
        elif entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{place} is missing")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    if typing.get_origin(hint) is types.MappingProxyType:
        check(isinstance(value, dict), f"{where}: expected an object")
        return types.MappingProxyType({str(k): _value(int, v, where) for k, v in value.items()})
    if hint is float and type(value) is int:
        return float(value)
    check(type(value) is hint, f"{where}: expected {hint.__name__}, got {value!r} in params.json")
    if hint is int:
        check(value >= 0, f"{where}: expected a number of 0 or more, got {value}")
    return value


def plain(value: Any) -> Any:
    """What `build` made, as JSON objects and values."""
    if dataclasses.is_dataclass(value):
        return {e.name: plain(getattr(value, e.name)) for e in dataclasses.fields(value)}
    return dict(value) if isinstance(value, types.MappingProxyType) else value
