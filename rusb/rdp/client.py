"""The client's end of an RDP connection (vrdp-server.md parts 1 and 8), sans-IO."""

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass

from rusb.errors import NegotiationError, RemoteProtocolError

from . import gcc, share, svc
from .connection import Connection
from .events import (
    Activated,
    ChannelOpened,
    Disconnected,
    Ignored,
    TlsRequested,
)
from .info import (
    BASE_FLAGS,
    INFO_AUTOLOGON,
    INFO_LEAVE_AUDIO,
    RDESKTOP_FOLDER,
    TLS_FOLDER,
    ClientInfo,
    serialize_info,
)
from .packets import (
    GLOBAL_CHANNEL,
    PROTOCOL_RDP,
    PROTOCOL_TLS,
    USER_BASE,
    Reader,
    connection_request,
    data_packet,
    parse_connection_confirm,
    x224_data,
)

__all__ = ["ClientConnection", "ClientSettings"]

BUILD = 2600
SEC_INFO, SEC_LICENCE, SEC_ENCRYPT = 0x0040, 0x0080, 0x0008

LICENCE_REQUEST, LICENCE_NEW, LICENCE_UPGRADE, LICENCE_ALERT = 1, 3, 4, 0xFF
LICENCE_VALID = 7

_COMPRESSION_FLAGS = 0x0280
_DISCONNECT_REQUEST = bytes.fromhex("0300000b06800000000000")


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a client says of itself; see :class:`rusb.client.config.ClientConfig`.

    Attributes:
        channels: names of static channels, in the order to ask for them.
        version: 5, or 4: no negotiation, no channels, short client info (8.6).
        wants_tls: ask for TLS; without it the session is in clear.
    """

    server: str
    user: str = ""
    domain: str = ""
    password: str = ""
    client_name: str = ""
    shell: str = ""
    directory: str = ""
    width: int = 800
    height: int = 600
    depth: int = 16
    version: int = 5
    performance_flags: int = 0x27
    console: bool = False
    compression: bool = False
    remote_sound: bool = False
    channels: tuple[str, ...] = ()
    wants_tls: bool = True
    keyboard_layout: int = 0x409
    address: str = "127.0.0.1"


class _State(enum.Enum):
    REQUESTED = enum.auto()
    TLS = enum.auto()
    CONNECTING = enum.auto()
    ATTACHING = enum.auto()
    JOINING = enum.auto()
    LICENSING = enum.auto()
    ACTIVATING = enum.auto()
    ACTIVE = enum.auto()


class ClientConnection(Connection):
    """See :class:`Connection`.

    Attributes:
        is_logged_on: the credentials were sent; whether they were liked shows later.
    """

    choice = 0x68

    def __init__(
        self, settings: ClientSettings, *, random_bytes: Callable[[int], bytes]
    ) -> None:
        super().__init__()
        self.is_logged_on = False
        self._settings = settings
        self._random_bytes = random_bytes  # for the client random of RC4
        self._state = _State.REQUESTED
        self._protocol = PROTOCOL_RDP
        self._to_join: list[int] = []
        self._granted: dict[int, str] = {}
        self._share_id = share.SHARE_ID
        self._reason: int | None = None
        self._is_deactivated = False

    # ------------------------------------------------------------ the shell ----

    def start(self) -> None:
        """Send the X.224 connection request."""
        wants_tls = self._settings.wants_tls
        asked = PROTOCOL_TLS if wants_tls else PROTOCOL_RDP
        negotiates = self._settings.version > 4 or wants_tls
        self._out.append(
            connection_request(self._settings.user, asked if negotiates else None)
        )

    def tls_started(self) -> None:
        """Go on with Connect-Initial."""
        self._wants_tls = False
        self._connect()

    def disconnect(self, reason: int = 1) -> None:
        """As rdesktop: an X.224 disconnect request, then close (1.19)."""
        if not self._is_done and self._state not in (_State.REQUESTED, _State.TLS):
            self._out.append(_DISCONNECT_REQUEST)
        self._is_done = True

    def suppress_output(self) -> None:
        """Ask the server for no pictures: this client has no window."""
        self._send_data(share.SUPPRESS_OUTPUT, bytes(4))

    # ------------------------------------------------------------- packets ----

    def _tpkt(self, packet: bytes) -> None:
        if self._state is _State.REQUESTED:
            self._confirmed(packet)
            return
        if packet[5] == 0x80:
            self._goodbye()
            return
        if packet[4:7] != b"\x02\xf0\x80" or len(packet) < 8:
            raise RemoteProtocolError(f"not X.224 data: {packet[:16].hex()}")
        body = packet[7:]
        choice = body[0] >> 2
        if self._state is _State.CONNECTING:
            self._connected(body)
        elif choice == 8:
            self._goodbye()
        elif choice == 26:
            self._data_body(body)
        elif choice == 11 and self._state is _State.ATTACHING:
            self._attached(body)
        elif choice == 15 and self._state is _State.JOINING:
            self._joined(body)
        else:
            raise RemoteProtocolError(f"MCS PDU out of turn: {body[:16].hex()}")

    def _fast_path(self, body: bytes) -> None:
        """Pictures: this client has no window."""

    def _goodbye(self) -> None:
        self._is_done = True
        is_clean = self._is_deactivated or bool(self._reason)
        self._events.append(Disconnected(self._reason, is_clean))

    def _confirmed(self, packet: bytes) -> None:
        selected = parse_connection_confirm(packet)
        if selected is None:
            selected = PROTOCOL_RDP
        if self._settings.wants_tls and selected != PROTOCOL_TLS:
            raise NegotiationError(
                f"{self._settings.server} does not offer TLS; this client does not"
                " send passwords and data in clear",
                "tls",
            )
        if selected not in (PROTOCOL_RDP, PROTOCOL_TLS):
            raise NegotiationError(f"the server chose protocol {selected}, not asked")
        self._protocol = selected
        if selected == PROTOCOL_TLS:
            self._state = _State.TLS
            self._wants_tls = True
            self._events.append(TlsRequested())
        else:
            self._connect()

    def _connect(self) -> None:
        s = self._settings
        names = s.channels if s.version > 4 else ()
        data = gcc.ClientData(
            version=4 if s.version > 4 else 1,
            width=s.width,
            height=s.height,
            depth=s.depth,
            build=BUILD,
            name=s.client_name,
            channels=tuple(gcc.Channel(name) for name in names),
            methods=0,
            selected_protocol=self._protocol,
            early_flags=1,
            cluster_flags=0x09 | (0x02 if s.console else 0),
            keyboard_layout=s.keyboard_layout,
        )
        self._out.append(gcc.connect_initial(data))
        self._state = _State.CONNECTING

    def _connected(self, body: bytes) -> None:
        server = gcc.parse_connect_response(body)
        if server.method:
            raise NegotiationError(
                f"the server wants RC4 encryption (method {server.method}), which this"
                " client does not do yet; let the server offer TLS"
            )
        names = self._settings.channels if self._settings.version > 4 else ()
        self._granted = dict(zip(server.channels, names, strict=False))
        self._out.append(x224_data(bytes.fromhex("0401000100")))  # Erect Domain
        self._out.append(x224_data(b"\x28"))  # Attach User
        self._state = _State.ATTACHING

    def _attached(self, body: bytes) -> None:
        reader = Reader(body, 1)
        if reader.u8() != 0:
            raise RemoteProtocolError("the server refused MCS Attach User")
        self._user = USER_BASE + reader.u16be()
        self._to_join = [self._user, GLOBAL_CHANNEL, *self._granted]
        self._state = _State.JOINING
        self._join_next()

    def _join_next(self) -> None:
        assert self._user is not None
        ids = struct.pack(">HH", self._user - USER_BASE, self._to_join[0])
        self._out.append(x224_data(b"\x38" + ids))

    def _joined(self, body: bytes) -> None:
        asked = self._to_join.pop(0)
        if body[1:2] != b"\0":
            if asked not in self._granted:
                raise RemoteProtocolError(f"the server refused channel {asked}")
            del self._granted[asked]
        if self._to_join:
            self._join_next()
        else:
            self._send_info()

    def _send_info(self) -> None:
        s = self._settings
        flags = BASE_FLAGS | (INFO_AUTOLOGON if s.password else 0)
        flags |= _COMPRESSION_FLAGS if s.compression else 0
        flags |= INFO_LEAVE_AUDIO if s.remote_sound else 0
        info = ClientInfo(
            s.user,
            s.domain,
            s.password,
            s.shell,
            s.directory,
            flags,
            0,
            s.address,
            # Under TLS the original server would add headers for an rdesktop (1.20).
            TLS_FOLDER if self._protocol == PROTOCOL_TLS else RDESKTOP_FOLDER,
            s.performance_flags,
        )
        body = serialize_info(info, is_version_5=s.version > 4)
        self._send_global(struct.pack("<HH", SEC_INFO, 0) + body)
        self.is_logged_on = True
        self._state = _State.LICENSING

    # ------------------------------------------------------- the I/O channel ----

    def _global(self, payload: bytes) -> None:
        if self._state is _State.LICENSING and self._is_licence(payload):
            self._licence(payload)
            return
        if not self.is_logged_on:
            raise RemoteProtocolError("data before the logon")
        for kind, body in share.split_share(payload):
            if kind == share.DEMAND_ACTIVE:
                self._demanded(body)
            elif kind == share.DEACTIVATE_ALL:
                self._is_deactivated = True
            elif kind == share.DATA:
                self._data(*share.parse_data(body))
            elif kind == share.REDIRECT:
                raise NegotiationError("the server redirects to another server")
            else:
                self._events.append(Ignored(f"share PDU of type {kind}"))

    @staticmethod
    def _is_licence(payload: bytes) -> bool:
        """Does a security header with the licence flag come first (1.11)?"""
        return len(payload) >= 8 and payload[0] & SEC_LICENCE != 0

    def _licence(self, payload: bytes) -> None:
        reader = Reader(payload)
        if reader.u16() & SEC_ENCRYPT:
            raise RemoteProtocolError("an encrypted licence without RC4")
        reader.u16()
        kind = reader.u8()
        reader.take(3)
        if kind == LICENCE_ALERT:
            code = reader.u32()
            if code != LICENCE_VALID:
                raise NegotiationError(f"the server's licensing ended with code {code}")
        elif kind == LICENCE_REQUEST:
            raise NegotiationError(
                "the server wants a client licence, which this client has not; it is a"
                " Windows terminal server, not a VRDP server"
            )
        self._state = _State.ACTIVATING

    def _demanded(self, body: bytes) -> None:
        """Demand Active: confirm and finalise, all at once (1.13)."""
        self._share_id, sets = share.parse_active(body, is_confirm=False)
        bitmap = sets.get(share.CAP_BITMAP, b"")
        s = self._settings
        self.width, self.height, self.depth = s.width, s.height, s.depth
        if len(bitmap) >= 12:
            (self.depth,) = struct.unpack_from("<H", bitmap)
            self.width, self.height = struct.unpack_from("<HH", bitmap, 8)
        self._chunk = svc.sane_chunk_size(share.chunk_size_of(sets))
        self._is_deactivated = False
        self._state = _State.ACTIVATING
        assert self._user is not None
        ours = share.client_capabilities(
            self.width,
            self.height,
            self.depth,
            svc.CHUNK_MAX,
            layout=s.keyboard_layout,
            version=s.version,
        )
        self._send_global(share.confirm_active(self._share_id, ours, self._user))
        self._send_data(share.SYNCHRONIZE, struct.pack("<HH", 1, USER_BASE + 1))
        for action in (share.CONTROL_COOPERATE, share.CONTROL_REQUEST):
            self._send_data(share.CONTROL, struct.pack("<HHI", action, 0, 0))
        self._send_data(share.FONT_LIST, struct.pack("<HHHH", 0, 0, 3, 50))

    def _data(self, kind: int, body: bytes) -> None:
        if kind == share.FONT_MAP and self._state is _State.ACTIVATING:
            self._activated()
        elif kind == share.ERROR_INFO and len(body) >= 4:
            self._reason = int.from_bytes(body[:4], "little")

    def _activated(self) -> None:
        self._state = _State.ACTIVE
        self._events.append(Activated(self.width, self.height, self.depth))
        if not self._names:
            self._open_names(self._granted)
            for channel, name in self._granted.items():
                self._events.append(ChannelOpened(channel, name))
        # rdesktop -N: lock states are told once the session is active (8.2)
        self._send_data(share.INPUT, struct.pack("<HHIHHHH", 1, 0, 0, 0, 0, 0, 0))
        self.suppress_output()

    def _send_data(self, kind: int, body: bytes) -> None:
        assert self._user is not None
        pdu = share.data_pdu(kind, body, self._user, self._share_id)
        self._out.append(data_packet(pdu, GLOBAL_CHANNEL, self._user))
