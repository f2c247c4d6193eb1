"""The target of a move: a machine that waits until another host sends it."""

import asyncio
import contextlib
import hmac
import re
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from rusb.aio.tasks import TaskSet
from rusb.aio.tls import server_context
from rusb.errors import (
    GuestError,
    ListenError,
    ParseError,
    RusbError,
    SettingsError,
)
from rusb.usb.text import clean_text

from ...auth.hashes import Salted
from ...config import ServerConfig
from ...guests._qmp import Refused
from ...guests.qemu import QemuGuest
from ...moving import MovedClient
from ...network import bind
from ...security import certificate_files
from ...server import Server
from ...vbox.model import Hardware
from ..process import Hypervisor
from .handover import Takeover
from .images import check_images
from .link import Link, accept, proof
from .messages import (
    VERSION,
    Accept,
    Costs,
    Data,
    Device,
    Display,
    End,
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
from .profile import blocked, differences, profile_of
from .relay import Relay
from .seam import Splice, Stream
from .stream import Progressed, connect_clipboard, load, prepare

__all__ = ["Arrival"]

_ID = re.compile(r"rusb-[0-9a-f]{6}-[0-9]{1,10}")
"""What QEMU calls a remote device (``server/guests/qemu.py``)."""

MAX_WAITING: Final = 8
"""Connections that have not shown a password yet; a further one is hung up on."""

LOGON_TIMEOUT: Final = 20.0
"""Seconds for it, however much work its key is."""

WRONG_PASSWORD_DELAY: Final = 2.0
"""Seconds until somebody with a wrong password is told so (3.5)."""

LAST_TIMEOUT: Final = 20.0
"""Seconds for the source to close, once clients have changed over."""

ASK_TIMEOUT: Final = 2.0
"""Seconds for each host over which a device comes, and for its client, to say whether
the machine may go on; what they wait for takes a round trip."""

END_TIMEOUT: Final = 5.0
"""Seconds until QEMU's last words are there."""


Find: TypeAlias = Callable[[Sequence[bytes]], tuple[int, Relay, int] | None]
"""See ``Departure.find``."""


class Arrival:
    """A machine that waits, and afterwards the devices that came with it.

    Args:
        config: its settings.
        hardware: what it is made of.
        hypervisor: has been started to load a state.
        log: writes a line.
        report: gets a line for people.
        find: finds a device that comes home among those that are relayed from here.

    Attributes:
        port: where it waits.
        progress: how much memory has come; None: nothing yet.
    """

    def __init__(
        self,
        config: ServerConfig,
        hardware: Hardware,
        hypervisor: Hypervisor,
        *,
        log: Callable[[str], None],
        report: Callable[[str], None],
        find: Find = lambda way: None,
    ) -> None:
        self._config, self._hardware = config, hardware
        self._machine = config.machine
        self._hypervisor = hypervisor
        self._log, self._report, self._find = log, report, find
        self.port = 0
        self.progress: Progressed | None = None
        self._listening: list[asyncio.Task[None]] = []
        self._tasks = TaskSet()
        self._waiting = 0
        self._key: tuple[Salted, bytes] | None = None
        self._shown = b""
        self._chosen: Link | None = None
        self._devices: dict[int, Device] = {}
        self._streams: dict[int, Stream] = {}
        self._qemus: dict[int, socket.socket] = {}  # copies of QEMU's ends
        self._splices: dict[int, Splice] = {}
        self._relay: Relay | None = None
        self._peer = ""
        self._carried = asyncio.Event()
        self._server: Server | None = None
        self._over: asyncio.Future[None] | None = None
        self._display: asyncio.Future[Display] | None = None

    def listen(self) -> None:
        """Listen for a source.

        Raises:
            ListenError: the port is in use.
            SettingsError: address, certificate or password cannot be used.
        """
        settings = self._machine.teleporter
        if settings.password:
            self._key = Salted.parse(settings.password)
            if self._key is None:
                raise SettingsError(
                    "the teleporter's password was not set by rusb; set it again with"
                    f" modifyvm {self._machine.operand} --teleporterpassword"
                )
        certificate, key, _ = certificate_files(self._config)
        self._context = server_context(certificate, key, None)
        self._shown = ssl.PEM_cert_to_DER_cert(_first(certificate.read_text()))
        try:
            sockets = bind(settings.address or None, settings.port)
        except SettingsError as error:
            raise SettingsError(
                f"the teleporter: {error}; set its address with modifyvm"
                f" {self._machine.operand} --teleporteraddress"
            ) from error
        if not sockets:
            raise ListenError(
                f"the teleporter's port {settings.port} is in use, or this user may not"
                " use it; choose another one with modifyvm"
                f" {self._machine.operand} --teleporterport"
            )
        self.port = sockets[0].getsockname()[1]
        self._over = asyncio.get_running_loop().create_future()
        self._display = asyncio.get_running_loop().create_future()
        for sock in sockets:
            sock.setblocking(False)
            task = self._tasks.start(self._accept(sock), "teleport: accept")
            self._listening.append(task)
        where = settings.address or "all addresses"
        self._report(f"Waiting for a teleport on port {self.port} of {where}.")
        if self._key is None:
            self._report(
                "Warning: the teleporter has no password, so anyone who reaches its"
                " port can send a machine; set one with modifyvm --teleporterpassword"
            )

    async def wait(self) -> None:
        """Wait until the machine is here, and runs or is paused.

        Raises:
            GuestError: it cannot come any more; its QEMU is of no use.
        """
        assert self._over is not None
        await self._over

    async def aclose(self) -> None:
        """Wait no more, and let go of devices that come over the source. Idempotent."""
        await self._tasks.aclose()

    # ----------------------------------------------------------- connections ----

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    sock, where = await loop.sock_accept(listening)
                except OSError:  # of a connection that is gone, or no descriptors
                    await asyncio.sleep(0.1)
                    continue
                sock.setblocking(False)
                if self._waiting >= MAX_WAITING:
                    sock.close()
                    continue
                self._waiting += 1
                self._tasks.start(self._serve(sock, str(where[0])), "teleport: source")

    async def _serve(self, sock: socket.socket, peer: str) -> None:
        """Serve a source; whatever it does, we wait on until a stream has begun."""
        with contextlib.ExitStack() as waiting:
            waiting.callback(self._waits_no_more)
            try:
                link = await accept(sock, peer, self._context)
            except RusbError as error:
                self._log(f"Teleporter: {peer}: {error}")
                return
            await self._serve_link(link, waiting)

    def _waits_no_more(self) -> None:
        self._waiting -= 1

    async def _serve_link(self, link: Link, waiting: contextlib.ExitStack) -> None:
        """Serve a source; *waiting* is closed once it is let in."""
        peer = link.peer
        async with link:
            try:
                if not await self._let_in(link):
                    return
                waiting.close()
                await self._receive(link)
            except (RusbError, OSError) as error:
                self._log(f"Teleporter: {peer}: {error}")
                await link.fail(str(error))
            finally:
                if self._chosen is link:
                    self._chosen = None

    async def _let_in(self, link: Link) -> bool:
        """Check the password (3.2)."""
        costs = None
        if self._key is not None:
            how = self._key[0]
            costs = Costs(how.log_n, how.block, how.parallel, how.salt)
        nonce = secrets.token_bytes(32)
        await link.send(Hello(nonce, costs))
        logon = await link.receive(Logon, LOGON_TIMEOUT)
        if logon.version != VERSION:
            await link.fail(
                f"the source speaks version {logon.version} of teleporting, and the"
                f" target version {VERSION}; install the same rusb on both"
            )
            return False
        nonces = nonce, logon.nonce
        answer = b""
        if self._key is not None:
            wanted = proof(self._key[1], "source", nonces, self._shown)
            if not hmac.compare_digest(logon.proof, wanted):
                self._log(f"Teleporter: {link.peer}: wrong password")
                await asyncio.sleep(WRONG_PASSWORD_DELAY)
                await link.fail("the password is wrong")
                return False
            answer = proof(self._key[1], "target", nonces, self._shown)
        if self._chosen is not None:
            await link.fail("the target is busy with another source")
            return False
        self._chosen = link
        await link.send(Welcome(answer))
        return True

    # --------------------------------------------------------------- the move ----

    async def _receive(self, link: Link) -> None:
        offer = await link.receive(Offer)
        if refused := await self._differences(offer):
            for line in refused:
                self._log(f"Teleporter: {link.peer}: {line}")
            await link.fail("the machines differ", tuple(refused))
            return
        self._report(f"The machine comes from {link.peer}.")
        try:
            await self._make_devices(offer)
            await self._load(link)
            await link.receive(Run)
            await self._run(link)
        except asyncio.CancelledError:
            why = self._hypervisor.failure or "the target was powered off"
            await self._hypervisor.stop()
            await asyncio.shield(link.fail(why))
            raise
        except (RusbError, OSError) as error:
            why = await self._why(error)
            await self._hypervisor.stop()  # it is sure not to run any more (6.2)
            await link.fail(why)
            self._end(GuestError(f"the machine did not come: {why}"))
        else:
            self._end(None)
            await self._carry(link)
        finally:
            self._carried.set()
            for sock in (
                *(s.sock for s in self._streams.values()),
                *self._qemus.values(),
            ):
                sock.close()

    def serves(self, display: Display, server: Server | None) -> None:
        """The machine is here, and this is where its remote display is."""
        assert self._display is not None
        self._server = server
        if not self._display.done():
            self._display.set_result(display)

    async def _tell_display(self, link: Link) -> None:
        assert self._display is not None
        with contextlib.suppress(RusbError):  # it is only for viewers
            await link.send(await self._display)

    async def _carry(self, link: Link) -> None:
        """Carry the devices, until the last has left or is relayed from here."""
        streams = dict(self._streams)
        relay = self._relay = Relay(link, streams, self.unplug)
        self._peer = link.peer
        for number, device in list(self._devices.items()):
            if (found := self._find(device.way)) is not None:
                before, home, there = found
                self._devices[number] = replace(device, way=device.way[:before])
                coming = self._come_home(number, relay, home, there)
                self._tasks.start(coming, "teleport: a device comes home")
        telling = self._tasks.start(self._tell_display(link), "teleport: display")
        takeover = Takeover(link, relay, self._devices, self, self._log)
        taking = self._tasks.start(takeover.run(), "teleport: clients")
        try:
            await relay.run()
            await telling
            if takeover.has_answered:  # the source has to hear of it
                with contextlib.suppress(RusbError, TimeoutError):
                    async with asyncio.timeout(LAST_TIMEOUT):
                        await link.wait_over()
        finally:
            taking.cancel()

    def arrive(self, client: MovedClient, streams: Mapping[int, Stream]) -> None:
        """See :class:`~.handover.Takeover`."""
        guest = None if self._server is None else self._server.guest
        if self._server is None or not isinstance(guest, QemuGuest):
            raise GuestError("no remote USB is served here")
        self._server.arrive(client)
        for number, stream in streams.items():
            device = self._devices.pop(number)
            del self._streams[number]
            place = device.id, device.bus, device.port
            guest.expect(*place, stream.sock, self._qemus.pop(number))

    async def _come_home(
        self, number: int, relay: Relay, home: Relay, there: int
    ) -> None:
        """Take the other hosts out of a device's way (7.8)."""
        ours, stream = await asyncio.gather(
            relay.take_home(number), home.take_home(there)
        )
        try:
            if ours is None or stream is None or number not in self._qemus:
                for left in filter(None, (ours, stream)):
                    left.sock.close()
                await self.unplug(number)
                return
            self._streams.pop(number)
            splice = Splice(stream, ours.sock, self._qemus.pop(number))
            self._splices[number] = splice
        finally:
            relay.drop(number)
            home.drop(there)
        try:
            is_over = await splice.run()
        except asyncio.CancelledError:
            splice.close()
            raise
        if is_over:
            splice.close()
            self._splices.pop(number, None)
            await self.unplug(number)

    async def _make_devices(self, offer: Offer) -> None:
        """Have QEMU expect the streams of remote devices that come with the machine.

        Raises:
            GuestError: it cannot.
        """
        for device in offer.devices:
            if not _ID.fullmatch(device.id) or device.number in self._devices:
                raise GuestError(f"invalid name {device.id[:40]!r} of a USB device")
            ours, theirs = socket.socketpair()
            self._devices[device.number] = device
            self._streams[device.number] = Stream(ours)
            theirs.setblocking(False)  # QEMU's chardev wants that, too
            self._qemus[device.number] = theirs
            await self._hypervisor.lend(device.id, theirs)
            address = {"type": "fd", "data": {"str": device.id}}
            backend = {"type": "socket", "data": {"addr": address, "server": False}}
            chardev = {"id": device.id, "backend": backend}
            await self._hypervisor.execute("chardev-add", chardev)
            place = {"bus": device.bus, "port": device.port}
            names = {"id": device.id, "chardev": device.id}
            await self._hypervisor.execute(
                "device_add", {"driver": "usb-redir", **names, **place}
            )

    async def unplug(self, number: int) -> None:
        """A device has left, or the source has."""
        device = self._devices.pop(number, None)
        self._streams.pop(number, None)
        if (theirs := self._qemus.pop(number, None)) is not None:
            theirs.close()
        if device is not None:
            with contextlib.suppress(RusbError):
                await self._hypervisor.execute("device_del", {"id": device.id})

    def deleted(self, id: str) -> None:
        """QEMU has deleted a device: let go of its end, so that all see the end."""
        for number, device in self._devices.items():
            if device.id == id and number in self._qemus:
                self._qemus.pop(number).close()
            elif device.id == id and number in self._splices:
                self._splices[number].end()

    @property
    def ids(self) -> set[str]:
        """The monitor's names of the devices that came."""
        return {device.id for device in self._devices.values()}

    # ------------------------------------------------- when it goes on again ----

    def movable(self) -> list[Device]:
        """Return the devices of other hosts' clients that came with the machine."""
        return [
            device
            for number, device in self._devices.items()
            if device.way and (number in self._qemus or number in self._splices)
        ]

    async def let_go(self) -> dict[str, Stream]:
        """The machine went on, and its QEMU here has ended; see ``QemuGuest.let_go``.

        Return the streams to the devices, by the monitor's names.
        """
        found = {}
        for number, theirs in list(self._qemus.items()):
            stream = Stream(theirs, other=self._streams[number])
            self._streams[number].other = stream
            found[self._devices[number].id] = stream
        self._qemus.clear()
        splices, self._splices = self._splices, {}
        for number, splice in splices.items():
            found[self._devices[number].id] = await splice.let_go()
        return found

    @property
    def is_over(self) -> bool:
        """Does no device come over it any more, from another host or home?"""
        return self._tasks.is_empty

    @property
    def is_carrying(self) -> bool:
        """Do devices come over the host from which the machine came?"""
        return self._relay is not None and bool(self._relay.numbers)

    @property
    def is_through(self) -> bool:
        """Is nothing under way between QEMU and devices that came home?"""
        return all(splice.is_through for splice in self._splices.values())

    async def ask(self, what: What) -> None:
        """Ask that host about reads that wait at the devices (7.9).

        Raises:
            GuestError: the machine cannot go on; the message names the device.
        """
        relay = self._relay
        if relay is None or not self.is_carrying:
            return
        devices = [self._devices[n] for n in relay.numbers if n in self._devices]
        hosts = max((len(device.way) for device in devices), default=0)
        try:
            async with asyncio.timeout(ASK_TIMEOUT * (1 + hosts)):
                why = await relay.ask(what)
        except TimeoutError:
            names = ", ".join(clean_text(d.name) or d.id for d in devices)
            why = (
                f"{self._peer}, over which {names} comes, does not say in time whether"
                " the machine may go on: try again, or disconnect the device"
            )
        if why:
            raise GuestError(why)

    def resume_reads(self) -> None:
        """The machine has gone on, or stays."""
        if self._relay is not None:
            self._relay.resume()

    @property
    def has_carried(self) -> bool:
        """Does no device come over the source any more?"""
        return self._carried.is_set()

    async def wait_carried(self) -> None:
        """Wait until that is so."""
        await self._carried.wait()

    async def _differences(self, offer: Offer) -> list[str]:
        found = blocked(self._machine, "target")
        ours = await profile_of(self._machine, self._hardware, self._hypervisor.execute)
        found += differences(offer.profile, ours)
        found += await asyncio.to_thread(check_images, offer.images, self._hardware)
        return found

    async def _load(self, link: Link) -> None:
        """Give QEMU what comes, until it has all of it."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours:
            ours.setblocking(False)
            with theirs:
                await prepare(self._hypervisor, theirs)
            self.progress = Progressed()
            await link.send(Accept())
            while True:
                match await link.receive_any():
                    case Data(data):
                        await loop.sock_sendall(ours, data)
                    case Progress(transferred, remaining, total):
                        self._tell(Progressed(transferred, remaining, total))
                    case End():
                        break
            await load(self._hypervisor)
        await link.send(Loaded())

    def _tell(self, progress: Progressed) -> None:
        before, self.progress = self.progress, progress
        if before is not None and before.percent // 10 != progress.percent // 10:
            self._report(f"Teleporting: {progress}")

    async def _run(self, link: Link) -> None:
        """The machine is ours."""
        await self._hypervisor.execute("cont")
        self._log(f"Teleporter: the machine came from {link.peer}")
        with contextlib.suppress(RusbError):  # it runs, whether the source hears or not
            await link.send(Running())
        with contextlib.suppress(GuestError):
            await connect_clipboard(self._hypervisor, is_on=True)

    async def _why(self, error: Exception) -> str:
        """QEMU's last words say more than that it does not answer."""
        is_qemu = isinstance(error, GuestError) or not isinstance(error, RusbError)
        if is_qemu and not isinstance(error, Refused):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT):
                    while not self._hypervisor.failure:  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
        return self._hypervisor.failure or str(error)

    def give_up(self, error: RusbError) -> None:
        """QEMU has ended while it waited."""
        self._end(error)

    def _end(self, error: RusbError | None) -> None:
        for task in self._listening:
            task.cancel()
        assert self._over is not None
        if not self._over.done():
            if error is None:
                self._over.set_result(None)
            else:
                self._over.set_exception(error)


def _first(pem: str) -> str:
    """Return the first certificate of a chain."""
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    _, found, rest = pem.partition(begin)
    if not found or end not in rest:
        raise ParseError("the server's certificate is not PEM")
    return f"{begin}{rest.partition(end)[0]}{end}"
