"""The connections of a session, one after the other, and which of them counts."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

from rusb.aio.tasks import TaskSet
from rusb.errors import ConnectionLost, NegotiationError, RusbError
from rusb.rdp import rusbext
from rusb.rdp.cookie import Cookie

from .config import ClientConfig
from .connection import Connection
from .events import SessionEvent, SessionSentOn
from .extension import Extension, Ticket, clock
from .follow import FOLLOW_SECONDS, Follow, first_of
from .offers import Offers
from .pulse import NetworkWatch, Pulse
from .redial import Redial
from .wires import WireChoice

__all__ = ["Connections"]

_NEEDED = (
    "Remote USB needs a VRDP server (rusb serve, or VirtualBox with its extension pack)"
    " whose property Client/DisableUSB is not set"
)

MAX_SENT_ON = 8
"""Times that servers may send a session on: two could do so for ever."""

_RESETS = (ConnectionResetError, BrokenPipeError)


class Connections:
    """Connects to a server, and again when a connection breaks.

    Args:
        config: which server to connect to.
        offers: what is offered over them.
        know_peer: called with the address of the server, once it is known.
        on_event: gets every event.
        on_over: called with why, once there will be no connection any more; None: in
            order.

    Attributes:
        config: how the present server is connected to.
        current: the one that counts; None: there is none.
        wires: which of them it has.
        count: how many there have been so far.
        reason: the code that the server gave for the end of the last one, if it did.
    """

    def __init__(
        self,
        config: ClientConfig,
        offers: Offers,
        *,
        know_peer: Callable[[str], None],
        on_event: Callable[[SessionEvent], None],
        on_over: Callable[[RusbError | None], None],
    ) -> None:
        self.config = config
        self.current: Connection | None = None
        self.wires: WireChoice | None = None
        self.count = 0
        self.reason: int | None = None
        self._offers = offers
        self._know_peer = know_peer
        self._on_event = on_event
        self._on_over = on_over
        self._is_ended = False
        self._is_closing = False
        self._is_server_slow = False  # the server reads too slowly
        self._is_ours = False  # the server is rusb
        self._silence: asyncio.TimerHandle | None = None
        self._pulse: Pulse | None = None  # of the current one
        self._network: NetworkWatch | None = None
        self._redial = Redial(
            config.server,
            resume=self.resume,
            begin=self.begin,
            drop=self._drop,
            go_elsewhere=self._go_elsewhere,
            on_event=on_event,
            on_over=on_over,
        )
        self._sent_on = 0
        self._tasks = TaskSet()
        self._going: asyncio.Task[None] | None = None  # to where we were sent
        self._follow = Follow(
            resume=self._resume_at,
            go_to=self._go_to,
            lost=self._redial.start,
            on_event=on_event,
        )

    @property
    def is_connected(self) -> bool:
        """Is there one that works, and no other one looked for?"""
        is_going = self._going is not None and not self._going.done()
        return not (self.current is None or self._redial.is_under_way or is_going)

    @property
    def ticket(self) -> Ticket | None:
        """What to come back with; None: the server would not wait for us."""
        return self._redial.ticket

    @property
    def may_take_more(self) -> bool:
        """May the server yet turn out to have a further wire?"""
        return self.wires is None or self.wires.may_take_more

    def watch_network(self) -> None:
        """Notice when addresses, routes or links of this machine change."""
        self._network = NetworkWatch(self._on_network)

    def fail(self, error: RusbError) -> None:
        """End the current one because of *error*."""
        if self.current is not None:
            self.current.fail(error)

    def end(self) -> None:
        """The session is over: none begins any more. Idempotent."""
        self._is_ended = True
        if self._silence is not None:
            self._silence.cancel()
        if self._pulse is not None:
            self._pulse.close()
        self._redial.forget()
        if self.wires is not None:
            self.wires.close()

    async def aclose(self) -> None:
        """Say goodbye. Idempotent."""
        self._is_closing = True
        if self._network is not None:
            self._network.close()
        try:
            await self._redial.aclose()
            await self._follow.aclose()
            await self._tasks.aclose()
        finally:
            if self.current is not None:
                await self.current.aclose()

    # ---------------------------------------------------------- begin, resume ----

    async def begin(self, seconds: float) -> str:
        """Connect, and begin anew with the server; return what secures it.

        Raises:
            RusbError: see :meth:`~rusb.client.session.ClientSession.start`.
        """
        extension = None
        if self.config.usb:
            extension = Extension(
                None,
                comes_back=self.config.reconnect,
                on_live=lambda ticket: self._begun(ticket, extension),
                on_resume=lambda: None,
                on_move=lambda move: self._on_move(extension, move),
                on_stay=self._on_stay,
            )
        wires = WireChoice(
            self.config.wires if self.config.usb else (),
            taken=self._offers.take,
            extension=extension,
        )
        connection = self._make(wires)
        self._become(connection, wires)
        try:
            limit = min(seconds, self.config.timeout)
            await self._open(connection, wires, extension, limit)
        except BaseException:
            connection.abort()
            wires.close()
            if self.current is connection:
                self.current = None
            raise
        if self.config.usb and not wires.is_possible:
            names = " or ".join(wires.channels.static)
            raise self._no_usb(f"it does not open the channel {names}")
        return connection.security

    async def resume(
        self,
        ticket: Ticket,
        seconds: float,
        *,
        config: ClientConfig | None = None,
        may_ask: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Connect, and go on with what the server has kept for us.

        Args:
            ticket: what it knows us by.
            seconds: for each step.
            config: of the server; None: the session's.
            may_ask: returns once we may ask for it; None: we may.

        Raises:
            RusbError: it did not work out; of *ticket*, ``is_void`` says whether it
                ever may.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def resumed(_: Ticket) -> None:
            self._become(connection, wires)
            self._watch(ticket, extension)
            if not done.done():
                done.set_result(None)

        def lost(error: RusbError | None) -> None:
            if self.current is connection:
                self._lost(connection, wires, error)
            elif not done.done():
                done.set_exception(error or ConnectionLost("the server hung up"))

        greeted = asyncio.Event()
        extension = Extension(
            ticket,
            on_live=resumed,
            on_resume=self._let_go,
            on_move=lambda move: self._on_move(extension, move),
            on_stay=self._on_stay,
            on_hello=None if may_ask is None else greeted.set,
        )
        wires = WireChoice(
            self.config.wires,
            taken=self._offers.take,
            extension=extension,
            kept=ticket,
        )
        connection = self._make(wires, lost, ticket.cookie, config)
        try:
            async with asyncio.timeout(seconds):
                await self._open(connection, wires, extension, seconds)
                if may_ask is not None:
                    await first_of(greeted.wait(), done)
            if may_ask is not None:
                await first_of(may_ask(), done)
                extension.ask()
            async with asyncio.timeout(seconds):
                await done
        except TimeoutError:
            if self.current is not connection:
                raise ConnectionLost("the server did not resume in time") from None
        except asyncio.CancelledError:
            if connection.was_active and self.current is not connection:
                await connection.aclose()  # the server may have resumed already
            raise
        finally:
            if not done.cancel() and not done.cancelled():
                done.exception()  # nobody may have asked
            if self.current is not connection:
                connection.abort()
                wires.close()

    def _make(
        self,
        wires: WireChoice,
        lost: Callable[[RusbError | None], None] | None = None,
        cookie: Cookie | None = None,
        config: ClientConfig | None = None,
    ) -> Connection:
        found = Connection(
            config or self.config,
            wires.channels,
            on_active=lambda: self._wait_for_usb(found, wires),
            on_lost=lost or (lambda error: self._lost(found, wires, error)),
            on_pressure=lambda is_high: self._on_pressure(found, is_high),
            on_trust=self._on_event,
            cookie=cookie,
            tells_why=self._is_ours,
        )
        return found

    async def _open(
        self,
        connection: Connection,
        wires: WireChoice,
        extension: Extension | None,
        seconds: float,
    ) -> None:
        if extension is not None:
            extension.connection = connection
        try:
            async with asyncio.timeout(seconds):
                await connection.open(
                    lambda stream: wires.connect(connection.rdp, stream.flush)
                )
        except TimeoutError:
            raise ConnectionLost(
                f"{self.config.server} did not finish the connection within"
                f" {seconds:g} s: {connection.stage}"
            ) from None
        assert connection.stream is not None
        self._know_peer(connection.stream.peer)

    def _become(self, connection: Connection, wires: WireChoice) -> None:
        """This connection counts from now on."""
        self.current, self.wires = connection, wires
        self.count += 1
        self._redial.connected()
        self.pause_or_resume()

    def _let_go(self) -> None:
        """No connection counts from now on; what came over the last one, and is not
        kept, is over."""
        connection, self.current = self.current, None
        if self._silence is not None:
            self._silence.cancel()
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        if self._redial.ticket is not None:
            self._redial.ticket.suspend()
        if self.wires is not None:
            self.wires.close()
        if connection is not None:
            connection.abort()
        self._is_server_slow = False

    def _lost(
        self, connection: Connection, wires: WireChoice, error: RusbError | None
    ) -> None:
        """A connection is over."""
        if connection is not self.current or not connection.was_active:
            return  # whoever opened it knows
        self.reason = connection.reason
        if connection.sent_to and not (self._is_closing or self._is_ended):
            self._go_on_at(connection.sent_to)
            return
        is_reset = error and isinstance(error.__cause__, _RESETS)  # as by kill -9
        if (error is None or is_reset) and not self._is_closing:
            error = self._why_ended(connection, wires)
        is_end = self._is_closing or self._is_ended or not self.config.reconnect
        has_nothing = self.count == 1 and not wires.has_heard
        if is_end or has_nothing or not isinstance(error, ConnectionLost):
            self._on_over(error)
            return
        self._let_go()
        self._redial.start(error)

    async def _drop(self, ticket: Ticket | None) -> None:
        """Give back what the server does not keep for us, to offer it anew."""
        if ticket is None:
            self._let_go()
            await self._offers.drop()
        else:
            await self._offers.drop(but=ticket.link)

    def _why_ended(self, connection: Connection, wires: WireChoice) -> RusbError | None:
        """Explain the end of a session; None if the server said goodbye."""
        is_mute = self.config.usb and self.reason is None and not wires.has_heard
        if connection.has_goodbye:
            return self._no_usb("it ended the session at once") if is_mute else None
        if is_mute:  # FreeRDP's server does so when we answer what it never asked
            return ConnectionLost(
                f"{self.config.server} closed the connection without a goodbye, and had"
                " not offered remote USB: it has none, it was killed, or the network in"
                f" between closed the connection. {_NEEDED}"
            )
        return ConnectionLost(
            f"the connection to {self.config.server} was lost: the server was killed,"
            " or the network in between closed it"
        )

    # ------------------------------------------------------ to another server ----

    def _on_move(self, extension: Extension | None, move: rusbext.Move | None) -> None:
        """The machine runs at another host; only a server that we know may say so."""
        assert extension is not None
        if self.current is not None and self.current.certificate is not None:
            self._follow.told(extension, move, self.config)

    def _on_stay(self, stay: rusbext.Stay) -> None:
        """The machine runs at another host, and what we have cannot go there."""
        if self.current is not None and self.current.certificate is not None:
            device = self._offers.find(stay.device)
            self._follow.told_to_stay(stay, device, self.config)

    async def _resume_at(
        self, config: ClientConfig, may_ask: Callable[[], Awaitable[None]]
    ) -> None:
        ticket = self._redial.ticket
        if ticket is None:
            raise ConnectionLost("there is nothing to go on with")
        await self.resume(ticket, FOLLOW_SECONDS, config=config, may_ask=may_ask)

    def _go_elsewhere(self) -> bool:
        """The connection broke before the server could say that it has sent us on."""
        config = self._follow.give_up()
        if config is not None:
            self._go_to(config)
        return config is not None

    def _go_on_at(self, host: str) -> None:
        """The server sends us to another one, at its port: nothing of ours is used."""
        before = self.config.server
        config = dataclasses.replace(self.config, host=host, certificate=b"")
        self._sent_on += 1
        if self._sent_on > MAX_SENT_ON:
            self._on_over(
                ConnectionLost(
                    f"{before} sends its clients on to {config.server}, and others had"
                    f" sent this one to it before, {MAX_SENT_ON} times"
                )
            )
            return
        self._redial.forget()
        self._go_to(config)
        self._going = self._tasks.start(self._go_on(before), "going on elsewhere")

    async def _go_on(self, before: str) -> None:
        await self._offers.drop()
        try:
            await self.begin(self.config.timeout)
        except RusbError as error:
            self._on_over(error)
        else:
            self._on_event(SessionSentOn(before, self.config.server))

    def _go_to(self, config: ClientConfig) -> None:
        self.config = config
        self._redial.go_to(config.server)
        self._let_go()

    # ------------------------------------------------------ silence, pressure ----

    def _wait_for_usb(self, connection: Connection, wires: WireChoice) -> None:
        """The server should say something about USB soon, else it has none."""

        def on_silence() -> None:
            if not wires.has_heard:
                seconds = f"{self.config.usb_timeout:g} s"
                why = f"it sent nothing about USB for {seconds}"
                connection.fail(self._no_usb(why))

        if self.config.usb:
            loop = asyncio.get_running_loop()
            self._silence = loop.call_later(self.config.usb_timeout, on_silence)

    def _no_usb(self, why: str) -> NegotiationError:
        return NegotiationError(
            f"{self.config.server} has no remote USB: {why}. {_NEEDED}"
        )

    def _begun(self, ticket: Ticket, extension: Extension | None) -> None:
        """The server would wait for us."""
        assert self.wires is not None
        assert extension is not None
        self.wires.keep(ticket)
        self._redial.ticket, self._is_ours = ticket, True
        self._watch(ticket, extension)

    def _watch(self, ticket: Ticket, extension: Extension) -> None:
        """Notice when the server falls silent."""
        assert self.current is not None
        assert self.current.stream is not None
        self.current.stream.be_impatient()
        ticket.heard = clock()
        self._pulse = Pulse(
            self.current.stream,
            ping=extension.ping,
            is_deaf=lambda: self._is_held,
            heard=ticket.was_heard,
            on_silent=self._on_silent,
            on_back=self._redial.heard,
        )

    def _on_network(self) -> None:
        """Addresses, routes or links of this machine have changed."""
        self._redial.hurry()
        if self._pulse is not None:
            self._pulse.doubt()

    def _on_silent(self) -> None:
        """Nothing comes any more: another connection is tried beside this one, and
        whichever speaks first wins."""
        self._redial.start(ConnectionLost(f"{self.config.server} is silent"))

    def _on_pressure(self, connection: Connection, is_high: bool) -> None:
        if connection is self.current:
            self._is_server_slow = is_high
            self.pause_or_resume()

    @property
    def _is_held(self) -> bool:
        return self._is_server_slow or self._offers.is_full

    def pause_or_resume(self) -> None:
        """Stop reading requests while the server reads slowly or asks too much."""
        if self.current is not None and self.current.stream is not None:
            self.current.stream.hold(is_held=self._is_held)
