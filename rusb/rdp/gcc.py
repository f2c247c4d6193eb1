"""GCC conference (T.124): the blocks that client and server open with (1.5, 1.6)."""

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from rusb.errors import ParseError

from .mcs import FIRST_CHANNEL, IO_CHANNEL
from .per import Reader, per_length, read_per_length

__all__ = [
    "MAX_CHANNELS",
    "Block",
    "ChannelRequest",
    "ClientBlocks",
    "ClientCore",
    "ServerBlocks",
]

MAX_CHANNELS = 31
"""Static channels of one connection (MS-RDPBCGR 2.2.1.3.4)."""

_KEY = b"\x00\x05\x00\x14\x7c\x00\x01"  # T.124's object identifier
_REQUEST = b"\x00\x08\x00\x10\x00\x01\xc0\x00Duca"
_RESPONSE = _KEY + b"\x2a\x14\x76\x0a\x01\x01\x00\x01\xc0\x00McDn"

_HEADER = struct.Struct("<HH")
_CORE = struct.Struct("<IHHHHII32sIII64s")
_CORE_MORE = struct.Struct("<HHIHHH64sBB")
_CHANNEL = struct.Struct("<8sI")

_DEPTHS = {0xCA00: 4, 0xCA01: 8, 0xCA02: 15, 0xCA03: 16, 0xCA04: 24}


class Block(enum.IntEnum):
    """Types of the blocks that matter here."""

    CLIENT_CORE = 0xC001
    CLIENT_SECURITY = 0xC002
    CLIENT_NETWORK = 0xC003
    CLIENT_CLUSTER = 0xC004
    CLIENT_MONITOR = 0xC005
    SERVER_CORE = 0x0C01
    SERVER_SECURITY = 0x0C02
    SERVER_NETWORK = 0x0C03


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """A static channel that a client asks for.

    Attributes:
        name: up to seven characters.
        options: 32 bits; rdesktop writes them big-endian (1.18).
    """

    name: str
    options: int

    @property
    def shows_protocol(self) -> bool:
        """Are its chunks to carry the flag of that name? Big-endian bits do not ask."""
        return bool(self.options & 0x0020_0000)


@dataclass(slots=True)
class ClientCore:
    """CS_CORE.

    Attributes:
        version: low half 1 for RDP 4, 4 for later.
        depth: bits per pixel asked for; 0 if the block does not say.
        build: clientBuild.
        early_flags: earlyCapabilityFlags.
        selected: serverSelectedProtocol.
        size: bytes of the block as read; 212 is rdesktop up to 1.7 (1.20).
    """

    name: str
    width: int
    height: int
    depth: int
    build: int = 2600
    version: int = 0x00080004
    keyboard_layout: int = 0x409
    early_flags: int = 1
    selected: int = 0
    size: int = 216

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the block behind its header.

        Raises:
            ParseError: too short, or not version 8.
        """
        if len(body) < _CORE.size:
            raise ParseError(f"CS_CORE of {len(body)} bytes, not {_CORE.size} or more")
        version, width, height, _, _, layout, build, name, *_ = _CORE.unpack_from(body)
        if version >> 16 != 8:
            raise ParseError(f"CS_CORE of version 0x{version:08X}")
        more = Reader(body[_CORE.size :], "CS_CORE")
        low = more.u16() if more.left >= 2 else 0
        depth = _DEPTHS.get(low, 0)
        if more.left >= 8:
            more.take(6)
            depth = more.u16() or depth
        early = selected = 0
        if more.left >= 4:
            more.take(2)
            early = more.u16()
        if more.left >= 70:
            more.take(66)
            selected = more.u32()
        return cls(
            name=name.decode("utf-16-le", "replace").partition("\0")[0],
            width=width,
            height=height,
            depth=depth,
            build=build,
            version=version,
            keyboard_layout=layout,
            early_flags=early,
            selected=selected,
            size=len(body) + _HEADER.size,
        )

    def serialize(self) -> bytes:
        """Return the block as rdesktop writes it, 216 bytes."""
        name = self.name[:15].encode("utf-16-le")[:30]
        numbers = (0xCA01, 0xAA03, self.keyboard_layout, self.build)
        core = _CORE.pack(
            *(self.version, self.width, self.height, *numbers, name, 4, 0, 12, b"")
        )
        more = _CORE_MORE.pack(
            *(0xCA01, 1, 0, self.depth, 7, self.early_flags, b"", 0, 0)
        )
        return _block(
            Block.CLIENT_CORE, core + more + self.selected.to_bytes(4, "little")
        )


@dataclass(slots=True)
class ClientBlocks:
    """What a client says about itself in Connect-Initial.

    Attributes:
        methods: encryptionMethods; 0 under TLS and without encryption.
        cluster: flags of CS_CLUSTER; None: no such block.
        channels: in the order asked for.
        has_network: is there a CS_NET block at all?
        others: types of blocks that were skipped.
    """

    core: ClientCore
    methods: int = 0
    cluster: int | None = 9
    channels: Sequence[ChannelRequest] = ()
    has_network: bool = True
    others: list[int] = field(default_factory=list)

    @classmethod
    def parse(cls, user_data: bytes) -> Self:
        """Read a GCC ConferenceCreateRequest.

        Raises:
            ParseError: a malformed header or block, or no CS_CORE.
        """
        core: ClientCore | None = None
        found = cls(ClientCore("", 0, 0, 0), cluster=None, has_network=False)
        for kind, body in _split(_open_request(user_data)):
            match kind:
                case Block.CLIENT_CORE:
                    core = ClientCore.parse(body)
                case Block.CLIENT_SECURITY:
                    found.methods = Reader(body, "CS_SECURITY").u32()
                case Block.CLIENT_NETWORK:
                    found.channels = _parse_channels(body)
                    found.has_network = True
                case Block.CLIENT_CLUSTER:
                    found.cluster = Reader(body, "CS_CLUSTER").u32()
                case Block.CLIENT_MONITOR:
                    pass  # one screen per connection
                case _:
                    found.others.append(kind)
        if core is None:
            raise ParseError("no CS_CORE among the client's blocks")
        found.core = core
        return found

    def serialize(self) -> bytes:
        """Return the ConferenceCreateRequest with the blocks in rdesktop's order."""
        blocks = self.core.serialize()
        if self.cluster is not None:
            blocks += _block(Block.CLIENT_CLUSTER, struct.pack("<II", self.cluster, 0))
        blocks += _block(Block.CLIENT_SECURITY, struct.pack("<II", self.methods, 0))
        if self.has_network:
            channels = (
                _CHANNEL.pack(c.name.encode(), c.options) for c in self.channels
            )
            count = len(self.channels).to_bytes(4, "little")
            blocks += _block(Block.CLIENT_NETWORK, count + b"".join(channels))
        inside = _REQUEST + per_length(len(blocks)) + blocks
        return _KEY + per_length(len(inside)) + inside


@dataclass(slots=True)
class ServerBlocks:
    """What a server answers in Connect-Response.

    Attributes:
        requested: clientRequestedProtocols; None: the client did not negotiate.
        channels: ids in the order the client asked.
        method, level: encryption; 0 is none.
        security: what follows them in SC_SECURITY: random and certificate.
        io_channel: where everything but static channels goes.
    """

    requested: int | None = None
    channels: Sequence[int] = ()
    method: int = 0
    level: int = 0
    security: bytes = b""
    io_channel: int = IO_CHANNEL
    version: int = 0x00080004

    @classmethod
    def granting(cls, requested: int | None, count: int) -> Self:
        """Grant *count* channels, numbered from 1004; no encryption."""
        return cls(requested, range(FIRST_CHANNEL, FIRST_CHANNEL + count))

    @classmethod
    def parse(cls, user_data: bytes) -> Self:
        """Read a GCC ConferenceCreateResponse; unknown blocks are skipped.

        Raises:
            ParseError: a malformed header or block, or no SC_NET.
        """
        found = cls()
        has_network = False
        for kind, body in _split(_open_response(user_data)):
            reader = Reader(body, "server block")
            match kind:
                case Block.SERVER_CORE:
                    found.version = reader.u32()
                    if reader.left >= 4:
                        found.requested = reader.u32()
                case Block.SERVER_NETWORK:
                    found.io_channel = reader.u16()
                    count = reader.u16()
                    if count > MAX_CHANNELS:
                        raise ParseError(f"SC_NET grants {count} channels")
                    found.channels = [reader.u16() for _ in range(count)]
                    has_network = True
                case Block.SERVER_SECURITY:
                    found.method, found.level = reader.u32(), reader.u32()
                    found.security = reader.rest()
        if not has_network:
            raise ParseError("no SC_NET among the server's blocks")
        return found

    def serialize(self) -> bytes:
        """Return the ConferenceCreateResponse in the original's order."""
        blocks = self.serialize_core() + self.serialize_network()
        security = struct.pack("<II", self.method, self.level) + self.security
        blocks += _block(Block.SERVER_SECURITY, security)
        return _RESPONSE + per_length(len(blocks)) + blocks

    def serialize_core(self) -> bytes:
        """Return SC_CORE."""
        body = self.version.to_bytes(4, "little")
        if self.requested is not None:
            body += self.requested.to_bytes(4, "little")
        return _block(Block.SERVER_CORE, body)

    def serialize_network(self) -> bytes:
        """Return SC_NET, padded after an odd number of channels."""
        count = len(self.channels)
        ids = struct.pack(f"<{count}H", *self.channels) + bytes(count % 2 * 2)
        head = struct.pack("<HH", self.io_channel, count)
        return _block(Block.SERVER_NETWORK, head + ids)


def _block(kind: int, body: bytes) -> bytes:
    return _HEADER.pack(kind, _HEADER.size + len(body)) + body


def _split(data: bytes) -> list[tuple[int, bytes]]:
    """Split user data into blocks of (type, body)."""
    reader = Reader(data, "GCC blocks")
    found = []
    while reader.left:
        kind, size = reader.u16(), reader.u16()
        if size < _HEADER.size:
            raise ParseError(f"GCC block 0x{kind:04X} of length {size}", reader.pos)
        found.append((kind, reader.take(size - _HEADER.size)))
    return found


def _expect(reader: Reader, wanted: bytes) -> None:
    found = reader.take(len(wanted))
    if found != wanted:
        raise ParseError(f"GCC header {found.hex()}, not {wanted.hex()}", reader.pos)


def _open_request(user_data: bytes) -> bytes:
    """Return the blocks inside a ConferenceCreateRequest."""
    reader = Reader(user_data, "GCC create request")
    _expect(reader, _KEY)
    # A proxy that rewrites the blocks leaves the outer length as it was (PyRDP does);
    # MCS says where the request ends, and the blocks have a length of their own.
    read_per_length(reader)
    reader.take(2)  # choice, which options are present
    reader.take((reader.u8() + 2) // 2 + 1)  # conference name, flags
    _expect(reader, b"\x01\xc0\x00Duca")
    blocks = reader.take(read_per_length(reader))
    reader.end()
    return blocks


def _open_response(user_data: bytes) -> bytes:
    """Return the blocks inside a ConferenceCreateResponse."""
    reader = Reader(user_data, "GCC create response")
    _expect(reader, _KEY)
    read_per_length(reader)  # servers write a constant that is not the length
    reader.take(3)  # choice, node id
    reader.take(reader.u8())  # tag
    reader.take(1)  # result: MCS has its own
    _expect(reader, b"\x01\xc0\x00McDn")
    blocks = reader.take(read_per_length(reader))
    reader.end()
    return blocks


def _parse_channels(body: bytes) -> list[ChannelRequest]:
    reader = Reader(body, "CS_NET")
    count = reader.u32()
    if count > MAX_CHANNELS:
        raise ParseError(f"CS_NET asks for {count} channels, at most {MAX_CHANNELS}")
    found = []
    for _ in range(count):
        raw, options = _CHANNEL.unpack(reader.take(_CHANNEL.size))
        name = raw.partition(b"\0")[0].decode("ascii", "backslashreplace")
        found.append(ChannelRequest(name, options))
    return found
