"""GCC conference (T.124): the blocks that client and server open with (1.5, 1.6)."""

import enum
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

from construct import (
    Bytes,
    Default,
    GreedyBytes,
    Int16ul,
    Int32ul,
    Optional,
    Struct,
)

from rusb.errors import ParseError

from .layout import array, parse, text
from .mcs import FIRST_CHANNEL, IO_CHANNEL
from .per import Reader, per_length, read_per_length

__all__ = [
    "MAX_CHANNELS",
    "USB_ONLY",
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

_HEADER_SIZE = 4

_CORE = Struct(
    "version" / Int32ul,
    "width" / Int16ul,
    "height" / Int16ul,
    "color_depth" / Default(Int16ul, 0xCA01),
    "sas_sequence" / Default(Int16ul, 0xAA03),
    "keyboard_layout" / Int32ul,
    "build" / Int32ul,
    "name" / text(32, "utf-16-le", "replace"),
    "keyboard_type" / Default(Int32ul, 4),
    "keyboard_subtype" / Default(Int32ul, 0),
    "function_keys" / Default(Int32ul, 12),
    "ime" / Default(Bytes(64), bytes(64)),
    # a client may leave out what is below, from any field on
    "low_depth" / Default(Int16ul, 0xCA01),
    "product" / Default(Int16ul, 1),
    "serial" / Default(Int32ul, 0),
    "depth" / Int16ul,
    "depths" / Default(Int16ul, 7),
    "early_flags" / Int16ul,
    "product_id" / text(64, "utf-16-le", "replace"),
    "connection_type" / Default(Int16ul, 0),
    "selected" / Int32ul,
)
USB_ONLY = "rusb: USB only"
"""What a client that neither shows nor types calls its product, so that a server takes
it and a viewer for one client; other servers do not look."""

_MIN_CORE = 128
"""Bytes of what a client must not leave out."""

_CLIENT_FLAGS = Struct("flags" / Int32ul, "more" / Default(Optional(Int32ul), 0))
"""CS_SECURITY and CS_CLUSTER."""

_CHANNEL = Struct("name" / text(8, "ascii", "backslashreplace"), "options" / Int32ul)
_CLIENT_NETWORK = array(Int32ul, MAX_CHANNELS, _CHANNEL)
_SERVER_CORE = Struct("version" / Int32ul, "requested" / Optional(Int32ul))
_SERVER_NETWORK = Struct(
    "io_channel" / Int16ul, "channels" / array(Int16ul, MAX_CHANNELS, Int16ul)
)
_SERVER_SECURITY = Struct(
    "method" / Int32ul, "level" / Int32ul, "security" / GreedyBytes
)

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
        product_id: clientDigProductId, up to 31 characters.
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
    product_id: str = ""
    size: int = 216

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read the block behind its header.

        Raises:
            ParseError: too short, or not version 8.
        """
        if len(body) < _MIN_CORE:
            raise ParseError(f"CS_CORE of {len(body)} bytes, not {_MIN_CORE} or more")
        found = parse(_CORE, body.ljust(_CORE.sizeof(), b"\0"), "CS_CORE")
        if found.version >> 16 != 8:
            raise ParseError(f"CS_CORE of version 0x{found.version:08X}")
        return cls(
            name=found.name,
            width=found.width,
            height=found.height,
            depth=found.depth or _DEPTHS.get(found.low_depth, 0),
            build=found.build,
            version=found.version,
            keyboard_layout=found.keyboard_layout,
            early_flags=found.early_flags,
            selected=found.selected,
            product_id=found.product_id,
            size=len(body) + _HEADER_SIZE,
        )

    def serialize(self) -> bytes:
        """Return the block as rdesktop writes it, 216 bytes."""
        fields = asdict(self)
        fields |= {"name": self.name[:15], "product_id": self.product_id[:31]}
        return _block(Block.CLIENT_CORE, _CORE.build(fields))


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
                    found.methods = parse(_CLIENT_FLAGS, body, "CS_SECURITY").flags
                case Block.CLIENT_NETWORK:
                    asked = parse(_CLIENT_NETWORK, body, "CS_NET")
                    found.channels = [ChannelRequest(c.name, c.options) for c in asked]
                    found.has_network = True
                case Block.CLIENT_CLUSTER:
                    found.cluster = parse(_CLIENT_FLAGS, body, "CS_CLUSTER").flags
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
            cluster = _CLIENT_FLAGS.build({"flags": self.cluster})
            blocks += _block(Block.CLIENT_CLUSTER, cluster)
        security = _CLIENT_FLAGS.build({"flags": self.methods})
        blocks += _block(Block.CLIENT_SECURITY, security)
        if self.has_network:
            network = _CLIENT_NETWORK.build([asdict(c) for c in self.channels])
            blocks += _block(Block.CLIENT_NETWORK, network)
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
            match kind:
                case Block.SERVER_CORE:
                    core = parse(_SERVER_CORE, body, "SC_CORE")
                    found.version, found.requested = core.version, core.requested
                case Block.SERVER_NETWORK:
                    network = parse(_SERVER_NETWORK, body, "SC_NET")
                    found.io_channel = network.io_channel
                    found.channels = list(network.channels)
                    has_network = True
                case Block.SERVER_SECURITY:
                    security = parse(_SERVER_SECURITY, body, "SC_SECURITY")
                    found.method, found.level = security.method, security.level
                    found.security = security.security
        if not has_network:
            raise ParseError("no SC_NET among the server's blocks")
        return found

    def serialize(self) -> bytes:
        """Return the ConferenceCreateResponse in the original's order."""
        blocks = self.serialize_core() + self.serialize_network()
        blocks += _block(Block.SERVER_SECURITY, _SERVER_SECURITY.build(asdict(self)))
        return _RESPONSE + per_length(len(blocks)) + blocks

    def serialize_core(self) -> bytes:
        """Return SC_CORE."""
        return _block(Block.SERVER_CORE, _SERVER_CORE.build(asdict(self)))

    def serialize_network(self) -> bytes:
        """Return SC_NET, padded after an odd number of channels."""
        body = _SERVER_NETWORK.build(asdict(self))
        return _block(Block.SERVER_NETWORK, body + bytes(len(body) % 4))


def _block(kind: int, body: bytes) -> bytes:
    size = _HEADER_SIZE + len(body)
    return kind.to_bytes(2, "little") + size.to_bytes(2, "little") + body


def _split(data: bytes) -> list[tuple[int, bytes]]:
    """Split user data into blocks of (type, body)."""
    reader = Reader(data, "GCC blocks")
    found = []
    while reader.left:
        kind, size = reader.u16(), reader.u16()
        if size < _HEADER_SIZE:
            raise ParseError(f"GCC block 0x{kind:04X} of length {size}", reader.pos)
        found.append((kind, reader.take(size - _HEADER_SIZE)))
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
