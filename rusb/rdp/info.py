"""Client info: credentials and what else a client says of itself (1.9, 8.4, 8.6)."""

import struct
from dataclasses import dataclass

from rusb.errors import ParseError

from .packets import Reader

__all__ = ["ClientInfo", "parse_info", "serialize_info", "split_screen"]

RDESKTOP_FOLDER = "C:\\WINNT\\System32\\mstscax.dll"
TLS_FOLDER = "C:\\Windows\\System32\\mstscax.dll"

INFO_MOUSE, INFO_DISABLE_CTRL_ALT_DEL, INFO_AUTOLOGON = 0x01, 0x02, 0x08
INFO_UNICODE, INFO_MAXIMIZE_SHELL = 0x10, 0x20
INFO_LOGON_NOTIFY, INFO_COMPRESSION, INFO_WINDOWS_KEY = 0x40, 0x80, 0x100
INFO_LEAVE_AUDIO = 0x2000
BASE_FLAGS = 0x133

MAX_STRING = 512
"""Bytes of one string; MS-RDPBCGR 2.2.1.11.1.1. T06."""

MAX_SCREEN = 64

_HEAD = struct.Struct("<IIHHHHH")


@dataclass(frozen=True, slots=True)
class ClientInfo:
    """The fields that matter; ``address`` and ``folder`` are empty for RDP 4."""

    user: str
    domain: str
    password: str
    shell: str = ""
    directory: str = ""
    flags: int = BASE_FLAGS
    code_page: int = 0
    address: str = ""
    folder: str = ""
    performance_flags: int = 0x27


def split_screen(domain: str) -> tuple[str, int]:
    """Return (domain without ``@N``, zero-based screen index) (4.2).

    A number above 64 is no number of a screen; it gives 64, which no machine has.
    """
    head, mark, digits = domain.rpartition("@")
    if not mark or not (digits.isascii() and digits.isdigit()):
        return domain, 0
    number = int(digits[-4:]) if len(digits.lstrip("0")) <= 4 else MAX_SCREEN + 1
    return head, min(max(number - 1, 0), MAX_SCREEN)


def serialize_info(info: ClientInfo, *, is_version_5: bool) -> bytes:
    """The packet after its security header; RDP 4 has no extended part (8.6)."""
    texts = (info.domain, info.user, info.password, info.shell, info.directory)
    encoded = [t.encode("utf-16-le")[:MAX_STRING] for t in texts]
    body = _HEAD.pack(info.code_page, info.flags, *map(len, encoded))
    body += b"".join(e + b"\0\0" for e in encoded)
    if not is_version_5:
        return body
    body += struct.pack("<H", 2)  # AF_INET
    for text in (info.address, info.folder):
        part = text.encode("utf-16-le") + b"\0\0"
        body += struct.pack("<H", len(part)) + part
    return body + bytes(172) + struct.pack("<IIH", 0, info.performance_flags, 0)


def parse_info(body: bytes) -> ClientInfo:
    """Read a client info packet after its security header.

    The extended part may be missing (RDP 4), and so may the terminators of empty
    strings (rdesktop 1.8 with ``-4``, 8.6).

    Raises:
        ParseError: lengths do not fit.
    """
    if len(body) < _HEAD.size:
        raise ParseError(f"client info of {len(body)} bytes")
    code_page, flags, *sizes = _HEAD.unpack_from(body)
    if max(sizes) > MAX_STRING:
        raise ParseError(f"client info string of {max(sizes)} bytes")
    total = _HEAD.size + sum(sizes)
    lacks_terminators = len(body) == total + 2 * sum(1 for s in sizes if s) and (
        0 in sizes
    )
    reader = Reader(body, _HEAD.size)
    texts = []
    for size in sizes:
        texts.append(_text(reader.take(size), flags))
        if size or not lacks_terminators:
            reader.take(2 if flags & INFO_UNICODE else 1)
    domain, user, password, shell, directory = texts
    address = folder = ""
    performance = 0
    if reader.left >= 4:
        reader.u16()
        address = _text(_counted(reader), INFO_UNICODE)
        folder = _text(_counted(reader), INFO_UNICODE) if reader.left >= 2 else ""
        if reader.left >= 180:
            reader.take(176)
            performance = reader.u32()
    return ClientInfo(
        user,
        domain,
        password,
        shell,
        directory,
        flags,
        code_page,
        address,
        folder,
        performance,
    )


def _counted(reader: Reader) -> bytes:
    size = reader.u16()
    if size > MAX_STRING:
        raise ParseError(f"client info string of {size} bytes")
    return reader.take(min(size, reader.left))


def _text(data: bytes, flags: int) -> str:
    """Decode; an odd byte and lone surrogates become U+FFFD."""
    encoding = "utf-16-le" if flags & INFO_UNICODE else "cp1252"
    return data.decode(encoding, "replace").partition("\0")[0]
