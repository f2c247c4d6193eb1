"""GCC conference create and the client's and server's data blocks.

vrdp-server.md 1.5, 1.6 and 8.4; MS-RDPBCGR 2.2.1.3 and 2.2.1.4. Little-endian.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rusb.errors import ParseError

from .packets import Reader, ber, x224_data

__all__ = [
    "Channel",
    "ClientData",
    "ServerData",
    "connect_initial",
    "connect_response",
    "parse_connect_initial",
    "parse_connect_response",
]

MAX_CHANNELS = 31
"""MS-RDPBCGR 2.2.1.3.4."""

CONNECT_INITIAL, CONNECT_RESPONSE = 0x7F65, 0x7F66
CS_CORE, CS_SECURITY, CS_NET, CS_CLUSTER = 0xC001, 0xC002, 0xC003, 0xC004
SC_CORE, SC_SECURITY, SC_NET = 0x0C01, 0x0C02, 0x0C03

_REQUEST = bytes.fromhex("000500147c0001")  # T.124 object and length of the rest
_REQUEST_KEY = bytes.fromhex("000800100001c000") + b"Duca"
_RESPONSE = bytes.fromhex("000500147c00012a14760a01010001c0004d63446e")

_CORE = struct.Struct("<IHHHHII32sIII64sHHIHHH64sBBI")
_CHANNEL = struct.Struct("<8sI")
_BLOCK = struct.Struct("<HH")

CHANNEL_INITIALIZED, CHANNEL_ENCRYPT, CHANNEL_SHOW_PROTOCOL = (
    0x80000000,
    0x40000000,
    0x00200000,
)


@dataclass(frozen=True, slots=True)
class Channel:
    """A static channel as a client asks for it."""

    name: str
    options: int = CHANNEL_INITIALIZED | CHANNEL_ENCRYPT


@dataclass(frozen=True, slots=True)
class ClientData:
    """What the client's blocks say.

    Attributes:
        version: low half of the core version: 1 RDP 4, 4 RDP 5 and later.
        depth: bits per pixel that the session gets.
        build: clientBuild.
        methods: encryptionMethods.
        selected_protocol: serverSelectedProtocol.
        early_flags: earlyCapabilityFlags.
        unknown: types of the blocks that were skipped.
        is_old_rdesktop: a core block of 212 bytes: rdesktop before 1.8 (1.20).
    """

    version: int
    width: int
    height: int
    depth: int
    build: int
    name: str
    channels: tuple[Channel, ...] = ()
    methods: int = 0
    selected_protocol: int = 0
    early_flags: int = 0
    cluster_flags: int = 0
    keyboard_layout: int = 0x409
    unknown: tuple[int, ...] = ()
    is_old_rdesktop: bool = False


@dataclass(frozen=True, slots=True)
class ServerData:
    """What the server's blocks say.

    Attributes:
        version: low half of the core version.
        channels: MCS ids in the order the client asked.
        method: encryption method, 0 for none.
        requested_protocols: as the server saw them; None in the short core block.
    """

    channels: tuple[int, ...]
    version: int = 4
    io_channel: int = 1003
    method: int = 0
    level: int = 0
    requested_protocols: int | None = None


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, body) of each block (T04: a block advances by 4 at least)."""
    offset = 0
    while offset + _BLOCK.size <= len(data):
        kind, length = _BLOCK.unpack_from(data, offset)
        if length < _BLOCK.size or offset + length > len(data):
            raise ParseError(
                f"GCC block {kind:#06x} of {length} bytes, have {len(data) - offset}",
                offset,
            )
        yield kind, data[offset + _BLOCK.size : offset + length]
        offset += length


def _block(kind: int, body: bytes) -> bytes:
    return _BLOCK.pack(kind, _BLOCK.size + len(body)) + body


# ------------------------------------------------------------------ client ----


def client_blocks(data: ClientData) -> bytes:
    """The blocks that rdesktop sends, channel options in little-endian (8.4)."""
    core = _CORE.pack(
        0x00080000 | data.version,
        data.width,
        data.height,
        0xCA01,
        0xAA03,
        data.keyboard_layout,
        data.build,
        data.name[:15].encode("utf-16-le").ljust(32, b"\0"),
        4,
        0,
        12,
        bytes(64),
        0xCA01,
        1,
        0,
        data.depth,
        7,
        data.early_flags,
        bytes(64),
        0,
        0,
        data.selected_protocol,
    )
    found = _block(CS_CORE, core)
    found += _block(CS_CLUSTER, struct.pack("<II", data.cluster_flags, 0))
    found += _block(CS_SECURITY, struct.pack("<II", data.methods, 0))
    if data.channels:
        entries = b"".join(
            _CHANNEL.pack(c.name.encode("ascii")[:7], c.options) for c in data.channels
        )
        found += _block(CS_NET, struct.pack("<I", len(data.channels)) + entries)
    return found


def gcc_request(blocks: bytes) -> bytes:
    """A ConferenceCreateRequest; lengths always in two bytes, as rdesktop does."""
    key = _REQUEST_KEY + (0x8000 | len(blocks)).to_bytes(2, "big") + blocks
    return _REQUEST + (0x8000 | len(key)).to_bytes(2, "big") + key


def _domain(*values: int) -> bytes:
    body = b""
    for value in values:
        size = max(1, (value.bit_length() + 8) // 8)
        body += ber(0x02, value.to_bytes(size, "big"))
    return ber(0x30, body)


def connect_initial(data: ClientData) -> bytes:
    """The whole MCS Connect-Initial packet."""
    body = ber(0x04, b"\1") + ber(0x04, b"\1") + ber(0x01, b"\xff")
    body += _domain(34, 2, 0, 1, 0, 1, 0xFFFF, 2)
    body += _domain(1, 1, 1, 1, 0, 1, 0x420, 2)
    body += _domain(0xFFFF, 0xFC17, 0xFFFF, 1, 0, 1, 0xFFFF, 2)
    body += ber(0x04, gcc_request(client_blocks(data)))
    return x224_data(ber(CONNECT_INITIAL, body))


def parse_connect_initial(body: bytes) -> ClientData:
    """Read a Connect-Initial, from its BER tag on.

    Raises:
        ParseError: it does not hold together, or lacks CS_CORE.
    """
    reader = Reader(body).ber(CONNECT_INITIAL)
    for tag in (0x04, 0x04, 0x01, 0x30, 0x30, 0x30):
        reader.ber(tag)
    user_data = reader.ber(0x04)
    return parse_gcc_request(user_data.rest())


def parse_gcc_request(data: bytes) -> ClientData:
    """Read a ConferenceCreateRequest with the client's blocks."""
    reader = Reader(data)
    if reader.take(len(_REQUEST)) != _REQUEST:
        raise ParseError("not a GCC conference create request")
    reader.per()
    if reader.take(len(_REQUEST_KEY)) != _REQUEST_KEY:
        raise ParseError("GCC request without the key Duca")
    length = reader.per()
    if length > reader.left:
        raise ParseError(f"GCC user data of {length} bytes, have {reader.left}")
    return _parse_client_blocks(reader.take(length))


def _parse_client_blocks(data: bytes) -> ClientData:
    core: bytes | None = None
    methods = cluster = 0
    channels: tuple[Channel, ...] = ()
    unknown = []
    for kind, body in _blocks(data):
        if kind == CS_CORE:
            core = body
        elif kind == CS_SECURITY and len(body) >= 4:
            methods = int.from_bytes(body[:4], "little")
        elif kind == CS_NET:
            channels = _parse_channels(body)
        elif kind == CS_CLUSTER and len(body) >= 4:
            cluster = int.from_bytes(body[:4], "little")
        else:
            unknown.append(kind)
    if core is None or len(core) < 128:
        raise ParseError("CS_CORE is missing or too short")
    padded = core.ljust(_CORE.size, b"\0")
    fields = _CORE.unpack_from(padded)
    if fields[0] >> 16 != 8:
        raise ParseError(f"client core version {fields[0]:#010x}")
    depth = fields[15]
    if len(core) < 136 or not depth:
        depth = {0xCA01: 8, 0xCA02: 15, 0xCA03: 16, 0xCA04: 24}.get(fields[12], 8)
    if depth not in (8, 15, 16, 24, 32):
        raise ParseError(f"colour depth {depth}")
    return ClientData(
        version=fields[0] & 0xFFFF,
        width=fields[1],
        height=fields[2],
        depth=depth,
        build=fields[6],
        name=fields[7].decode("utf-16-le", "replace").partition("\0")[0],
        channels=channels,
        methods=methods,
        selected_protocol=fields[21],
        early_flags=fields[17] if len(core) >= 142 else 0,
        cluster_flags=cluster,
        keyboard_layout=fields[5],
        unknown=tuple(unknown),
        is_old_rdesktop=len(core) == 208,
    )


def _parse_channels(body: bytes) -> tuple[Channel, ...]:
    if len(body) < 4:
        raise ParseError(f"CS_NET of {len(body)} bytes")
    count = int.from_bytes(body[:4], "little")
    if count > MAX_CHANNELS or 4 + count * _CHANNEL.size > len(body):
        raise ParseError(f"CS_NET claims {count} channels in {len(body)} bytes")
    found = []
    for name, options in _CHANNEL.iter_unpack(body[4 : 4 + count * _CHANNEL.size]):
        text = name.partition(b"\0")[0].decode("ascii", "replace")
        found.append(Channel(text, options))
    return tuple(found)


# ------------------------------------------------------------------ server ----


def server_blocks(data: ServerData) -> bytes:
    """The blocks of the server in the order of 1.6."""
    core = struct.pack("<I", 0x00080000 | data.version)
    if data.requested_protocols is not None:
        core += struct.pack("<I", data.requested_protocols)
    ids = data.channels
    net = struct.pack(f"<HH{len(ids)}H", data.io_channel, len(ids), *ids)
    net += bytes(len(ids) % 2 * 2)
    security = struct.pack("<II", data.method, data.level)
    return _block(SC_CORE, core) + _block(SC_NET, net) + _block(SC_SECURITY, security)


def connect_response(blocks: bytes) -> bytes:
    """The whole MCS Connect-Response packet around the server's *blocks*."""
    gcc = _RESPONSE + (0x8000 | len(blocks)).to_bytes(2, "big") + blocks
    domain = bytes.fromhex("301a0201220201030201000201010201000201010203") + (
        b"\x00\xff\xf8\x02\x01\x02"
    )
    body = ber(0x0A, b"\0") + ber(0x02, b"\0") + domain + ber(0x04, gcc)
    return x224_data(ber(CONNECT_RESPONSE, body))


def parse_connect_response(body: bytes) -> ServerData:
    """Read a Connect-Response, from its BER tag on.

    Raises:
        ParseError: it does not hold together, or says that it failed.
    """
    reader = Reader(body).ber(CONNECT_RESPONSE)
    result = reader.ber(0x0A).rest()
    if result != b"\0":
        raise ParseError(f"MCS Connect-Response with result {result.hex()}")
    reader.ber(0x02)
    reader.ber(0x30)
    user_data = reader.ber(0x04)
    head = user_data.take(len(_RESPONSE))
    if head[:7] != _RESPONSE[:7]:
        raise ParseError("not a GCC conference create response")
    length = user_data.per()
    if length > user_data.left:
        raise ParseError(f"GCC user data of {length} bytes, have {user_data.left}")
    return _parse_server_blocks(user_data.take(length))


def _parse_server_blocks(data: bytes) -> ServerData:
    version, method, level, io_channel = 4, 0, 0, 1003
    requested: int | None = None
    ids: Sequence[int] = ()
    for kind, body in _blocks(data):
        reader = Reader(body)
        if kind == SC_CORE:
            version = reader.u32() & 0xFFFF
            requested = reader.u32() if reader.left >= 4 else None
        elif kind == SC_NET:
            io_channel, count = reader.u16(), reader.u16()
            if count > MAX_CHANNELS:
                raise ParseError(f"SC_NET grants {count} channels")
            ids = [reader.u16() for _ in range(count)]
        elif kind == SC_SECURITY:
            method, level = reader.u32(), reader.u32()
    return ServerData(tuple(ids), version, io_channel, method, level, requested)


__all__ += ["client_blocks", "gcc_request", "parse_gcc_request", "server_blocks"]
