"""Client Info: credentials and what the client says of itself (1.9, 8.4, 8.6)."""

import struct
from dataclasses import dataclass, field
from typing import Self

from rusb.errors import ParseError

from .cookie import COOKIE_SIZE
from .per import Reader

__all__ = ["MAX_SCREEN", "ClientInfo", "InfoFlag", "split_screen"]

MAX_STRING = 512
"""Bytes of one string, terminator not counted (MS-RDPBCGR 2.2.1.11.1.1)."""

MAX_SCREEN = 64
"""Highest screen number after ``@`` that counts as one (4.2)."""

_HEAD = struct.Struct("<IIHHHHH")
_TAIL = struct.Struct("<IIH")  # behind the time zone, before the cookie
_TIME_ZONE_SIZE = 172


def _time_zone() -> bytes:
    """The names and rules that rdesktop always sends (8.4): 172 bytes."""
    standard = struct.pack("<8H", 0, 10, 0, 5, 3, 0, 0, 0)
    daylight = struct.pack("<8H", 0, 3, 0, 5, 2, 0, 0, 0)
    layout = "<i64s16si64s16si"
    names = ["GTB, normaltid".encode("utf-16-le"), "GTB, sommartid".encode("utf-16-le")]
    return struct.pack(layout, 0, names[0], standard, 0, names[1], daylight, -60)


class InfoFlag:
    """Flags of the packet (MS-RDPBCGR 2.2.1.11.1.1)."""

    AUTOLOGON = 0x0008
    UNICODE = 0x0010
    COMPRESSION = 0x0280
    REMOTE_SOUND = 0x2000
    RDESKTOP = 0x0133
    """What rdesktop always sets: mouse, no Ctrl+Alt+Del, unicode, maximised shell,
    Windows key."""


@dataclass(slots=True, repr=False)
class ClientInfo:
    """The packet; never shown by ``repr``, it holds the password.

    Attributes:
        flags: bits of :class:`InfoFlag`.
        code_page: 0 with unicode strings.
        domain, user, password, shell, directory: as typed.
        address: what the client believes its address is; empty from RDP 4 clients.
        client_directory: where the client is installed.
        performance: performance flags.
        cookie: what is shown of a :class:`~rusb.rdp.cookie.Cookie`; empty: of none.
        is_extended: not an RDP 4 packet, which ends after ``directory``.
    """

    flags: int = InfoFlag.RDESKTOP
    code_page: int = 0
    domain: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    shell: str = ""
    directory: str = ""
    address: str = ""
    client_directory: str = ""
    performance: int = 0
    cookie: bytes = b""
    is_extended: bool = True

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the packet behind the security header.

        Raises:
            ParseError: a string is too long, of odd length, not UTF-16, or cut off.
        """
        reader = Reader(data, "Client Info")
        code_page, flags, *sizes = _HEAD.unpack(reader.take(_HEAD.size))
        width = 2 if flags & InfoFlag.UNICODE else 1
        present = sum(1 for size in sizes if size)
        # 8.6: rdesktop 1.8 in version 4 leaves out the terminators of empty strings
        is_short = len(data) == _HEAD.size + sum(sizes) + width * present
        texts = []
        for size in sizes:
            texts.append(_text(reader, size, width))
            if size or not is_short:
                reader.take(width)
        domain, user, password, shell, directory = texts
        found = cls(
            flags=flags,
            code_page=code_page,
            domain=domain,
            user=user,
            password=password,
            shell=shell,
            directory=directory,
            is_extended=reader.left > 0,
        )
        if found.is_extended:
            reader.take(2)  # address family
            found.address = _text(reader, _size(reader), 2)
            found.client_directory = _text(reader, _size(reader), 2)
            found.cookie = _cookie(reader)
        return found

    def serialize(self) -> bytes:
        """Return the packet, as rdesktop writes it, all terminators included."""
        parts = (self.domain, self.user, self.password, self.shell, self.directory)
        texts = [_encode(text) for text in parts]
        data = _HEAD.pack(self.code_page, self.flags, *map(len, texts))
        data += b"".join(text + b"\0\0" for text in texts)
        if self.is_extended:
            data += b"\x02\x00"  # IPv4
            for text in (self.address, self.client_directory):
                raw = _encode(text) + b"\0\0"
                data += len(raw).to_bytes(2, "little") + raw
            data += _time_zone() + _TAIL.pack(0, self.performance, len(self.cookie))
            data += self.cookie
        return data

    def is_rdesktop(self, build: int) -> bool:
        """Guess the client as the original server does (1.9)."""
        return (
            self.flags < 0x4000
            and self.client_directory == "C:\\WINNT\\System32\\mstscax.dll"
            and build <= 2600
            and self.code_page == 0
        )


def split_screen(domain: str) -> tuple[str, int]:
    """Take a screen number off a domain (4.2).

    Returns:
        the domain without its ``@N``, and the screen, counted from 0; a number above
        :data:`MAX_SCREEN` becomes that screen, which no machine has.
    """
    name, sign, digits = domain.rpartition("@")
    if not sign or not (digits.isascii() and digits.isdigit()):
        return domain, 0
    number = int(digits) if len(digits) < 10 else MAX_SCREEN + 1
    return name, max(0, min(number, MAX_SCREEN + 1) - 1)


def _size(reader: Reader) -> int:
    """Take a byte count that includes a terminator; text bytes that follow it.

    1.9: the terminator may be missing, then the count covers text only.
    """
    size = reader.u16()
    if size == 1:
        raise ParseError("Client Info: a string of one byte", reader.pos)
    return size


def _cookie(reader: Reader) -> bytes:
    """Take what may be there or not: many clients end before it, or send something."""
    if reader.left < _TIME_ZONE_SIZE + _TAIL.size + COOKIE_SIZE:
        return b""
    reader.take(_TIME_ZONE_SIZE)
    _, _, size = _TAIL.unpack(reader.take(_TAIL.size))
    return reader.take(COOKIE_SIZE) if size == COOKIE_SIZE else b""


def _text(reader: Reader, size: int, width: int) -> str:
    if size > MAX_STRING or size % width:
        raise ParseError(f"Client Info: string of {size} bytes", reader.pos)
    raw = reader.take(size)
    try:
        text = raw.decode("utf-16-le" if width == 2 else "cp1252")
    except UnicodeDecodeError as error:
        # never show the bytes: they may be the password
        raise ParseError("Client Info: a string is not text", reader.pos) from error
    return text.partition("\0")[0]


def _encode(text: str) -> bytes:
    return text.encode("utf-16-le", "surrogatepass")[:MAX_STRING]
