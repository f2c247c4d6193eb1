"""What is read once per connection is described with construct; its errors as ours."""

import io
from typing import Any

from construct import Bytes, ConstructError, ExprAdapter, ExprValidator, PrefixedArray

from rusb.errors import ParseError

__all__ = ["array", "parse", "text"]


def parse(layout: Any, data: bytes, what: str) -> Any:
    """Read a layout; bytes behind it are ignored, unless it says that there are none.

    Raises:
        ParseError: the bytes have another form.
    """
    stream = io.BytesIO(data)
    try:
        return layout.parse_stream(stream)
    except ConstructError as error:
        why = str(error).splitlines()[-1]
        raise ParseError(f"{what} {data[:32].hex()}: {why}", stream.tell()) from error


def array(count: Any, most: int, of: Any) -> Any:
    """A layout: a number and as many of something; at most *most* are read."""
    return PrefixedArray(
        ExprValidator(count, lambda number, c: c._building or number <= most), of
    )


def text(size: int, encoding: str, errors: str) -> Any:
    """A layout: text up to its first zero, in *size* bytes."""
    return ExprAdapter(
        Bytes(size),
        lambda raw, _: raw.decode(encoding, errors).partition("\0")[0],
        lambda value, _: value.encode(encoding)[:size].ljust(size, b"\0"),
    )
