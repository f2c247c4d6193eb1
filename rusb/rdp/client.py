"""The client's end of an RDP connection (vrdp-server.md, parts 1 and 8, B.2)."""

import enum
import struct
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rusb.errors import Hint, NegotiationError, RemoteProtocolError

from . import mcs, share
from .capabilities import (
    Capabilities,
    client_sets,
    parse_demand_active,
    serialize_confirm_active,
)
from .channels import ChannelLimits
from .connection import Connection
from .cookie import Cookie
from .events import Activated, Redirected
from .gcc import USB_ONLY, ChannelRequest, ClientBlocks, ClientCore, ServerBlocks
from .info import ClientInfo, InfoFlag
from .licensing import answer_licence
from .notices import ErrorInfoReceived
from .per import Reader
from .redirection import parse_redirection
from .security import SecurityFlag, StandardSecurity, parse_header
from .share import Control, DataType, ShareData, ShareType
from .standard import (
    METHODS,
    RANDOM_SIZE,
    Encryption,
    derive_keys,
    encrypt_random,
    parse_certificate,
)
from .x224 import (
    ConnectionConfirm,
    ConnectionRequest,
    Protocol,
    disconnect_request,
    explain_failure,
)

__all__ = ["ClientConnection", "ClientSettings", "Screen"]

BUILD = 2600
_HAS_FLAGS, _IS_PART, _COMPRESSED = 0x80, 0x30, 0x20  # of fast-path output
_DRAWINGS = (1, 2)  # bitmaps, palette; the others are about orders and pointers
_LOW = 1  # encryption level: only what we send is encrypted
RDP4, RDP5 = 0x00080001, 0x00080004

CHANNEL_OPTIONS = {"cliprdr": 0xC0A00000, "rdpdr": 0x80800000}  # 8.4
DEFAULT_OPTIONS = 0xC0000000

DIRECTORY = "C:\\Windows\\System32\\mstscax.dll"


class Screen(typing.Protocol):
    """What a client shows on: ``rusb.rdp.graphics.canvas.Canvas``, for example."""

    def begin(self, width: int, height: int) -> None:
        """It has this size from now on, and nothing is drawn yet.

        Raises:
            ParseError: there are no such screens.
        """

    def draw(self, update: bytes) -> None:
        """Take the body of a bitmap or palette update.

        Raises:
            ParseError: it is malformed.
        """


@dataclass(slots=True)
class ClientSettings:
    """What a client says and asks for (8.2, 8.4).

    Attributes:
        server: name, for messages.
        user, domain, password: credentials; *domain* may end in ``@N``.
        client_name: of this machine, up to 15 characters are sent.
        address: our own address, as text; servers log it.
        shell, directory: alternate shell and working directory.
        width, height, depth: screen asked for.
        keyboard_layout: as Windows numbers them.
        version: 5, or 4 for RDP 4, which has no channels (8.6).
        performance_flags: of Client Info.
        console: ask for the console session.
        compression: say that we take compressed data; VRDP never sends any.
        remote_sound: sound stays at the server.
        wants_tls: ask for TLS and go on with nothing else; False: standard security.
        encryption: under standard security, encrypt; False: everything in clear.
        screen: gets what the server draws; None: it is asked to draw nothing.
        is_usb_only: say that this client neither shows nor types, so that a server
            takes it and a viewer beside it for one client.
        cookie: of a former connection to the server, which this one is to replace.
        channels: static channels to ask for, in this order.
        dynamic: limits of the dynamic channels that the server may open, by name; none
            without ``drdynvc`` among the static ones.
    """

    server: str = ""
    user: str = ""
    domain: str = ""
    password: str = field(default="", repr=False)
    client_name: str = ""
    address: str = ""
    shell: str = ""
    directory: str = ""
    width: int = 800
    height: int = 600
    depth: int = 16
    keyboard_layout: int = 0x409
    version: int = 5
    performance_flags: int = 0x27
    console: bool = False
    compression: bool = False
    remote_sound: bool = False
    wants_tls: bool = True
    encryption: bool = True
    screen: Screen | None = None
    is_usb_only: bool = False
    cookie: Cookie | None = None
    channels: tuple[str, ...] = ("cliprdr", "rdpsnd", "vrdpusb", "rdpdr")
    dynamic: Mapping[str, ChannelLimits] = field(default_factory=dict)


class _Phase(enum.Enum):
    NEGOTIATION = "X.224 connection confirm"
    CONNECT = "MCS Connect-Response"
    ATTACH = "attach confirm"
    JOIN = "join confirms"
    LICENCE = "licence"
    ACTIVATION = "activation"
    ACTIVE = "session"


class ClientConnection(Connection):
    """A connection to a server, from the client's side.

    Attributes:
        width, height, depth: of the server's screen, once active.
        is_logged_on: the credentials were sent.
        is_admitted: the server took them: it went on with the connection.
        encryption: what standard security does, in words; nothing under TLS.
        cookie: what to show when we come back, if the server said.
    """

    def __init__(
        self, settings: ClientSettings, *, random_bytes: Callable[[int], bytes]
    ) -> None:
        super().__init__(
            is_server=False, dynamic=settings.dynamic, random_bytes=random_bytes
        )
        self.settings = settings
        self.width, self.height = settings.width, settings.height
        self.depth = settings.depth
        self.is_logged_on = False
        self.is_admitted = False
        self.encryption = "no encryption"
        self.cookie: Cookie | None = None
        self._phase = _Phase.NEGOTIATION
        self._protocol = Protocol.RDP
        self._joins: list[int] = []
        self._reason: int | None = None
        self._share_id = share.SHARE_ID
        self._can_suppress = False
        self._exchange: tuple[bytes, StandardSecurity] | None = None

    # -------------------------------------------------------- for the shell ----

    def start(self) -> None:
        """Queue the connection request."""
        cookie = b""
        if self.settings.user:
            cookie = b"Cookie: mstshash=" + self.settings.user.encode(
                "ascii", "replace"
            )
        protocols: int | None = Protocol.RDP
        if self.settings.wants_tls:
            protocols = Protocol.TLS
        elif self._is_rdp4:
            protocols = None
        self._output.append(ConnectionRequest(cookie, protocols).serialize())

    def disconnect(self, reason: int = 1) -> None:
        """Say goodbye as rdesktop does; then close the transport.

        Args:
            reason: not sent, clients have no way to.
        """
        if not (self._is_over or self._waits_for_tls):
            self._leave_all()
            self._output.append(disconnect_request())
        self._is_over = True

    @property
    def reason(self) -> int | None:
        """The server's error-info code (8.5), if it gave one."""
        return self._reason

    # ----------------------------------------------------------- connecting ----

    @property
    def _is_rdp4(self) -> bool:
        return self.settings.version == 4

    def _connection_packet(self, body: bytes) -> None:
        if self._phase is not _Phase.NEGOTIATION:
            raise RemoteProtocolError(f"X.224 packet 0x{body[1]:02X} in the session")
        confirm = ConnectionConfirm.parse(body)
        if confirm.failure is not None:
            raise explain_failure(confirm.failure)
        self._phase = _Phase.CONNECT
        selected = confirm.selected or Protocol.RDP
        if selected not in (Protocol.RDP, Protocol.TLS):
            raise RemoteProtocolError(f"the server chose protocol {selected}")
        if self.settings.wants_tls and selected != Protocol.TLS:
            raise NegotiationError(
                "the server does not offer TLS; without it your password and data"
                " would be sent in the clear. Allow TLS at the server"
                " (Security/Method)",
                "tls",
            )
        if selected == Protocol.TLS:
            self._protocol = Protocol.TLS
            self._ask_for_tls()
        else:
            self._send_connect_initial()

    def _tls_is_up(self) -> None:
        self._send_connect_initial()

    def _send_connect_initial(self) -> None:
        asked = self.settings
        core = ClientCore(
            name=asked.client_name,
            width=asked.width,
            height=asked.height,
            depth=asked.depth,
            build=BUILD,
            version=RDP4 if self._is_rdp4 else RDP5,
            keyboard_layout=asked.keyboard_layout,
            selected=self._protocol,
            product_id=USB_ONLY if asked.is_usb_only else "",
        )
        names = () if self._is_rdp4 else asked.channels
        blocks = ClientBlocks(
            core,
            methods=self._methods,
            cluster=9 | (2 if asked.console else 0),
            channels=[_channel_request(name) for name in names],
            has_network=not self._is_rdp4,
        )
        self._output.append(mcs.serialize_connect_initial(blocks.serialize()))

    def _domain_packet(self, body: bytes) -> None:
        if not body:
            raise RemoteProtocolError("empty MCS packet")
        kind = body[0] >> 2
        if self._phase is _Phase.CONNECT:
            self._connected(body)
        elif kind == mcs.Pdu.ULTIMATUM and self._has_session:
            self._end(self._reason)
        elif kind == mcs.Pdu.ATTACH_CONFIRM and self._phase is _Phase.ATTACH:
            self._attached(mcs.Confirm.parse(body))
        elif kind == mcs.Pdu.JOIN_CONFIRM and self._phase is _Phase.JOIN:
            self._joined(mcs.Confirm.parse(body))
        else:
            raise RemoteProtocolError(
                f"MCS PDU {kind} instead of {self._phase.value}: {body[:16].hex()}"
            )

    def _connected(self, body: bytes) -> None:
        blocks = ServerBlocks.parse(mcs.parse_connect_response(body))
        self._secure(blocks)
        names = () if self._is_rdp4 else self.settings.channels
        if len(blocks.channels) > len(names):
            raise RemoteProtocolError(
                f"server granted {len(blocks.channels)} channels, asked {len(names)}"
            )
        self._io_channel = blocks.io_channel
        for channel, name in zip(blocks.channels, names, strict=False):
            if channel in (0, self._io_channel):
                self._ignore(f"channel {name} was not granted")
            elif channel in self._channels:
                raise RemoteProtocolError(f"server granted channel {channel} twice")
            else:
                self._add_channel(channel, name)
        self._has_session = True
        self._phase = _Phase.ATTACH
        self._output += [mcs.erect_domain(), mcs.attach_request()]

    @property
    def _methods(self) -> int:
        """What CS_SECURITY offers."""
        if self._protocol == Protocol.TLS or not self.settings.encryption:
            return 0
        return sum(METHODS)

    def _secure(self, blocks: ServerBlocks) -> None:
        """Get ready to encrypt as the server wants it (1.6, 1.8)."""
        method = blocks.method
        if not method and not blocks.level:
            if self._methods:
                raise NegotiationError(
                    "The server does not encrypt at all; your password and data would"
                    " be sent in the clear"
                ).hinting(Hint.ACCEPT_CLEARTEXT)
            return
        if method not in METHODS or not self._methods & method:
            raise NegotiationError(
                f"the server insists on encryption method 0x{method:X}, which is not"
                " supported. Allow TLS at the server (Security/Method)"
            )
        reader = Reader(blocks.security, "SC_SECURITY")
        sizes = reader.u32(), reader.u32()
        if sizes[0] != RANDOM_SIZE:
            raise RemoteProtocolError(f"server random of {sizes[0]} bytes, not 32")
        server_random = reader.take(RANDOM_SIZE)
        modulus, exponent = parse_certificate(reader.take(sizes[1]))
        client_random = self._random_bytes(RANDOM_SIZE)
        keys = derive_keys(client_random, server_random, method)
        is_low = blocks.level == _LOW
        security = StandardSecurity(keys, method, is_server=False, is_low=is_low)
        what = ", but not what the server sends" if is_low else ""
        self.encryption = Encryption(method).label + what
        sealed = encrypt_random(client_random, modulus, exponent)
        self._exchange = struct.pack("<I", len(sealed)) + sealed, security

    def _attached(self, confirm: mcs.Confirm) -> None:
        if confirm.result != 0:
            raise NegotiationError(
                f"the server refused the MCS user: result {confirm.result}"
            )
        if confirm.initiator > mcs.MAX_INITIATOR:
            raise RemoteProtocolError(f"MCS user {confirm.initiator} has no channel")
        initiator = self._sender.initiator = confirm.initiator
        user = mcs.USER_BASE + initiator
        self._joins = [user, self._io_channel, *self._channels]
        for channel in self._joins:
            self._output.append(mcs.join_request(initiator, channel))
        self._phase = _Phase.JOIN

    def _joined(self, confirm: mcs.Confirm) -> None:
        channel = self._joins.pop(0)
        if confirm.result != 0:
            if self._channels.pop(channel, None) is None:
                raise NegotiationError(
                    f"the server refused MCS channel {channel}: result {confirm.result}"
                )
            self._ignore(f"join of channel {channel} refused: {confirm.result}")
        elif confirm.channel != channel:
            raise RemoteProtocolError(f"joined {confirm.channel}, asked for {channel}")
        if not self._joins:
            if self._exchange is not None:
                message, security = self._exchange
                self._send_io(message, SecurityFlag.EXCHANGE)
                self._security, self._exchange = security, None
            self._send_io(self._info().serialize(), SecurityFlag.INFO)
            self.is_logged_on = True
            self._phase = _Phase.LICENCE

    def _info(self) -> ClientInfo:
        asked = self.settings
        flags = InfoFlag.RDESKTOP
        flags |= InfoFlag.AUTOLOGON if asked.password else 0
        flags |= InfoFlag.COMPRESSION if asked.compression else 0
        flags |= InfoFlag.REMOTE_SOUND if asked.remote_sound else 0
        return ClientInfo(
            flags=flags,
            domain=asked.domain,
            user=asked.user,
            password=asked.password,
            shell=asked.shell,
            directory=asked.directory,
            address=asked.address,
            # B.2: as "rdesktop" without RC4 we would get security headers for ever
            client_directory=DIRECTORY,
            performance=asked.performance_flags,
            # without TLS it would need the client random
            cookie=asked.cookie.show() if asked.cookie and asked.wants_tls else b"",
            is_extended=not self._is_rdp4,
        )

    # ----------------------------------------------------------- activation ----

    def _licence(self, payload: bytes) -> bool:
        """Handle the licence step; False if it was skipped by the server."""
        flags, body = parse_header(payload)
        if not self._security.is_encrypted and flags == len(payload):
            return False  # 1.20: that is a length, so no header
        if flags & SecurityFlag.REDIRECTION:
            raise NegotiationError(
                "the server redirects to another server, which is not supported"
            )
        if not flags & SecurityFlag.LICENCE:
            return False
        self.is_admitted = True
        if flags & SecurityFlag.ENCRYPT:  # 1.11: here alone it may be in clear
            _, body = self._security.unwrap(payload)
        answer = answer_licence(
            body,
            user=self.settings.user,
            machine=self.settings.client_name,
            random_bytes=self._random_bytes,
        )
        if answer is not None:
            self._send_io(answer, SecurityFlag.LICENCE)
        return True

    def _demand_active(self, body: bytes) -> None:
        share_id, sets = parse_demand_active(body)
        self.is_admitted = True
        found = Capabilities.of(sets)
        self.width = found.width or self.width
        self.height = found.height or self.height
        self.depth = found.depth or self.depth
        self._sender.chunk_size = found.chunk_size
        ours = client_sets(
            *(self.width, self.height, self.depth),
            keyboard_layout=self.settings.keyboard_layout,
            is_rdp4=self._is_rdp4,
        )
        answer = serialize_confirm_active(share_id, ours)
        user = mcs.USER_BASE + self._sender.initiator
        self._send_io(share.share_control(ShareType.CONFIRM_ACTIVE, answer, user))
        self._share_id = share_id
        self._can_suppress = found.has_suppress_output
        self._send_data(DataType.SYNCHRONIZE, share.synchronize(share.SERVER_USER))
        self._send_data(DataType.CONTROL, share.control(Control.COOPERATE))
        self._send_data(DataType.CONTROL, share.control(Control.REQUEST))
        for sequence in (1, 2) if self._is_rdp4 else (3,):
            self._send_data(DataType.FONT_LIST, share.font_list(sequence))
        self._phase = _Phase.ACTIVATION

    def _activated(self) -> None:
        if self._phase is not _Phase.ACTIVATION:
            return
        self._phase = _Phase.ACTIVE
        screen = self.settings.screen
        if screen is not None:
            screen.begin(self.width, self.height)
        self._events.append(Activated(self.width, self.height, self.depth))
        self._open_channels()
        if screen is None and self._can_suppress:
            self._send_data(DataType.SUPPRESS_OUTPUT, bytes(4))

    # -------------------------------------------------------------- session ----

    def _io_payload(self, payload: bytes) -> None:
        if not self.is_logged_on:
            raise RemoteProtocolError(f"data before {_Phase.LICENCE.value}")
        if self._phase is _Phase.LICENCE and self._licence(payload):
            return
        share_pdus = self._security.unwrap_share(payload)
        self._sender.prefix = self._security.prefix
        for kind, _, body in share.split_share(share_pdus):
            if self._is_over:
                return
            match kind:
                case ShareType.DEMAND_ACTIVE:
                    self._demand_active(body)
                case ShareType.DEACTIVATE_ALL:
                    self._deactivated()
                case ShareType.DATA:
                    self._share_data(ShareData.parse(body))
                case ShareType.REDIRECTION:
                    self._redirected(body)
                case _:
                    self._ignore(f"share PDU {kind}")

    def _redirected(self, body: bytes) -> None:
        """The machine runs at another host; a broker's redirection comes sooner, and
        names a session there."""
        if self._phase is not _Phase.ACTIVE:
            raise NegotiationError(
                "the server redirects to another server, which is not supported"
            )
        self._events.append(Redirected(parse_redirection(body)))
        self._end()

    def _deactivated(self) -> None:
        """A change of size follows, unless an error-info code came before."""
        if self._reason:
            self._end(self._reason)

    def _share_data(self, pdu: ShareData) -> None:
        if pdu.is_compressed:
            self._ignore(f"compressed share data PDU {pdu.type}")
            return
        match pdu.type:
            case DataType.FONT_MAP:
                self._activated()
            case DataType.ERROR_INFO:
                if len(pdu.body) < 4:
                    raise RemoteProtocolError(f"error info of {len(pdu.body)} bytes")
                self._reason = int.from_bytes(pdu.body[:4], "little")
                self._events.append(ErrorInfoReceived(self._reason))
            case DataType.UPDATE:
                self._draw(pdu.body)
            case DataType.SAVE_SESSION_INFO:
                self.cookie = Cookie.parse(pdu.body) or self.cookie
            case DataType.SHUTDOWN_DENIED | DataType.MONITOR_LAYOUT:
                self._ignore(f"share data PDU {pdu.type}")
            case _:
                pass  # synchronize, control, pointers: nobody looks

    def _fast_path(self, head: int, body: bytes) -> None:
        if self.settings.screen is None:
            return
        reader = Reader(body, "fast-path output")
        while reader.left:
            code = reader.u8()
            flags = reader.u8() if code & _HAS_FLAGS else 0
            update = reader.take(reader.u16())
            if flags & _COMPRESSED or code & _IS_PART:
                self._ignore(f"update 0x{code:02X}: compressed or cut into parts")
            elif code & 0x0F in _DRAWINGS:
                self._draw(update)

    def _draw(self, update: bytes) -> None:
        """Hand on an update, but for what comes between two sizes."""
        screen = self.settings.screen
        if screen is not None and self._phase is _Phase.ACTIVE:
            screen.draw(update)

    def _send_data(self, kind: int, body: bytes) -> None:
        user = mcs.USER_BASE + self._sender.initiator
        self._send_io(share.share_data(kind, body, user, self._share_id))


def _channel_request(name: str) -> ChannelRequest:
    options = CHANNEL_OPTIONS.get(name.lower(), DEFAULT_OPTIONS)
    return ChannelRequest(name[:7], options)
