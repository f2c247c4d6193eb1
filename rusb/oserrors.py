"""What the system says of an error, in its own words: ``Connection refused``."""

import errno
import os
import re
from pathlib import Path

__all__ = ["os_error", "reason"]

_NUMBER = re.compile(r"\[Errno (\d+)\]")
"""How asyncio lists the failures of several addresses, in an error without a number."""


_PLACE = re.compile(r" \(_ssl\.c:\d+\)$")
"""Where in Python's own source an error of TLS was noticed."""


def os_error(number: int, path: Path | None = None) -> OSError:
    """Return the error that the system would raise.

    Args:
        number: of :mod:`errno`.
        path: the file that it is about.
    """
    where = () if path is None else (str(path),)
    return OSError(number, os.strerror(number), *where)


def reason(error: OSError | UnicodeError) -> str:
    """Return why *error* came, for a message that says what was tried.

    A name of a host that cannot be one is a UnicodeError: a part of it is empty, or
    longer than 63 characters.

    asyncio puts an address or a sentence of its own into ``strerror``, another one in
    each version of Python; the number is what the system said.
    """
    if isinstance(error, UnicodeError):
        return "no such name"
    if type(error).__module__ != "builtins":  # of ssl, getaddrinfo: other numbers
        text = error.strerror or str(error) or type(error).__name__
        return _PLACE.sub("", text)
    if error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    if numbers := dict.fromkeys(map(int, _NUMBER.findall(str(error)))):
        return " and ".join(map(os.strerror, numbers))
    if isinstance(error, TimeoutError):
        return os.strerror(errno.ETIMEDOUT)
    return str(error) or type(error).__name__
