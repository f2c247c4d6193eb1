"""The server's end of an RDP connection (vrdp-server.md, part 1)."""

import enum
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rusb.errors import LocalProtocolError, NegotiationError, RemoteProtocolError

from . import mcs, notices, share
from .capabilities import (
    Capabilities,
    parse_confirm_active,
    serialize_demand_active,
    server_sets,
)
from .channels import ChannelLimits
from .connection import Connection
from .cookie import Cookie
from .events import (
    Activated,
    ClientDescription,
    Credentials,
    Input,
    LogonRequested,
    RefreshRequested,
)
from .gcc import USB_ONLY, ClientBlocks, ClientCore, ServerBlocks
from .graphics.framing import fast_updates, slow_update
from .graphics.pointers import PointerLimits
from .graphics.updates import (
    CLIP_RESET,
    Compression,
    Form,
    Update,
    palette_update,
)
from .info import ClientInfo, split_screen
from .input import InputReader
from .licensing import VALID_CLIENT
from .per import Reader
from .redirection import may_be_said, redirection, takes_redirection
from .security import (
    HEADER_SIZE,
    Method,
    PlainSecurity,
    SecurityFlag,
    StandardSecurity,
    advise,
    header,
    name_wish,
    parse_header,
    select_protocol,
)
from .share import SERVER_USER, Control, DataType, ShareData, ShareType
from .standard import (
    METHODS,
    RANDOM_SIZE,
    Encryption,
    RsaKey,
    decrypt_random,
    derive_keys,
)
from .svc import SHOW_PROTOCOL
from .x224 import ConnectionConfirm, ConnectionRequest, Failure, Protocol

__all__ = ["MAX_DOMAIN_REQUESTS", "ServerConnection", "ServerSettings"]

INITIATOR = SERVER_USER - mcs.USER_BASE
"""Of every client, and of the server itself (1.7)."""

DEPTHS = (8, 15, 16, 24, 32)

_RDP5 = 4  # low half of the core's version: RDP 4 knows no X.509

_CLIENT_COMPATIBLE = 2  # encryption level: both directions, at the client's strength

MAX_SIDE = 8192
"""Pixels of the longest side of a screen (MS-RDPBCGR 2.2.7.1.2)."""

MAX_AREA = 8 << 20
"""Pixels of a screen whose size the client chooses, a little more than 4K has: each
costs memory and time whenever a picture is made."""

MAX_DOMAIN_REQUESTS = 128
"""Users and channels that a client may ask MCS for, each of which is answered; with 31
channels it needs 34."""

CONFIRM = 64
"""Messages that a Confirm Active counts as, which takes as long to read."""

MAX_AT_ONCE = 256
"""Messages, keys and movements of one packet, each of which counts as a packet in our
turn: a packet of the fast path has up to 255."""


@dataclass(slots=True)
class ServerSettings:
    """How a server treats its clients.

    Attributes:
        methods: what ``Security/Method`` allows.
        has_certificate: can TLS be done at all?
        key: for standard security with encryption; None: there is none.
        x509_key: what clients of RDP 5 and later are shown in place of it.
        encryption: methods of it that are allowed.
        allow_clear: may a client that wants standard security do without encryption?
        width, height: of the screen, for clients that do not say.
        channels: names of the static channels we serve; others are granted and mute.
        dynamic: limits of the dynamic channels that may be opened, by name; none
            without ``drdynvc`` among the static ones.
        limits: of messages of static channels, by name in lower case; longer ones are
            skipped.
    """

    methods: frozenset[Method] = frozenset({Method.TLS})
    has_certificate: bool = True
    key: RsaKey | None = None
    x509_key: RsaKey | None = None
    encryption: tuple[Encryption, ...] = METHODS
    allow_clear: bool = True
    width: int = 800
    height: int = 600
    channels: tuple[str, ...] = ("vrdpusb",)
    dynamic: Mapping[str, ChannelLimits] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)


class _Phase(enum.Enum):
    NEGOTIATION = "X.224 connection request"
    CONNECT = "MCS Connect-Initial"
    EXCHANGE = "Security Exchange"
    LOGON = "Client Info"
    DECISION = "logon decision"
    ACTIVATION = "activation"
    FINALISATION = "finalisation"
    ACTIVE = "session"


class ServerConnection(Connection):
    """One client, from the server's side.

    Attributes:
        width, height, depth: of the client's screen, once it is known.
        output_suppressed: the client wants no pictures now.
        requested: protocols it asked for; None: it did not, or not yet.
        has_dynamic: it asked for dynamic channels.
    """

    def __init__(
        self, settings: ServerSettings, *, random_bytes: Callable[[int], bytes]
    ) -> None:
        super().__init__(
            is_server=True,
            dynamic=settings.dynamic,
            limits=settings.limits,
            random_bytes=random_bytes,
        )
        self.settings = settings
        self.width, self.height, self.depth = settings.width, settings.height, 16
        self.output_suppressed = False
        self._phase = _Phase.NEGOTIATION
        self._protocol = Protocol.RDP
        self.requested: int | None = None
        self._blocks: ClientBlocks | None = None
        self._domain_requests = 0
        self._is_rdesktop = False
        self.has_dynamic = False
        self._encryption = Encryption.NONE
        self._key: RsaKey | None = None
        self._random = b""
        self._capabilities = Capabilities.of({})
        self._next_size: tuple[int, int] | None = None
        self._input = InputReader()

    # -------------------------------------------------------- for the shell ----

    def start(self) -> None:
        """Nothing: the client speaks first."""

    def accept_logon(self) -> None:
        """Let the client in: send the licence and Demand Active.

        A size that ``resize()`` named before is the session's from the start.

        Raises:
            LocalProtocolError: nobody asked.
        """
        if self._phase is not _Phase.DECISION:
            raise LocalProtocolError("there is no logon to accept")
        if self._is_over:
            return
        # 1.20: flags exactly 0x0080, rdesktop 1.8 knows no others
        self._send(self._io_channel, header(SecurityFlag.LICENCE) + VALID_CLIENT)
        if self._next_size is not None:  # display.md 4.6
            self.width, self.height = self._next_size
            self._next_size = None
        self._demand_active()

    def refuse_logon(self, reason: int) -> None:
        """Tell the client why it may not stay, if it can be told; then close.

        Only clients that know the error-info PDU are sent one so early (3.7).
        """
        if self._phase is _Phase.DECISION and not self._is_over and self._knows_reasons:
            self._send_data(DataType.ERROR_INFO, reason.to_bytes(4, "little"))
        self._is_over = True

    def give_cookie(self, cookie: Cookie) -> None:
        """Tell an active client what to show when it comes back."""
        if self._phase is _Phase.ACTIVE and not self._is_over:
            self._send_data(DataType.SAVE_SESSION_INFO, cookie.serialize())

    @property
    def _knows_reasons(self) -> bool:
        """RNS_UD_CS_SUPPORT_ERRINFO_PDU of the core data."""
        return self._blocks is not None and bool(self._blocks.core.early_flags & 1)

    def resize(self, width: int, height: int) -> None:
        """Change the size of the client's screen; Activated follows (1.17).

        At once, or as soon as the session is active; never if the client says that
        its screen keeps its size. Before ``accept_logon()``: for every client.
        """
        self._next_size = width, height
        if self._phase is _Phase.ACTIVE and not self._is_over:
            self._resize()

    def _resize(self) -> None:
        size, self._next_size = self._next_size, None
        if size in (None, (self.width, self.height)):
            return
        if not self._capabilities.can_resize:
            self._ignore("the size of the screen: the client keeps its own")
            return
        assert size is not None
        self.width, self.height = size
        if not self._is_rdesktop:
            self._deactivate()
        self._demand_active()

    @property
    def form(self) -> Form:
        """In which form the client takes bitmaps; known once it is active."""
        able = self._capabilities
        if not able.takes_compressed:
            return Form(self.depth, Compression.NONE)
        is_bare = able.needs_no_head
        return Form(self.depth, Compression.BARE if is_bare else Compression.HEADED)

    @property
    def takes_scrblt(self) -> bool:
        """Does the client move parts of its screen itself? Known once it is active."""
        return self._capabilities.has_scrblt

    @property
    def pointer_limits(self) -> PointerLimits:
        """Which pointers the client takes; known once it is active."""
        able = self._capabilities
        # display.md 4.5: rdesktop-vrdp draws new pointers wrongly
        is_old = self._is_rdesktop and not self.has_dynamic
        return PointerLimits.of(
            *(0 if is_old else able.new_cache, able.colour_cache, self._max_update),
            is_large=able.has_large_pointers,
        )

    @property
    def takes_output(self) -> bool:
        """Does an update reach the client's screen now?

        Not before it is active, between two sizes, or while it suppresses output.
        """
        is_active = self._phase is _Phase.ACTIVE and not self._is_over
        return is_active and not self.output_suppressed

    def send_update(self, update: Update) -> None:
        """Draw something, if the client takes output now.

        What was encoded for another form or size than the present ones must not come:
        compare ``form``, ``width`` and ``height`` where time has passed meanwhile.
        """
        if self.takes_output:
            self._send_update(update)

    def _send_update(self, update: Update) -> None:
        if not self._capabilities.has_fast_output:
            self._send_data(*slow_update(update))
            return
        for part in fast_updates(update, self._max_update):
            self._output.append(self._security.wrap_fast(part))

    @property
    def _max_update(self) -> int:
        able = self._capabilities
        return able.max_update if able.has_fast_output else 0

    def _prepare_screen(self) -> None:
        """Send what a client needs before anything else is drawn (display.md 3.3)."""
        if self.depth == 8:
            self._send_update(palette_update())
        if self.takes_scrblt:
            self._send_update(CLIP_RESET)

    def keepalive(self) -> None:
        """Send the Synchronize that an idle connection gets every 30 s (1.1)."""
        if self._phase is _Phase.ACTIVE and not self._is_over:
            self._send_data(DataType.SYNCHRONIZE, share.synchronize(0))

    def disconnect(self, reason: int = 1) -> None:
        """End the connection in order; then close the transport.

        Args:
            reason: error-info code: 1 stopped or replaced, 0 as the client wished.
        """
        if not self._is_over:
            self._say_goodbye(reason)
            self._is_over = True

    def may_be_sent_to(self, host: str) -> bool:
        """Would the client go to another server, if it was told now? Only over TLS:
        anybody could say it otherwise."""
        is_active = self._phase is _Phase.ACTIVE and not self._is_over
        cluster = self._blocks.cluster if self._blocks is not None else None
        is_tls = self._protocol is Protocol.TLS
        return is_active and is_tls and takes_redirection(cluster) and may_be_said(host)

    def send_on(self, host: str) -> None:
        """Have the client go to another server, on the same port; then close.

        Raises:
            LocalProtocolError: see :meth:`may_be_sent_to`.
        """
        body, kind = redirection(host), ShareType.REDIRECTION
        self._send_io(share.share_control(kind, body, SERVER_USER))
        self._is_over = True

    # ----------------------------------------------------------- connecting ----

    def _connection_packet(self, body: bytes) -> None:
        if self._phase is not _Phase.NEGOTIATION:
            raise RemoteProtocolError(f"X.224 packet 0x{body[1]:02X} in the session")
        request = ConnectionRequest.parse(body)
        self.requested = request.protocols
        asked = request.protocols or 0
        self._events.append(notices.SecurityAsked(self.settings.methods, asked))
        choice = select_protocol(
            self.settings.methods,
            has_certificate=self.settings.has_certificate,
            requested=request.protocols,
        )
        if choice is Failure.NO_CERTIFICATE and Method.RDP in self.settings.methods:
            choice = Protocol.RDP  # B.1: clients differ in whether they ask again
        if isinstance(choice, Failure):
            failure = None if request.protocols is None else choice
            self._output.append(ConnectionConfirm(failure=failure).serialize())
            reason = choice.name.lower().replace("_", " ")
            help_ = advise(choice, request.protocols)
            raise NegotiationError(
                f"refused a client that wants {name_wish(asked)}: {reason}; {help_}"
            )
        selected = None if request.protocols is None else choice
        self._output.append(ConnectionConfirm(selected=selected).serialize())
        self._protocol = choice
        self._phase = _Phase.CONNECT
        if choice is Protocol.TLS:
            self._events.append(notices.SecurityChosen(Method.TLS))
            self._ask_for_tls()
        else:
            self._events.append(notices.SecurityChosen(Method.RDP))

    def _tls_is_up(self) -> None:
        pass  # the client goes on

    def _domain_packet(self, body: bytes) -> None:
        if not body:
            raise RemoteProtocolError("empty MCS packet")
        if self._phase is _Phase.CONNECT:
            self._connect(body)
            return
        if self._phase is _Phase.NEGOTIATION:
            raise RemoteProtocolError(f"MCS before {self._phase.value}")
        match body[0] >> 2:
            case mcs.Pdu.ERECT_DOMAIN:  # 1.7: contents do not matter
                pass
            case mcs.Pdu.ATTACH_REQUEST:
                self._count_request()
                self._output.append(mcs.attach_confirm(INITIATOR))
            case mcs.Pdu.JOIN_REQUEST:
                if len(body) < 5:
                    raise RemoteProtocolError(f"join request of {len(body)} bytes")
                self._count_request()
                channel = int.from_bytes(body[3:5])  # 1.7: any id is confirmed
                self._output.append(mcs.join_confirm(INITIATOR, channel))
            case mcs.Pdu.ULTIMATUM:
                self._end()
            case kind:
                raise RemoteProtocolError(f"MCS PDU {kind}: {body[:16].hex()}")

    def _count_request(self) -> None:
        self._domain_requests += 1
        if self._domain_requests > MAX_DOMAIN_REQUESTS:
            raise RemoteProtocolError(
                f"more than {MAX_DOMAIN_REQUESTS} requests for users and channels"
            )

    def _connect(self, body: bytes) -> None:
        blocks = self._blocks = ClientBlocks.parse(mcs.parse_connect_initial(body))
        core = blocks.core
        if core.depth not in DEPTHS:
            raise RemoteProtocolError(f"colour depth {core.depth}, not one of {DEPTHS}")
        self.width = min(core.width or self.width, MAX_SIDE)
        height = min(core.height or self.height, MAX_SIDE)
        self.height = min(height, MAX_AREA // self.width)
        self.depth = min(core.depth, 24)  # section 10, 6
        self._events.append(notices.EncryptionOffered(blocks.methods))
        known = {name.lower() for name in self.settings.channels}
        for channel, request in enumerate(blocks.channels, mcs.FIRST_CHANNEL):
            name = request.name
            is_known = name.lower() in known
            known.discard(name.lower())  # a second one of that name is mute
            self._events.append(notices.ChannelAsked(name, channel, is_known))
            if is_known:
                self._add_channel(channel, name)
                if request.shows_protocol:
                    self._chunk_flags[channel] = SHOW_PROTOCOL
        names = {request.name.lower() for request in blocks.channels}
        self.has_dynamic = "drdynvc" in names
        for kind in blocks.others[:32]:
            self._events.append(notices.UnknownBlock(kind))
        answer = ServerBlocks.granting(self.requested, len(blocks.channels))
        self._phase = _Phase.LOGON
        if self._protocol is Protocol.RDP:
            self._encryption = self._choose_encryption(blocks.methods)
            self._events.append(notices.EncryptionChosen(self._encryption))
        if self._encryption:
            key = self._choose_key(core)
            self._random = self._random_bytes(RANDOM_SIZE)
            certificate = key.certificate
            answer.method, answer.level = self._encryption, _CLIENT_COMPATIBLE
            lengths = struct.pack("<II", len(self._random), len(certificate))
            answer.security = lengths + self._random + certificate
            self._phase = _Phase.EXCHANGE
        self._output.append(mcs.serialize_connect_response(answer.serialize()))
        self._has_session = True

    def _choose_encryption(self, offered: int) -> Encryption:
        """Take the strongest method that both know (1.6).

        Raises:
            NegotiationError: there is none.
        """
        settings = self.settings
        if not offered:
            if settings.allow_clear:
                return Encryption.NONE
            raise NegotiationError("refused a client that does not want encryption")
        for method in settings.encryption if settings.key else ():
            if offered & method:
                return method
        raise NegotiationError(
            f"refused a client with encryption methods 0x{offered:02X}: none of them is"
            " allowed"
        )

    def _choose_key(self, core: ClientCore) -> RsaKey:
        """Take the key with the certificate that the client knows (2.2)."""
        settings = self.settings
        key = settings.key
        if settings.x509_key is not None and core.version & 0xFFFF >= _RDP5:
            key = settings.x509_key
            self._events.append(notices.X509Chosen())
        assert key is not None
        self._key = key
        return key

    def _exchange(self, payload: bytes) -> None:
        """Take the client random (1.8); everything is encrypted from now on."""
        flags, body = parse_header(payload)
        if not flags & SecurityFlag.EXCHANGE:
            raise RemoteProtocolError(
                f"security flags 0x{flags:04X}, not Security Exchange"
            )
        reader = Reader(body, "Security Exchange")
        size = reader.u32()
        if size != reader.left:
            raise RemoteProtocolError(f"client random of {size} bytes in {reader.left}")
        assert self._key is not None
        client_random = decrypt_random(reader.rest(), self._key, self._random_bytes)
        keys = derive_keys(client_random, self._random, self._encryption)
        self._security = StandardSecurity(keys, self._encryption, is_server=True)
        self._phase = _Phase.LOGON

    def _logon(self, payload: bytes) -> None:
        flags, body = self._security.unwrap(payload)
        if not flags & SecurityFlag.INFO:
            raise RemoteProtocolError(f"security flags 0x{flags:04X}, not Client Info")
        assert self._blocks is not None
        info, core = ClientInfo.parse(body), self._blocks.core
        self._is_rdesktop = info.is_rdesktop(core.build)
        kind = "rdesktop" if self._is_rdesktop else "MSFT"
        if not info.is_extended:
            kind = "RDP4"
        if self._protocol is Protocol.RDP and core.size == 212 and not self._encryption:
            # 1.20: rdesktop up to 1.7 writes and wants headers for ever; from later
            # ones they are only taken
            assert isinstance(self._security, PlainSecurity)
            self._security.skipped = HEADER_SIZE
            self._security.prefix = self._sender.prefix = bytes(HEADER_SIZE)
        size = core.width, core.height, core.depth
        self._events.append(notices.ClientDescribed(kind, *size))
        domain, screen = split_screen(info.domain)
        self._phase = _Phase.DECISION
        self._events.append(
            LogonRequested(
                Credentials(info.user, domain, info.password, screen),
                ClientDescription(
                    name=core.name,
                    address=info.address,
                    build=core.build,
                    width=core.width,
                    height=core.height,
                    depth=core.depth,
                    kind=kind,
                    is_usb_only=core.product_id == USB_ONLY,
                ),
                info.cookie,
            )
        )

    # ----------------------------------------------------------- activation ----

    def _demand_active(self) -> None:
        self._phase = _Phase.ACTIVATION
        sets = server_sets(self.width, self.height, self.depth)
        body = serialize_demand_active(share.SHARE_ID, sets)
        kind = ShareType.DEMAND_ACTIVE
        self._send_io(share.share_control(kind, body, SERVER_USER))

    def _deactivate(self) -> None:
        body = struct.pack("<IH", share.SHARE_ID, 1) + b"\0"
        kind = ShareType.DEACTIVATE_ALL
        self._send_io(share.share_control(kind, body, SERVER_USER))

    def _confirm_active(self, body: bytes) -> None:
        if self._phase not in (_Phase.ACTIVATION, _Phase.FINALISATION):
            self._ignore("Confirm Active that was not asked for")
            return
        is_first = self._phase is _Phase.ACTIVATION
        self._phase = _Phase.FINALISATION
        share_id, sets = parse_confirm_active(body)
        if share_id != share.SHARE_ID:
            self._ignore(f"share id 0x{share_id:08X} in Confirm Active")
        self._capabilities = Capabilities.of(sets)
        self._sender.chunk_size = self._capabilities.chunk_size
        if is_first:
            # MS-RDPBCGR 3.3.5.3.13.2: unasked. aardwolf waits for it before it goes on;
            # rdesktop counts three PDUs, so its own Synchronize gets no second one.
            self._send_data(DataType.SYNCHRONIZE, share.synchronize(SERVER_USER))

    def _font_list(self, body: bytes) -> None:
        if self._phase is not _Phase.FINALISATION:
            self._ignore(f"Font List instead of {self._phase.value}")
            return
        if len(body) >= 6 and int.from_bytes(body[4:6], "little") < 2:
            return  # 1.13: the first of two
        self._send_data(DataType.FONT_MAP, share.font_map())
        self._phase = _Phase.ACTIVE
        self._prepare_screen()
        self._events.append(Activated(self.width, self.height, self.depth))
        self._open_channels()
        self._resize()

    # -------------------------------------------------------------- session ----

    def _io_payload(self, payload: bytes) -> None:
        if self._phase is _Phase.EXCHANGE:
            self._exchange(payload)
            return
        if self._phase is _Phase.LOGON:
            self._logon(payload)
            return
        if self._phase is _Phase.DECISION:
            self._ignore(f"{len(payload)} bytes before the logon decision")
            return
        share_pdus = self._security.unwrap_share(payload)
        for kind, _, body in share.split_share(share_pdus):
            if self._is_over:
                return
            self._count(1)
            if kind == ShareType.CONFIRM_ACTIVE:
                self._count(CONFIRM)
                self._confirm_active(body)
            elif kind == ShareType.DATA:
                self._share_data(ShareData.parse(body))
            else:
                self._ignore(f"share PDU {kind}")

    def _share_data(self, pdu: ShareData) -> None:
        if pdu.is_compressed:
            raise RemoteProtocolError(
                "compressed PDU, although compression was not agreed on"
            )
        match pdu.type:
            case DataType.SYNCHRONIZE:
                if self._phase is _Phase.ACTIVE:  # before, it was answered unasked
                    self._send_data(DataType.SYNCHRONIZE, pdu.body[:4].ljust(4, b"\0"))
            case DataType.CONTROL:
                self._control(pdu.body)
            case DataType.FONT_LIST:
                self._font_list(pdu.body)
            case DataType.INPUT:
                size = self.width, self.height
                self._take_input(self._input.read_slow(pdu.body, *size))
            case DataType.REFRESH_RECT:
                if pdu.body[:1] == b"\x01":  # 1.15: exactly one rectangle
                    self._events.append(RefreshRequested(_area(pdu.body)))
            case DataType.SUPPRESS_OUTPUT:
                self._suppress(pdu.body)
            case DataType.SHUTDOWN_REQUEST:
                self._events.append(notices.DisconnectAsked())
                self._say_goodbye(0)
                self._end(0)
            case DataType.KEY_LIST:
                pass
            case kind:
                self._ignore(f"share data PDU {kind}")

    def _control(self, body: bytes) -> None:
        if len(body) < 2:
            raise RemoteProtocolError(f"Control PDU of {len(body)} bytes")
        action = int.from_bytes(body[:2], "little")
        if action == Control.COOPERATE:
            self._send_data(DataType.CONTROL, share.control(Control.COOPERATE))
        elif action == Control.REQUEST:
            # MS-RDPBCGR 2.2.1.20: granted to whom, by whom
            body = share.control(Control.GRANTED, SERVER_USER, SERVER_USER)
            self._send_data(DataType.CONTROL, body)

    def _suppress(self, body: bytes) -> None:
        if not body:
            raise RemoteProtocolError("empty Suppress Output PDU")
        was, self.output_suppressed = self.output_suppressed, body[0] == 0
        if was and not self.output_suppressed:
            self._events.append(RefreshRequested())

    def _say_goodbye(self, reason: int) -> None:
        self._leave_all()
        if self._phase in (_Phase.ACTIVATION, _Phase.FINALISATION, _Phase.ACTIVE):
            self._send_data(DataType.ERROR_INFO, reason.to_bytes(4, "little"))
            self._deactivate()
        if self._has_session:
            self._output.append(mcs.ultimatum(is_by_user=False))

    def _fast_path(self, head: int, body: bytes) -> None:
        size = self.width, self.height
        self._take_input(self._input.read_fast(head, body, *size))

    def _take_input(self, found: Sequence[Input]) -> None:
        self._count(len(found))
        self._events += found

    def _count(self, many: int) -> None:
        """Count what was in a packet as if each had come in a packet of its own."""
        self.turn -= many
        if self.turn < -MAX_AT_ONCE:
            raise RemoteProtocolError(
                f"more than {MAX_AT_ONCE} messages, keys and movements in one packet"
            )

    def _send_data(self, kind: int, body: bytes) -> None:
        self._send_io(share.share_data(kind, body, SERVER_USER))


def _area(body: bytes) -> tuple[int, int, int, int] | None:
    """Read the rectangle of a Refresh Rect PDU; the borders belong to it."""
    if len(body) < 12:
        return None
    left, top, right, bottom = struct.unpack_from("<4H", body, 4)
    return left, top, right + 1 - left, bottom + 1 - top
