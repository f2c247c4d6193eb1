"""The source of a move: a machine that runs here leaves for another host."""

import asyncio
import contextlib
import hmac
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from rusb.aio.tls import KnownServers, fingerprint
from rusb.errors import (
    AuthenticationError,
    ControlError,
    GuestError,
    RusbError,
)
from rusb.usb.text import clean_text

from ...auth.hashes import Salted
from ...client_usb import ClientUsb
from ...elsewhere import Elsewhere
from ...guests.qemu import QemuGuest
from ...vbox.model import Hardware
from ...vbox.settings import Machine
from ..process import Hypervisor
from .arrival import Arrival
from .handover import Handover
from .images import describe_images
from .link import PIECE, Link, PeerFailed, dial, proof
from .messages import (
    MAX_HOSTS,
    MAX_NAME,
    TOKEN,
    VERSION,
    Accept,
    Data,
    Device,
    End,
    Gone,
    Hello,
    Loaded,
    Logon,
    Offer,
    Progress,
    Run,
    Running,
    Welcome,
    What,
)
from .profile import blocked, profile_of
from .reads import WaitingReads
from .relay import Relay
from .seam import Stream
from .stream import Migration, Progressed, blocked_by_qemu, connect_clipboard, go_on

__all__ = ["MAX_DOWNTIME", "Departure", "Destination"]

MAX_DOWNTIME: Final = 2_000_000
"""Milliseconds that QEMU takes for the longest downtime."""

DISPLAY_TIMEOUT: Final = 20.0
"""Seconds for the target to say where it serves the machine's remote display."""

LITTLE: Final = 512 << 20
"""Bytes of memory that may remain when reads at serial ports are suspended: seconds on
a usual network, and more than QEMU sends between two looks at it, even of zeros."""

TELL_PERIOD: Final = 0.5
"""Seconds between two PROGRESS."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a machine is to go, and how.

    Attributes:
        password: of the target; empty: it has none.
        downtime: seconds that the machine may stand still.
        bandwidth: bytes a second that may be used; 0: no limit.
    """

    host: str
    port: int
    password: str = ""
    downtime: float = 0.25
    bandwidth: int = 0

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def _nobody(to: Elsewhere, ready: Callable[[ClientUsb], None]) -> None:
    """There is no client."""


class Departure:
    """A move from here, and the way of its devices over here afterwards.

    Args:
        machine, hardware: that runs here.
        hypervisor: runs it.
        to: where it goes.
        log: writes a line.
        guests: where its remote devices are.
        came: moves to here over which further ones come; the owner changes it.
        moved: called when it runs at the target; ends its QEMU here.
        sent_on: called with where viewers find it, once the target serves them.
        invite: called with that, and with what is called for each client that is ready
            to go on there.
        known: file of the pins; None: the user's.

    Attributes:
        stage: what is being done, a word for people.
        progress: how much memory has moved.
        is_switched: RUN was sent; the machine must not run here any more.
        downtime: seconds for which it stood still; None: it is not there yet.
        has_ended: set when it runs there, and its QEMU here has ended.
    """

    def __init__(
        self,
        machine: Machine,
        hardware: Hardware,
        hypervisor: Hypervisor,
        to: Destination,
        log: Callable[[str], None],
        *,
        guests: Sequence[QemuGuest] = (),
        came: Sequence[Arrival] = (),
        moved: Callable[[], Awaitable[None]],
        sent_on: Callable[[Elsewhere], None] = lambda to: None,
        invite: Callable[[Elsewhere, Callable[[ClientUsb], None]], None] = _nobody,
        known: Path | None = None,
    ) -> None:
        self._machine, self._hardware = machine, hardware
        self._hypervisor = hypervisor
        self._to = to
        self._log = log
        self._guests, self._came, self._moved = guests, came, moved
        self._reads = WaitingReads(hypervisor, guests, came)
        self._sent_on, self._invite = sent_on, invite
        self._handover: Handover | None = None
        self._known = KnownServers(known)
        self._devices: tuple[Device, ...] = ()
        self._relaying: Relay | None = None
        self.stage = "connecting"
        self.progress = Progressed()
        self.is_switched = False
        self.downtime: float | None = None
        self.has_ended = asyncio.Event()
        self._still = 0.0
        self._told = 0.0
        self._is_suspended = False

    async def run(self) -> None:
        """Move the machine; when *downtime* is set, it runs at the target.

        Then this goes on until the devices that are relayed have left.

        If it is cancelled, or fails, the machine goes on here; unless *is_switched*
        is set then: it stands still, and the error says what to do.

        Raises:
            RusbError: it did not move; the message says why.
        """
        status = await self._hypervisor.status()
        if status != "running":
            raise ControlError(
                f"only a machine that runs can be teleported, and this one is {status};"
                f" let it go on first: controlvm {self._machine.operand} resume"
            )
        await connect_clipboard(self._hypervisor, is_on=False)
        try:
            problems = blocked(self._machine, "source")
            problems += await blocked_by_qemu(self._hypervisor)
            if problems:
                raise ControlError("; ".join(problems))
            await self._go()
        except BaseException:
            if not self.is_switched:
                await asyncio.shield(self.stays())
            raise

    async def stays(self) -> None:
        """Undo what a machine that goes on here can do without no longer."""
        with contextlib.suppress(RusbError):
            await connect_clipboard(self._hypervisor, is_on=True)

    async def _go(self) -> None:
        link, shown = await dial(self._to.host, self._to.port)
        async with link:
            try:
                self._check_pin(shown)
                await self._log_on(link, shown)
                await self._compare(link)
                await self._move(link)
            except PeerFailed:
                raise
            except RusbError as error:
                await link.fail(str(error))
                raise
            except asyncio.CancelledError:
                await asyncio.shield(link.fail("the source cancelled the move"))
                raise
            await self._relay(link)
        # what comes home over us has to arrive; the list changes meanwhile
        while carrying := [came for came in self._came if not came.has_carried]:
            await carrying[0].wait_carried()

    async def _relay(self, link: Link) -> None:
        """Go between the target and the devices, until the last of them has left."""
        ends = {id: end for guest in self._guests for id, end in guest.let_go().items()}
        found = {id: Stream(end) for id, end in ends.items()}
        telling: asyncio.Task[None] | None = None
        try:
            try:
                await self._moved()
            finally:
                self.has_ended.set()
            for came in tuple(self._came):
                found |= await came.let_go()
            streams = {
                d.number: found.pop(d.id) for d in self._devices if d.id in found
            }
            for device in self._devices:
                if device.number not in streams:  # it has left meanwhile
                    await link.send(Gone(device.number))
            relay = self._relaying = Relay(link, streams, _nothing, self._asked)
            relay.before = [
                came.wait_carried for came in self._came if came.is_carrying
            ]
            telling = asyncio.ensure_future(self._send_on(link, relay))
            await relay.run()
            await telling
        except RusbError as error:
            self._log(f"Teleporter: {error}; the devices that came over here are gone")
            if telling is not None:
                await telling
        finally:
            if telling is not None:
                telling.cancel()
            if self._handover is not None:
                await self._handover.aclose()
            for stream in found.values():
                stream.sock.close()

    def find(self, way: Sequence[bytes]) -> tuple[int, Relay, int] | None:
        """Find a device that comes over here among those that are relayed from here.

        Returns:
            How many hosts it comes over before this one, its relay and number there.
        """
        for device in self._devices:
            token = device.way[-1]
            if self._relaying is not None and token in way:
                return way.index(token), self._relaying, device.number
        return None

    async def _asked(self, what: What) -> None:
        """The target asks about reads that wait, before the machine goes on from there.

        Raises:
            GuestError: it cannot.
        """
        if what is not What.RESUME and self._handover and self._handover.is_busy:
            raise GuestError("a client changes over at this moment: try again")
        await self._reads.ask(what)

    async def _send_on(self, link: Link, relay: Relay) -> None:
        """Have clients go where the machine's display is, as soon as that is known."""
        shown = self._to.host, 0, b""
        with contextlib.suppress(RusbError, TimeoutError):
            async with asyncio.timeout(DISPLAY_TIMEOUT):
                found = await _while_open(link, link.wait_display())
            shown = clean_text(found.host) or shown[0], found.port, found.certificate
        to = Elsewhere(*shown)
        self._sent_on(to)
        own = {one.id: one.number for one in self._devices if len(one.way) == 1}
        self._handover = Handover(link, relay, own, to, self._log)
        self._invite(to, self._handover.ready)

    # ----------------------------------------------------- before the move ----

    def _check_pin(self, shown: bytes) -> None:
        name = str(self._to)
        if self._known.check(name, shown):
            self._log(f"Teleporter: {name} shows {fingerprint(shown)}, now trusted")

    async def _log_on(self, link: Link, shown: bytes) -> None:
        """Prove that we know the password, and have the target prove it (3.2)."""
        hello = await link.receive(Hello)
        if hello.version != VERSION:
            raise ControlError(
                f"{self._to} speaks version {hello.version} of teleporting, and this"
                f" host version {VERSION}; install the same rusb on both"
            )
        nonces = hello.nonce, secrets.token_bytes(len(hello.nonce))
        costs, password = hello.password, self._to.password
        if costs is None:
            if password:
                raise AuthenticationError(
                    f"{self._to} has no password, so it may be another host than you"
                    " think; set one there (modifyvm VM --teleporterpassword), or leave"
                    " it out here"
                )
            await link.send(Logon(nonces[1]))
            await link.receive(Welcome)
            return
        if not password:
            raise AuthenticationError(
                f"{self._to} wants a password: give it with --password or"
                " --passwordfile"
            )
        salted = Salted(costs.ln, costs.r, costs.p, costs.salt)
        if not salted.is_bearable:
            raise ControlError(
                f"{self._to} wants a key of the password that takes minutes to make, or"
                " no time at all; it may not be the host that you think"
            )
        key = await asyncio.to_thread(salted.derive, password)
        await link.send(Logon(nonces[1], proof(key, "source", nonces, shown)))
        answer = await link.receive(Welcome)
        if not hmac.compare_digest(answer.proof, proof(key, "target", nonces, shown)):
            raise AuthenticationError(
                f"{self._to} does not know the password itself: it is not the host"
                " that you think"
            )

    async def _compare(self, link: Link) -> None:
        """Have the target say what differs.

        Raises:
            ControlError: something does; all of it is named.
        """
        self.stage = "comparing"
        await self._reads.ask(What.LOOK)
        self._devices = self._find_devices()
        profile = await profile_of(
            self._machine, self._hardware, self._hypervisor.execute
        )
        with describe_images(self._hardware) as images:
            await link.send(Offer(profile, images, self._devices))
            try:
                await link.receive(Accept)
            except PeerFailed as error:
                if not error.refused:
                    raise
                count = len(error.refused)
                what = "one thing" if count == 1 else f"{count} things"
                raise ControlError(
                    f"{self._to} differs in {what}: " + "; ".join(error.refused)
                ) from None

    @property
    def relayed(self) -> int:
        """How many devices the target gets over here."""
        return len(self._devices)

    def _find_devices(self) -> tuple[Device, ...]:
        """Return the devices that move along.

        Raises:
            ControlError: one of them cannot.
        """
        places = [place for guest in self._guests for place in guest.movable()]
        found = [
            Device(0, id, bus, port, name=name[:MAX_NAME])
            for id, bus, port, name in places
        ]
        found += [device for came in self._came for device in came.movable()]
        for number, device in enumerate(found, 1):
            if not device.port:
                raise ControlError(
                    f"QEMU does not say at which port of {device.bus} USB device"
                    f" {number} is, so it cannot stay plugged in; disconnect it first"
                )
            if len(device.way) >= MAX_HOSTS:
                raise ControlError(
                    f"a USB device of the machine already comes over {MAX_HOSTS} hosts,"
                    " which is as many as may be: disconnect it first, or let the"
                    " machine go back to one of them"
                )
        return tuple(
            replace(device, number=n, way=(*device.way, secrets.token_bytes(TOKEN)))
            for n, device in enumerate(found)
        )

    # ------------------------------------------------------------ the move ----

    async def _move(self, link: Link) -> None:
        self.stage = "moving"
        self._log(f"Teleporter: moving to {self._to}")
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            await self._suspend_reads(self._hardware.memory << 20)
            with theirs:
                migration = Migration(
                    self._hypervisor, self._to.downtime, self._to.bandwidth
                )
                await migration.start(theirs)
            await _while_open(link, self._stream(link, migration, ours))
            await link.send(End(link.core.streamed))
            await link.receive(Loaded)
            await self._switch(link)
        except BaseException:
            ours.close()
            if not self.is_switched:
                await asyncio.shield(go_on(self._hypervisor))
                self._log("Teleporter: the machine stays here")
            raise
        finally:
            ours.close()
            self._reads.resume()

    async def _suspend_reads(self, remaining: int) -> None:
        """Have nothing wait at serial ports, once little memory remains (7.9)."""
        if not self._is_suspended and remaining <= LITTLE:
            self._is_suspended = True
            await self._reads.suspend()

    async def _stream(
        self, link: Link, migration: Migration, sock: socket.socket
    ) -> None:
        """Send what QEMU writes, until it is done."""
        pump = asyncio.ensure_future(_pump(link, sock))
        drive = asyncio.ensure_future(self._drive(link, migration))
        try:
            await asyncio.gather(pump, drive)
        finally:
            for task in (pump, drive):
                task.cancel()
            await asyncio.wait([pump, drive])

    async def _drive(self, link: Link, migration: Migration) -> None:
        async def tell(progress: Progressed) -> None:
            self.progress = progress
            await self._suspend_reads(progress.remaining)
            now = time.monotonic()
            if now - self._told > TELL_PERIOD:
                self._told = now
                left, total = progress.remaining, progress.total
                await link.send(Progress(progress.transferred, left, total))

        await migration.wait_still(tell)
        await self._reads.ask(What.STILL)  # so they stay as they are
        self._still = time.monotonic()
        self.stage = "switching"
        await migration.finish(tell)

    async def _switch(self, link: Link) -> None:
        """From here on the machine is the target's (6.2)."""
        if link.failure is not None:
            raise link.failure
        self.is_switched = True
        try:
            await link.send(Run())
            await link.receive(Running)
        except PeerFailed:  # its QEMU has ended
            self.is_switched = False
            raise
        except RusbError as error:
            raise ControlError(
                f"{error}. That was at the very moment of the switch: if the machine"
                f" runs at {self._to}, power it off here (controlvm"
                f" {self._machine.operand} poweroff); if it does not, let it go on here"
                f" (controlvm {self._machine.operand} resume). Until then it is paused"
                " here"
            ) from error
        self.downtime = time.monotonic() - self._still
        self._log(
            f"Teleporter: the machine runs at {self._to}; it was paused for"
            f" {self.downtime * 1000:.0f} ms, {self.progress.transferred} bytes of"
            " memory were sent"
        )


async def _nothing(number: int) -> None:
    """The end of its socket tells the device."""


async def _pump(link: Link, sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(sock, PIECE):
        await link.send(Data(data))


async def _while_open(link: Link, work: Coroutine[Any, Any, T]) -> T:
    """Do something that ends when the connection does.

    Raises:
        RusbError: why the connection ended; or what the work raises.
    """
    task = asyncio.ensure_future(work)
    over = asyncio.ensure_future(link.wait_over())
    try:
        await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await over
        return await task
    finally:
        task.cancel()
        over.cancel()
        await asyncio.wait({task, over})
