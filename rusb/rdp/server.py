"""The server's end of an RDP connection (vrdp-server.md part 1), sans-IO."""

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass

from rusb.errors import LocalProtocolError, NegotiationError, RemoteProtocolError

from . import gcc, share, svc
from .bitmaps import Picture, bitmap_updates
from .connection import Connection
from .events import (
    Activated,
    ChannelOpened,
    ClientDescription,
    Credentials,
    Disconnected,
    Ignored,
    LogonRequested,
    Noted,
    RefreshRequested,
    TlsRequested,
)
from .info import RDESKTOP_FOLDER, ClientInfo, parse_info, split_screen
from .packets import (
    FAILURES,
    GLOBAL_CHANNEL,
    PROTOCOL_RDP,
    PROTOCOL_TLS,
    USER_BASE,
    Negotiation,
    Reader,
    connection_confirm,
    data_packet,
    parse_connection_request,
    x224_data,
)

__all__ = ["ServerConnection", "ServerSettings", "select_security"]

FIRST_CHANNEL = 1004
USER_CHANNEL = 1002
INITIATOR = USER_CHANNEL - USER_BASE

RECOGNISED = frozenset(("cliprdr", "rdpsnd", "vrdpusb", "drdynvc", "rdpdr"))

MAX_DESKTOP = 8192
"""Pixels in each direction; what a client claims is cut to it."""

LICENCE_VALID = bytes.fromhex("80000000ff031000070000000200000004000000")
"""Header flags exactly 0x0080 (1.11)."""

SEC_INFO = 0x0040
SEC_ENCRYPT = 0x0008

_ULTIMATUM = x224_data(b"\x20\x80")


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What a server allows.

    Attributes:
        methods: subset of ``{"RDP", "TLS"}``. Without RC4, which is not there yet,
            RDP means: no encryption.
        has_certificate: TLS can be done.
    """

    methods: frozenset[str] = frozenset(("TLS",))
    has_certificate: bool = True


def select_security(
    negotiation: Negotiation, methods: frozenset[str], *, has_certificate: bool
) -> tuple[int, int]:
    """Return (selected protocol, failure code; 0 for none) as of 1.3.

    Where both methods are allowed and there is no certificate, TLS fails with 3.
    """
    if negotiation.protocols & PROTOCOL_TLS:
        if "TLS" not in methods:
            return PROTOCOL_RDP, 2
        return PROTOCOL_TLS, 0 if has_certificate else 3
    if negotiation.protocols == 0 and "RDP" in methods:
        return PROTOCOL_RDP, 0
    return PROTOCOL_RDP, 1


class _State(enum.Enum):
    REQUEST = enum.auto()
    TLS = enum.auto()
    CONNECT = enum.auto()
    JOINING = enum.auto()
    LOGON = enum.auto()
    ACTIVATING = enum.auto()
    ACTIVE = enum.auto()


class ServerConnection(Connection):
    """See :class:`Connection`; after ``LogonRequested`` call :meth:`accept_logon`."""

    choice = 0x64

    def __init__(
        self, settings: ServerSettings, *, random_bytes: Callable[[int], bytes]
    ) -> None:
        super().__init__()
        self.output_suppressed = False
        self._settings = settings
        self._random_bytes = random_bytes  # for the server random of RC4
        self._state = _State.REQUEST
        self._negotiation = Negotiation(False, 0, b"")
        self._client: gcc.ClientData | None = None
        self._channels: dict[int, str] = {}
        self._fast_output = False
        self._is_rdesktop = False
        self._was_active = False

    # ------------------------------------------------------------ the shell ----

    def start(self) -> None:
        """The client speaks first."""

    def tls_started(self) -> None:
        """Go on with Connect-Initial."""
        self._wants_tls = False
        self._state = _State.CONNECT
        self._events.append(Noted("TLS is up."))

    def accept_logon(self) -> None:
        """Let the client in: licence, then Demand Active (1.10)."""
        if self._state is not _State.LOGON:
            raise LocalProtocolError("nobody asked for a logon")
        self._send_global(LICENCE_VALID)
        self._activate()

    def disconnect(self, reason: int = 1) -> None:
        """Error info, Deactivate All, ultimatum (1.19)."""
        if self._is_done:
            return
        if self._state is _State.ACTIVE:
            self._send_data(share.ERROR_INFO, struct.pack("<I", reason))
            self._send_global(share.deactivate_all())
        if self._state in (_State.ACTIVE, _State.ACTIVATING):
            self._out.append(_ULTIMATUM)
        self._is_done = True

    def keepalive(self) -> None:
        """A Synchronize, as the original sends when idle (1.1)."""
        if self._state is _State.ACTIVE:
            self._send_data(share.SYNCHRONIZE, struct.pack("<HH", 1, 0))

    def resize(self, width: int, height: int) -> None:
        """Activate again with another desktop (1.17)."""
        if self._state is _State.ACTIVE:
            self.width, self.height = width, height
            if not self._is_rdesktop:
                self._send_global(share.deactivate_all())
            self._activate()

    def show_screen(self, picture: Picture) -> None:
        """Send a whole picture in the session's depth."""
        if self._state is not _State.ACTIVE or self.output_suppressed:
            return
        for update in bitmap_updates(picture):
            if not self._fast_output:
                self._send_data(share.UPDATE, update)
                continue
            # update type 1 is in the header of the fast path, not in the data
            body = struct.pack("<BH", 1, len(update) - 2) + update[2:]
            length = len(body) + 3
            self._out.append(b"\0" + (0x8000 | length).to_bytes(2, "big") + body)

    # ------------------------------------------------------------- packets ----

    def _tpkt(self, packet: bytes) -> None:
        if self._state is _State.REQUEST:
            self._request(packet)
            return
        if packet[5] == 0x80:  # X.224 disconnect request (1.19)
            self._goodbye(clean=True)
            return
        if packet[4:7] != b"\x02\xf0\x80" or len(packet) < 8:
            raise RemoteProtocolError(f"not X.224 data: {packet[:16].hex()}")
        body = packet[7:]
        if self._state is _State.CONNECT:
            self._connect(body)
            return
        choice = body[0] >> 2
        if choice == 25:
            self._data_body(body)
        elif choice == 14:
            self._join(body)
        elif choice == 10:
            self._out.append(x224_data(b"\x2e\0" + INITIATOR.to_bytes(2, "big")))
        elif choice == 8:
            self._goodbye(clean=True)
        elif choice != 1:  # ErectDomain: whatever it says (rdesktop adds a byte)
            raise RemoteProtocolError(f"MCS PDU {body[:16].hex()}")

    def _request(self, packet: bytes) -> None:
        """X.224 connection request (1.3)."""
        self._negotiation = parse_connection_request(packet)
        selected, failure = select_security(
            self._negotiation,
            self._settings.methods,
            has_certificate=self._settings.has_certificate,
        )
        self._out.append(
            connection_confirm(self._negotiation, selected=selected, failure=failure)
        )
        if failure:
            self._is_done = True
            raise NegotiationError(f"refused a client: {FAILURES[failure]}")
        if selected == PROTOCOL_TLS:
            self._state = _State.TLS
            self._wants_tls = True
            self._events.append(Noted("Using enhanced RDP security (TLS)."))
            self._events.append(TlsRequested())
        else:
            self._state = _State.CONNECT
            self._events.append(Noted("Using standard RDP security."))

    def _connect(self, body: bytes) -> None:
        """MCS Connect-Initial (1.5)."""
        client = self._client = gcc.parse_connect_initial(body)
        if self._state is _State.CONNECT and not self._is_tls and client.methods:
            raise NegotiationError(
                "the client wants RC4 encryption, which this server does not do yet;"
                " use TLS"
            )
        self._events.append(Noted(f"Methods 0x{client.methods:08x}"))
        self.width = min(max(client.width & ~3, 64), MAX_DESKTOP)
        self.height = min(max(client.height, 64), MAX_DESKTOP)
        self.depth = client.depth
        for number, channel in enumerate(client.channels):
            name, channel_id = channel.name, FIRST_CHANNEL + number
            self._channels[channel_id] = name
            known = name.lower() in RECOGNISED
            word = "Accepted" if known else "Not supported"
            self._events.append(Noted(f"Channel: [{name}] [{channel_id}]. {word}."))
        for kind in client.unknown:
            self._events.append(Noted(f"GCC block 0x{kind:04X} is not supported."))
        requested = self._negotiation.protocols if self._negotiation.present else None
        data = gcc.ServerData(tuple(self._channels), requested_protocols=requested)
        self._out.append(gcc.connect_response(gcc.server_blocks(data)))
        self._state = _State.JOINING

    @property
    def _is_tls(self) -> bool:
        return self._negotiation.protocols & PROTOCOL_TLS != 0

    def _join(self, body: bytes) -> None:
        """Channel join: ours are confirmed, others refused (T03)."""
        reader = Reader(body, 1)
        reader.u16be()
        channel = reader.u16be()
        known = channel in self._channels or channel in (GLOBAL_CHANNEL, USER_CHANNEL)
        # With result 0x0F (rt-no-such-channel) nothing follows the request's id.
        head = b"\x3e\0" if known else b"\x3d\xe0"
        ids = channel.to_bytes(2, "big") * (2 if known else 1)
        self._out.append(x224_data(head + INITIATOR.to_bytes(2, "big") + ids))

    def _fast_path(self, body: bytes) -> None:
        """Fast-path input: accepted and not used."""
        if self._state is not _State.ACTIVE:
            raise RemoteProtocolError("fast-path input before activation")

    def _goodbye(self, *, clean: bool) -> None:
        self._is_done = True
        self._events.append(Disconnected(0, clean))

    # ------------------------------------------------------- the I/O channel ----

    def _global(self, payload: bytes) -> None:
        if self._state is _State.JOINING:
            self._client_info(payload)
            return
        if self._state in (_State.LOGON, _State.REQUEST):
            self._events.append(Ignored("data before the logon was accepted"))
            return
        for kind, body in share.split_share(payload):
            if kind == share.CONFIRM_ACTIVE:
                self._confirm(body)
            elif kind == share.DATA:
                self._data(*share.parse_data(body))
            else:
                self._events.append(Ignored(f"share PDU of type {kind}"))

    def _client_info(self, payload: bytes) -> None:
        reader = Reader(payload)
        flags = reader.u16()
        reader.u16()
        if flags & SEC_ENCRYPT:
            raise RemoteProtocolError("an encrypted client info without RC4")
        if not flags & SEC_INFO:
            self._events.append(Ignored(f"PDU with security flags {flags:#x}"))
            return
        info = parse_info(reader.rest())
        assert self._client is not None
        self._is_rdesktop = is_rdesktop(info, self._client.build)
        kind = "rdesktop" if self._is_rdesktop else "MSFT"
        self._events.append(Noted(f"Client type: {kind}"))
        size = f"{self.width}x{self.height}, {self.depth} bits per pixel"
        self._events.append(Noted(f"Desktop {size}"))
        domain, screen = split_screen(info.domain)
        client = ClientDescription(
            self._client.name, info.address, self._client.build, kind
        )
        self._state = _State.LOGON
        credentials = Credentials(info.user, domain, info.password, screen)
        self._events.append(LogonRequested(credentials, client))

    def _activate(self) -> None:
        self._state = _State.ACTIVATING
        sets = share.server_capabilities(
            self.width, self.height, self.depth, svc.CHUNK_MAX
        )
        self._send_global(share.demand_active(sets))

    def _confirm(self, body: bytes) -> None:
        _, sets = share.parse_active(body, is_confirm=True)
        general = sets.get(share.CAP_GENERAL, b"")
        extra = int.from_bytes(general[10:12], "little")
        self._fast_output = extra & share.EXTRA_FAST_PATH != 0
        self._chunk = svc.sane_chunk_size(share.chunk_size_of(sets))

    def _data(self, kind: int, body: bytes) -> None:
        if kind == share.SYNCHRONIZE:
            if self._state is _State.ACTIVATING:
                self._send_data(kind, body[:4].ljust(4, b"\0"))
        elif kind == share.CONTROL:
            self._control(Reader(body).u16())
        elif kind == share.FONT_LIST:
            reader = Reader(body)
            reader.u32()
            if reader.u16() >= 2 and self._state is _State.ACTIVATING:
                self._send_data(share.FONT_MAP, struct.pack("<HHHH", 0, 0, 3, 4))
                self._activated()
        elif kind == share.SHUTDOWN_REQUEST:
            self.disconnect(0)
            self._events.append(Disconnected(0, True))
        elif kind == share.SUPPRESS_OUTPUT and body:
            self.output_suppressed = body[0] == 0
            if body[0]:
                self._events.append(RefreshRequested())
        elif kind == share.REFRESH_RECT:
            self._events.append(RefreshRequested())
        elif kind not in (share.INPUT, share.PERSISTENT_LIST):
            self._events.append(Ignored(f"data PDU of type {kind}"))

    def _control(self, action: int) -> None:
        if action == share.CONTROL_COOPERATE:
            answer = struct.pack("<HHI", share.CONTROL_COOPERATE, 0, 0)
        elif action == share.CONTROL_REQUEST:
            answer = struct.pack(
                "<HHI", share.CONTROL_GRANTED, USER_CHANNEL, share.SERVER_SOURCE
            )
        else:
            return
        self._send_data(share.CONTROL, answer)

    def _activated(self) -> None:
        self._state = _State.ACTIVE
        self._events.append(Activated(self.width, self.height, self.depth))
        if not self._was_active:
            self._was_active = True
            self._open_names(self._channels)
            for channel, name in self._channels.items():
                self._events.append(ChannelOpened(channel, name))

    def _send_data(self, kind: int, body: bytes) -> None:
        self._out.append(
            data_packet(
                share.data_pdu(kind, body, share.SERVER_SOURCE), GLOBAL_CHANNEL, None
            )
        )


def is_rdesktop(info: ClientInfo, build: int) -> bool:
    """Guess the client type as the original does (1.9)."""
    return (
        info.flags < 0x4000
        and info.folder == RDESKTOP_FOLDER
        and build <= 2600
        and info.code_page == 0
    )
