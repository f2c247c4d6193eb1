"""A running domain of libvirt as the guest: every device becomes a redirdev.

The domain is not restarted and its settings stay as they are. QEMU connects to a socket
of ours while virsh attaches the redirdev, and speaks usbredir there. Names within the
domain are made up here, never taken from a device (bad-inputs T43).
"""

import asyncio
import contextlib
import itertools
import logging
import os
import re
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import cast
from xml.sax.saxutils import quoteattr

from rusb.errors import GuestError, Hint
from rusb.oserrors import reason

from ._buses import Bus, choose_bus
from ._domain import CONTROLLER, Domain, NoDomain, Virsh
from ._hotplug import HotplugGuest, Plug
from ._listening import is_stale, listen, listen_at
from ._stream import DeviceStream, usbredir_core
from .base import AttachedDevice

__all__ = ["LibvirtGuest"]

log = logging.getLogger(__name__)

PROGRAMS = {"virsh": "libvirt-clients"}
"""What has to be installed, and Debian's package of it; ``rusb plugins`` shows it."""

CONNECT_TIMEOUT = 10.0
"""Seconds until QEMU must have connected, which it does while virsh runs."""

SETTLE = 0.5
"""Seconds in which QEMU refuses a device, if it does; it takes 0.2."""

END_POLL = 0.3
"""Seconds between two looks at a domain whose QEMU has closed a stream."""

END_LOOKS = 30
"""How often, until it just closed its end; a machine takes a second to be off."""

PREFIX = "ua-rusb-"
"""How the names of our devices in a domain begin; libvirt wants the first part."""

_FOLDER = "rusb-libvirt-"
"""How the names of directories of sockets begin."""

_XHCI = "<controller type='usb' model='qemu-xhci' ports='15'/>"


class _Plug(Plug):
    """A device and its redirdev.

    Attributes:
        run: of the domain.
        connected: QEMU has.
    """

    def __init__(self, id: str, device: AttachedDevice, run: str) -> None:
        super().__init__(id, device)
        self.run = run
        self.connected = asyncio.Event()


class LibvirtGuest(HotplugGuest[_Plug]):
    """A domain of a libvirt of this machine.

    Args:
        address: ``DOMAIN`` or ``URI,DOMAIN``.
        program: another virsh.
    """

    def __init__(self, address: str | None = None, *, program: str = "virsh") -> None:
        super().__init__(address)
        found = re.fullmatch(r"(?:([a-z][a-z0-9+.-]*:/[^,]*),)?(.+)", address or "")
        if found is None or (not found[1] and "://" in found[2]):
            raise GuestError("libvirt needs DOMAIN or URI,DOMAIN").hinting(
                Hint.OTHER_GUEST_ADDRESS
            )
        self._virsh = Virsh(found[1] or "", found[2], program)
        self._token = secrets.token_hex(3)
        self._numbers = itertools.count(1)
        self._attaching = asyncio.Lock()
        self._expected: _Plug | None = None
        self._folder: Path | None = None  # of the socket
        self._servers: dict[bool, asyncio.Server] = {}  # by whether they are of TCP
        self._user = os.geteuid()

    # ---------------------------------------------------------- contract ----

    async def start(self) -> None:
        """See whether the domain runs, remove what a killed server left there.

        Raises:
            GuestError: libvirt or the domain is missing, or does not run.
        """
        domain = await self._virsh.check()
        if not domain.buses:
            raise GuestError(f"the domain has no USB controller: {self._advice()}")
        await self._sweep(domain)
        names = ", ".join(map(str, domain.buses))
        log.info("guest is %s with %s", self._virsh.domain, names)

    async def attach(self, device: AttachedDevice) -> str:
        """Attach a redirdev and wait until QEMU plugged the device in.

        Raises:
            GuestError: the domain is off, or refused.
        """
        async with self._attaching:  # the next that connects is the one we wait for
            domain = await self._look()
            if not domain.run:
                self._domain_ended()
                raise GuestError(f"the domain {self._virsh.domain!r} is off")
            bus = choose_bus(domain.buses, device.info, self._advice())
            id = f"{PREFIX}{self._token}-{next(self._numbers)}"
            plug = self._plugs[id] = _Plug(id, device, domain.run)
            try:
                await self._plug_in(plug, domain, bus)
                found = (await self._look()).redirections.get(id)
            except BaseException:
                await self._take_out(plug)
                raise
            finally:
                self._expected = None
        if plug.why is not None or found is None:
            await self._take_out(plug)
            raise GuestError(plug.why or "somebody has detached it from the domain")
        plug.is_in = True
        return f"port {found.port} of USB {bus.name}"

    async def aclose(self) -> None:
        """Unplug everything and listen no more."""
        await super().aclose()
        for server in self._servers.values():
            server.close()
        self._servers.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    # ------------------------------------------------------------ plug in ----

    async def _plug_in(self, plug: _Plug, domain: Domain, bus: Bus) -> None:
        source = await self._listen(domain)
        self._expected = plug
        number = bus.name.removeprefix(CONTROLLER)
        await self._virsh.attach(
            f"<redirdev bus='usb' {source}<alias name='{plug.id}'/>"
            f"<address type='usb' bus={quoteattr(number)}/></redirdev>"
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await plug.connected.wait()
        except TimeoutError:
            raise GuestError("QEMU has not connected to rusb") from None
        try:
            async with asyncio.timeout(SETTLE):
                await plug.ended.wait()
        except TimeoutError:
            return
        raise GuestError(str(plug.why))

    async def _listen(self, domain: Domain) -> str:
        """Have a listener that the domain's QEMU can reach; return its XML.

        QEMU that runs as another user or is confined cannot open a socket of ours. It
        connects by TCP then, and is known by its user.
        """
        is_tcp = domain.user is not None
        if is_tcp:
            self._user = cast(int, domain.user)
            if is_tcp not in self._servers:
                self._servers[is_tcp] = await listen(
                    "127.0.0.1", 0, lambda: _Caller(self)
                )
            port = self._servers[is_tcp].sockets[0].getsockname()[1]
            place = f"host='127.0.0.1' service='{port}'"
            return f"type='tcp'><source mode='connect' {place}/><protocol type='raw'/>"
        if self._folder is None:
            self._folder = _make_folder()
        path = self._folder / "redir"
        if is_tcp not in self._servers:
            self._servers[is_tcp] = await listen_at(path, lambda: _Caller(self))
        return f"type='unix'><source mode='connect' path={quoteattr(str(path))}/>"

    def called(self, transport: asyncio.Transport) -> None:
        """Somebody has connected: QEMU, while a device is being attached."""
        plug = self._expected
        is_qemu = _user_of(transport) in (None, self._user)
        if plug is None or plug.stream is not None or not is_qemu:
            log.warning("somebody else than QEMU has connected, and is hung up on")
            transport.abort()
            return
        plug.stream = DeviceStream(
            plug.device,
            usbredir_core(plug.device),
            on_refused=lambda: self._drop(plug, _refusal(plug.device)),
            on_ended=lambda: self._stream_ended(plug),
        )
        transport.set_protocol(plug.stream)
        plug.stream.connection_made(transport)
        plug.connected.set()

    # ---------------------------------------------------------- its ending ----

    def _stream_ended(self, plug: _Plug) -> None:
        """QEMU closed its end; libvirt knows why, a little later."""
        if not plug.is_in:
            self._drop(plug, "QEMU closed its end")
            return
        self._tasks.start(self._find_reason(plug), f"the end of {plug.id}")

    async def _find_reason(self, plug: _Plug) -> None:
        for _ in range(END_LOOKS):
            await asyncio.sleep(END_POLL)
            try:
                domain = await self._look()
            except GuestError as error:  # its daemon may be started again just now
                log.debug("%s: %s", plug.id, error)
                continue
            if plug.why is not None or plug.removal is not None:
                return  # another one has found it out meanwhile
            if domain.run != plug.run:
                self._domain_ended()
                return
            if plug.id not in domain.redirections:
                self._drop(plug, "detached from the domain")
                return
        self._drop(plug, "QEMU closed its end")

    def _domain_ended(self) -> None:
        self._drop_all(f"the domain {self._virsh.domain!r} has ended")

    async def _is_back(self) -> bool:
        domain = await self._look()
        if domain.run:
            await self._sweep(domain)
        return bool(domain.run)

    async def _look(self) -> Domain:
        """See how the domain is; one that is gone is off, and may be made again."""
        try:
            return await self._virsh.look()
        except NoDomain:
            return Domain(("", ""), "", (), None, {})

    async def _delete(self, plug: _Plug) -> None:
        domain = await self._look()
        if plug.id in domain.redirections:
            await self._virsh.detach(plug.id)

    async def _sweep(self, domain: Domain) -> None:
        """Remove devices that nobody holds the other end of."""
        for alias, found in domain.redirections.items():
            if not alias.startswith(PREFIX) or alias in self._plugs:
                continue
            is_ours = alias.startswith(f"{PREFIX}{self._token}-")
            if is_ours or (found.place and await is_stale(found.place)):
                log.warning("removing %s, left behind in the domain", alias)
                try:
                    await self._virsh.detach(alias)
                except GuestError as error:
                    log.warning("%s stays there: %s", alias, error)
                if isinstance(found.place, str) and not is_ours:
                    _remove_folder(Path(found.place))

    # -------------------------------------------------------------- words ----

    def _advice(self) -> str:
        return (
            f"give it {_XHCI} in place of its own with '{self._virsh.command('edit')}',"
            " shut it down and start it again"
        )


class _Caller(asyncio.Protocol):
    """A connection to our socket."""

    def __init__(self, guest: LibvirtGuest) -> None:
        self._guest = guest

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._guest.called(cast(asyncio.Transport, transport))


def _make_folder() -> Path:
    """Make a directory for the socket that only we can use, of a short name."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    try:
        return Path(tempfile.mkdtemp(prefix=_FOLDER, dir=base))
    except OSError as error:
        raise GuestError(
            f"cannot create a directory in {base} for a socket: {reason(error)}"
        ) from error


def _remove_folder(sock: Path) -> None:
    """Remove a socket that a killed server left, and the directory that it made."""
    if sock.parent.name.startswith(_FOLDER):
        with contextlib.suppress(OSError):
            sock.unlink(missing_ok=True)
            sock.parent.rmdir()


def _user_of(transport: asyncio.Transport) -> int | None:
    """The number of the user at the other end of TCP within this machine.

    None: it is a socket of the file system, which only we can use; -1: nobody knows.
    """
    ours = transport.get_extra_info("sockname")
    if not isinstance(ours, tuple):
        return None
    theirs = transport.get_extra_info("peername")
    wanted = [_as_proc(theirs), _as_proc(ours)] if theirs else []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1:3] == wanted:
            return int(words[7])
    return -1


def _as_proc(place: tuple[str, int]) -> str:
    """An address of IPv4 and a port, as /proc/net/tcp has them."""
    numbers = bytes(map(int, place[0].split(".")))
    return f"{int.from_bytes(numbers, sys.byteorder):08X}:{place[1]:04X}"


def _refusal(device: AttachedDevice) -> str:
    return (
        f"the domain refused {device.info}: its speed does not fit the port, or a"
        " <redirfilter> of the domain forbids it"
    )


PLUGIN = LibvirtGuest
