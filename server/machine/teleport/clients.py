"""A client that moves with its machine, as the hosts tell each other (7.12).

One object of JSON, with exactly the members that the classes of ``server/moving.py``
have. Bytes are hexadecimal digits; what is known by number has it in decimal digits.
"""

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Final

from rusb.errors import ParseError

from ...moving import MovedClient

__all__ = ["VERSION", "from_json", "to_json"]

VERSION: Final = 1
"""Of the form; a target that knows another one does not take the client."""

MAX_TEXT: Final = 4096
MAX_BYTES: Final = 512 << 10
MAX_ITEMS: Final = 4096
MAX_NUMBER: Final = 1 << 62


def to_json(client: MovedClient) -> dict[str, Any]:
    """Return what JSON can hold."""
    return {"version": VERSION, "client": _plain(client)}


def from_json(value: object) -> MovedClient:
    """Read what :func:`to_json` gave.

    Raises:
        ParseError: it is something else.
    """
    if not isinstance(value, dict) or set(value) != {"version", "client"}:
        raise ParseError("not an object with version, client")
    if value["version"] != VERSION:
        raise ParseError(f"a client in form {value['version']!r:.20}, not {VERSION}")
    found: MovedClient = _read(MovedClient, value["client"], "client")
    sizes = len(found.session), len(found.key), len(found.cookie.secret)
    if sizes != (16, 32, 16):
        raise ParseError(f"session, key and cookie of {sizes} bytes, not (16, 32, 16)")
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        names = (field.name for field in dataclasses.fields(value))
        return {name: _plain(getattr(value, name)) for name in names}
    return value


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _read(kind: Any, value: Any, where: str) -> Any:
    """Return a value of a type.

    Raises:
        ParseError: it is of another one, or too large; *where* says which.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        others = [one for one in arguments if one is not type(None)]
        return None if value is None else _read(others[0], value, where)
    if origin is tuple:
        return _read_tuple(arguments, value, where)
    if origin is not None:
        return _read_mapping(arguments[1], value, where)
    if dataclasses.is_dataclass(kind):
        return _read_fields(kind, value, where)
    if issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError:
            raise ParseError(f"{where}: no {kind.__name__}") from None
    if kind is bytes:
        return _read_bytes(value, where)
    if kind is float and type(value) in (int, float):
        return float(value)
    if type(value) is not kind:
        raise ParseError(f"{where}: not {kind.__name__}")
    if kind is str and len(value) > MAX_TEXT:
        raise ParseError(f"{where}: more than {MAX_TEXT} characters")
    if kind is int and not 0 <= value <= MAX_NUMBER:
        raise ParseError(f"{where}: not a number from 0 to {MAX_NUMBER}")
    return value


def _read_bytes(value: Any, where: str) -> bytes:
    if not isinstance(value, str) or len(value) > 2 * MAX_BYTES:
        raise ParseError(f"{where}: not hexadecimal digits of {MAX_BYTES} bytes")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise ParseError(f"{where}: not hexadecimal digits") from None


def _read_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise ParseError(f"{where}: not a list of at most {MAX_ITEMS}")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ParseError(f"{where}: {len(value)} items, not {len(kinds)}")
    pairs = zip(kinds, value, strict=True)
    return tuple(
        _read(kind, item, f"{where}[{n}]") for n, (kind, item) in enumerate(pairs)
    )


def _read_mapping(kind: Any, value: Any, where: str) -> dict[int, Any]:
    if not isinstance(value, dict) or len(value) > MAX_ITEMS:
        raise ParseError(f"{where}: not an object with at most {MAX_ITEMS} members")
    if not all(key.isascii() and key.isdecimal() and len(key) < 10 for key in value):
        raise ParseError(f"{where}: a member that is no number")
    return {
        int(key): _read(kind, item, f"{where}.{key}") for key, item in value.items()
    }


def _read_fields(kind: Any, value: Any, where: str) -> Any:
    hints = _hints(kind)
    if not isinstance(value, dict) or set(value) != set(hints):
        raise ParseError(f"{where}: not an object with {', '.join(hints)}")
    return kind(
        **{
            name: _read(hint, value[name], f"{where}.{name}")
            for name, hint in hints.items()
        }
    )
