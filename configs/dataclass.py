"""Plain mappings to dataclasses and back. An unknown key or a wrong type is the user's error, and names the key."""

import contextlib
import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from configs.errors import UserError, suggest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def from_dict(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Builds the dataclass `cls`; keys that are left out keep their defaults.

    Args:
        where: what the mapping is (a file, a section), for the error line.

    Raises:
        UserError: unknown key (with a suggestion), missing key, wrong type.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where} must be a mapping (name: value), not {_show(mapping)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            raise UserError(f"{where}: {suggest(key, fields)}")
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in mapping:
            raise UserError(f"{where}: {name} is missing ({_name(hints[name])})")
    return cls(**{key: _convert(hints[key], value, f"{where}: {key}") for key, value in mapping.items()})


def to_dict(instance: Any) -> dict[str, Any]:
    """The inverse of `from_dict`: only dicts, lists, strings, numbers, booleans and None, ready for YAML and JSON."""
    return {field.name: _plain(getattr(instance, field.name)) for field in dataclasses.fields(instance) if field.init}


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{where}: {suggest(value, [str(argument) for argument in arguments])}")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_dict(hint, value, where)
    if origin is dict or hint is dict:
        return _convert_dict(arguments, value, where)
    kind = origin or hint
    if kind is list or kind is tuple:
        return _convert_sequence(kind, arguments, value, where)
    return _convert_scalar(hint, value, where)


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and not isinstance(value, bool):
        if isinstance(value, int | float):
            return float(value)
        try:
            return float(value)  # PyYAML reads 3e-4 as text
        except (TypeError, ValueError):
            raise UserError(f"{where} must be a number, not {_show(value)}") from None
    if hint is int and isinstance(value, float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except ValueError:
            number = None
        if number is not None and number.is_integer():
            return int(number)
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint is type(None) and value is None:
        return None
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    raise UserError(f"{where} must be {_name(hint)}, not {_show(value)}")


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    # An exact type wins over a conversion, so that `float | str` keeps the text "3e-4 m" and the number 3.
    for option in options:
        if isinstance(option, type) and type(value) is option:
            return value
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return _convert(option, value, where)  # and not the vaguer error below
        with contextlib.suppress(UserError):
            return _convert(option, value, where)
    raise UserError(f"{where} must be {' or '.join(_name(option) for option in options)}, not {_show(value)}")


def _convert_dict(arguments: tuple[Any, ...], value: Any, where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where} must be a mapping (name: value), not {_show(value)}")
    key_hint, value_hint = arguments or (Any, Any)
    return {_convert(key_hint, key, where): _convert(value_hint, item, f"{where}.{key}") for key, item in value.items()}


def _convert_sequence(kind: type, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} must be a list, not {_show(value)}")
    if kind is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise UserError(f"{where} must hold {len(arguments)} values, not {len(value)}")
        hints = arguments
    else:
        hints = [arguments[0] if arguments else Any] * len(value)
    items = [_convert(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(hints, value, strict=True))]
    return kind(items)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if typing.get_origin(hint) is Literal:
        return " or ".join(str(argument) for argument in typing.get_args(hint))
    return names.get(hint) or ("a path" if hint is Path else getattr(hint, "__name__", str(hint)))


def _show(value: Any) -> str:
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
