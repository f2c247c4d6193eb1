"""A QEMU machine as the guest: every device becomes a hot-plugged usb-redir.

QEMU is asked over QMP. The usbredir connection is a socket pair of which QEMU gets one
end as a file descriptor, so there is no path to guess, to protect or to leave behind,
and it does not matter as which user QEMU runs (docs/spec/qemu-lab.md 8, usbredir.md).
Names within QEMU are made up here, never taken from a device (bad-inputs T43).
"""

import asyncio
import contextlib
import itertools
import logging
import re
import secrets
import socket
from collections.abc import Callable, Collection, Mapping, Sequence

from rusb.errors import GuestError, Hint
from rusb.usb.types import Speed
from rusb.wire.usbredir import StreamState

from ._buses import XHCI, Bus, advice_for_qemu, choose_bus, find_buses
from ._hotplug import HotplugGuest, Plug
from ._qmp import Monitor, Refused, entries_of
from ._stream import DeviceStream, usbredir_core
from .base import AttachedDevice

__all__ = ["QemuGuest"]

log = logging.getLogger(__name__)

ATTACH_TIMEOUT = 10.0
"""Seconds until QEMU must have plugged an announced device in; it takes 0.2."""

ATTACH_POLL = 0.05

DELETE_TIMEOUT = 5.0
"""Seconds until QEMU must have deleted a usb-redir; it takes 0.02."""

SUSPEND_TIMEOUT, SUSPEND_POLL = 2.0, 0.005
"""Seconds until reads at serial ports must have been taken back; that takes 0.01, and a
round trip to their client."""

END_GRACE = 0.3
"""Seconds from the end of a usbredir stream to the event of the monitor that tells its
reason: device_del, or the end of QEMU."""

PREFIX = "rusb-"
"""How the names of all our objects in QEMU begin."""


class _Plug(Plug):
    """A device and its usb-redir.

    Attributes:
        bus, port: where it is plugged in; the port may be unknown.
        far: a copy of QEMU's end of the stream, for a machine that may move.
        deleted: QEMU deleted it.
    """

    def __init__(self, id: str, device: AttachedDevice, bus: Bus) -> None:
        super().__init__(id, device)
        self.bus, self.port = bus, ""
        self.far: socket.socket | None = None
        self.deleted = asyncio.Event()


class QemuGuest(HotplugGuest[_Plug]):
    """The machine of the QEMU whose QMP socket is the address.

    Args:
        address: ``PATH`` or ``PATH,bus=NAME``; without a bus each device goes to the
            first that takes its speed, xHCI before EHCI before the others.
        machine: the name of the machine, if it is one of ours: advice then names
            VBoxManage's options, not QEMU's.
    """

    def __init__(self, address: str | None = None, *, machine: str = "") -> None:
        super().__init__(address)
        self._machine = machine
        path, _, option = (address or "").partition(",")
        self._path = path.removeprefix("unix:")
        if not self._path:
            raise GuestError("the guest's QMP socket is missing").hinting(
                Hint.OTHER_GUEST_ADDRESS
            )
        key, _, self._wanted_bus = option.partition("=")
        if option and (key != "bus" or not self._wanted_bus):
            raise GuestError(f"{option!r} after the QMP socket must be bus=NAME")
        self._buses: list[Bus] = []
        self._names = (
            f"{PREFIX}{secrets.token_hex(3)}-{n}" for n in itertools.count(1)
        )
        self._monitor: Monitor | None = None
        self._connecting = asyncio.Lock()
        self._has_moved = False
        self._unread: set[DeviceStream] = set()
        self._expected: dict[str, tuple[str, str, socket.socket, socket.socket]] = {}

    # ---------------------------------------------------------- contract ----

    async def start(self) -> None:
        """Connect to QEMU, choose a bus, remove what a killed server left there.

        Raises:
            GuestError: the socket is missing, busy, forbidden or not QMP, or this
                QEMU has no usb-redir or no USB controller.
        """
        await self._connect()

    async def attach(self, device: AttachedDevice) -> str:
        """Hot-plug a usb-redir and wait until QEMU's side plugged the device in.

        A paused machine does that when it goes on; then this does not wait.

        Raises:
            GuestError: QEMU is gone or refused.
        """
        try:
            monitor = await self._connect()
        except GuestError as error:
            raise GuestError(f"QEMU cannot be reached: {error}") from error
        wanted, speed = self._wanted_bus, device.info.speed
        bus = choose_bus(
            [bus for bus in self._buses if not wanted or bus.name == wanted],
            device.info,
            advice_for_qemu(speed, machine=self._machine, has_wish=bool(wanted)),
        )
        plug = _Plug(next(self._names), device, bus)
        self._plugs[plug.id] = plug
        try:
            await self._plug_in(monitor, plug)
            is_paused = await self._wait_until_in(monitor, plug)
            port = plug.port = await self._find_port(monitor, plug)
            self._check_port(plug, port)
        except BaseException:
            await self._take_out(plug)
            raise
        if plug.why is not None:
            await self._take_out(plug)
            raise GuestError(plug.why)
        plug.is_in = True
        where = f"port {port} on {bus.name}" if port else bus.name
        return f"{where} (paused)" if is_paused else where

    async def open_screen(self, head: int) -> socket.socket:
        """Let QEMU serve us its first screen; it has a VNC server for that.

        Raises:
            GuestError: QEMU is gone or was started without ``-vnc``, or *head* is
                another.
        """
        if head:
            raise GuestError("QEMU only shows its first screen here")
        monitor = await self._connect()
        name = next(self._names)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                await monitor.execute(
                    "getfd", {"fdname": name}, descriptor=theirs.fileno()
                )
            await monitor.execute(
                "add_client", {"protocol": "vnc", "fdname": name, "skipauth": True}
            )
        except BaseException as error:
            ours.close()
            if isinstance(error, Refused):
                with contextlib.suppress(Refused):
                    await monitor.execute("closefd", {"fdname": name})
                raise GuestError(
                    f"the QEMU at {self._path} shows no screen: start it with -vnc none"
                    f" to have one here ({error})"
                ) from error
            raise
        ours.setblocking(False)
        return ours

    async def send_input(
        self, head: int, events: Sequence[Mapping[str, object]]
    ) -> None:
        """Send input events of QMP."""
        monitor = await self._connect()
        await monitor.execute("input-send-event", {"events": list(events)})

    async def aclose(self) -> None:
        """Unplug everything and hang up."""
        for place in list(self._expected):
            await self.refuse(place)
        await super().aclose()
        if self._monitor is not None:
            await self._monitor.aclose()
            self._monitor = None

    # ------------------------------------------------------- teleporting ----

    def movable(self) -> list[tuple[str, str, str, str]]:
        """Return id, bus, port and name of each device that is in the machine."""
        plugs = [plug for plug in self._plugs.values() if plug.is_in]
        return [(p.id, p.bus.name, p.port, str(p.device.info)) for p in plugs]

    def check_movable(self, *, is_suspended: bool) -> None:
        """Check that QEMU can move what waits at the devices.

        Of several reads at one endpoint it remembers one (7.2: teleport.md 7.9).

        Args:
            is_suspended: :meth:`suspend_reads` was called; before, serial ports do not
                count.

        Raises:
            GuestError: one has more.
        """
        for stream in self._streams():
            if stream in self._unread or stream.keeps_reads_waiting(
                but_serial=not is_suspended
            ):
                raise GuestError(
                    f"the guest keeps several reads waiting at {stream.info}, and QEMU"
                    " loses them when the machine moves: close in the guest what uses"
                    " the device, or disconnect it"
                )

    async def suspend_reads(
        self, is_through: Callable[[], bool] = lambda: True
    ) -> None:
        """Leave no read waiting at serial ports; :meth:`check_movable` tells if one is.

        Args:
            is_through: is nothing under way between our streams and QEMU?

        Raises:
            GuestError: QEMU does not answer.
        """
        monitor = None if self._has_moved else await self._connect()
        unread = self._unread = {s for s in self._streams() if s.suspend_reads()}
        end = asyncio.get_running_loop().time() + SUSPEND_TIMEOUT
        while unread and asyncio.get_running_loop().time() < end:
            for stream in unread:
                stream.settle_reads()
            if is_through() and all(stream.is_read for stream in unread):
                if monitor is not None:  # by then it has acted on what it read
                    await self._status(monitor)
                if is_through() and all(stream.is_read for stream in unread):
                    unread.clear()
                    break
            await asyncio.sleep(SUSPEND_POLL)

    def resume_reads(self) -> None:
        """The machine has moved, or stays: serial ports are read again."""
        self._unread = set()
        for stream in self._streams():
            stream.resume_reads()

    def _streams(self) -> list[DeviceStream]:
        """The streams of devices that are in the machine."""
        plugs = self._plugs.values()
        return [plug.stream for plug in plugs if plug.is_in and plug.stream is not None]

    def let_go(self) -> dict[str, socket.socket]:
        """The machine goes on in another QEMU, and this one is about to end.

        Return QEMU's ends of the streams, by id. What this QEMU has not read is still
        in them, since it reads nothing while it stands still: so whoever reads there
        goes on exactly where it stopped. When that end is closed the device is lost.
        """
        self._has_moved = True
        found = {}
        for plug in self._plugs.values():
            far, plug.far = plug.far, None
            if far is not None:
                found[plug.id] = far
        return found

    async def come_back(self, ids: Collection[str]) -> None:
        """The machine is here again, in a new QEMU, which has these devices.

        Raises:
            GuestError: QEMU does not answer.
        """
        self._has_moved = False
        for plug in list(self._plugs.values()):
            if plug.id not in ids:
                self._drop(plug, "it was gone before the machine came back")
        await self._connect()

    # --------------------------------------------------- to another server ----

    def expect(
        self, place: str, bus: str, port: str, sock: socket.socket, far: socket.socket
    ) -> None:
        """A device is in the machine that another server had attached.

        Args:
            place: what it is called there.
            bus, port: where it is.
            sock: its stream, which is ours from now on.
            far: a copy of QEMU's end, likewise.
        """
        self._expected[place] = bus, port, sock, far

    def stream_of(self, device: AttachedDevice) -> tuple[str, DeviceStream] | None:
        """See :class:`~rusb.server.guests._stream.MovableGuest`."""
        for plug in self._plugs.values():
            if plug.device is device and plug.is_in and plug.stream is not None:
                return plug.id, plug.stream
        return None

    async def adopt(
        self, device: AttachedDevice, place: str, state: StreamState, unsent: bytes
    ) -> str:
        """See :class:`~rusb.server.guests._stream.MovableGuest`."""
        found = self._expected.pop(place, None)
        if found is None:
            raise GuestError(f"the machine has no device {place[:40]!r}")
        name, port, sock, far = found
        try:
            await self._connect()
            bus = next((bus for bus in self._buses if bus.name == name), None)
            if bus is None:
                raise GuestError(f"the machine has no USB bus {name[:40]!r}")
            core = usbredir_core(device)
            core.adopt(device.info, device.descriptors, state)
        except BaseException:
            sock.close()
            far.close()
            raise
        plug = self._plugs[place] = _Plug(place, device, bus)
        plug.port, plug.is_in, plug.far = port, True, far
        try:
            plug.stream = await DeviceStream.over(
                sock,
                device,
                core,
                on_refused=lambda: self._drop(plug, _refusal(device)),
                on_ended=lambda: self._stream_ended(plug),
                unsent=unsent,
            )
        except BaseException:
            await self._take_out(plug)
            raise
        return f"port {port} on {name}"

    async def refuse(self, place: str) -> None:
        """See :class:`~rusb.server.guests._stream.MovableGuest`."""
        found = self._expected.pop(place, None)
        for sock in found[2:] if found is not None else ():
            sock.close()
        with contextlib.suppress(GuestError):
            await (await self._connect()).execute("device_del", {"id": place})

    def forget(self, device: AttachedDevice) -> None:
        """See :class:`~rusb.server.guests._stream.MovableGuest`."""
        for plug in list(self._plugs.values()):
            if plug.device is device:
                if plug.stream is not None:
                    plug.stream.let_go()
                if plug.far is not None:
                    plug.far.close()
                del self._plugs[plug.id]

    # -------------------------------------------------------- connection ----

    async def _connect(self) -> Monitor:
        """Return the open monitor; a new one when QEMU was started anew."""
        async with self._connecting:
            if self._monitor is not None and self._monitor.is_open:
                return self._monitor
            if self._monitor is not None:
                await self._monitor.aclose()
                self._monitor = None
            monitor = Monitor(self._path, self._on_event, self._on_end)
            try:
                await monitor.open()
                await self._get_ready(monitor)
            except BaseException:
                await monitor.aclose()
                raise
            self._monitor = monitor
            return monitor

    async def _get_ready(self, monitor: Monitor) -> None:
        try:
            await monitor.execute("device-list-properties", {"typename": "usb-redir"})
        except Refused as error:
            raise GuestError(
                f"the QEMU at {self._path} was built without usb-redir"
            ) from error
        buses = self._buses = await find_buses(monitor)
        names = ", ".join(map(str, buses))
        if not buses:
            raise GuestError(
                f"the machine at {self._path} has no USB controller; start QEMU with"
                f" -device {XHCI}"
            )
        if self._wanted_bus and self._wanted_bus not in [bus.name for bus in buses]:
            raise GuestError(
                f"this machine has no USB bus {self._wanted_bus!r}; it has {names}"
            )
        await self._sweep(monitor)
        log.info("guest is the QEMU at %s with %s", self._path, names)

    async def _sweep(self, monitor: Monitor) -> None:
        """Delete devices whose server was killed: nobody holds their other end."""
        for label, filename in await self._chardevs(monitor):
            if label.startswith(PREFIX) and filename.startswith("disconnected:"):
                log.warning("removing %s, left behind in QEMU", label)
                try:
                    await monitor.execute("device_del", {"id": label})
                except Refused:
                    await self._remove_chardev(monitor, label)

    def _on_end(self) -> None:
        """The monitor hung up: so ends everything, until QEMU is started again."""
        if self._has_moved:
            return
        why = f"QEMU at {self._path} has ended"
        self._drop_all(why, is_awaited=not self._machine)  # ours ends with its machine

    async def _is_back(self) -> bool:
        monitor = await self._connect()
        return await self._status(monitor) != "inmigrate"

    def _on_event(self, name: str, data: Mapping[str, object]) -> None:
        plug = self._plugs.get(str(data.get("device")))
        if name == "DEVICE_DELETED" and plug is not None:
            plug.deleted.set()
            self._drop(plug, "removed from QEMU by device_del")

    # ----------------------------------------------------------- plug in ----

    async def _plug_in(self, monitor: Monitor, plug: _Plug) -> None:
        if await self._status(monitor) == "inmigrate":
            # Its usb-redir would wait for a state to load and never say hello.
            raise GuestError("QEMU is still loading the machine's state")
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                await monitor.execute(
                    "getfd", {"fdname": plug.id}, descriptor=theirs.fileno()
                )
                if self._machine:
                    plug.far = theirs.dup()
            address = {"type": "fd", "data": {"str": plug.id}}
            backend = {"type": "socket", "data": {"addr": address, "server": False}}
            await monitor.execute("chardev-add", {"id": plug.id, "backend": backend})
            plug.stream = await DeviceStream.over(
                ours,
                plug.device,
                usbredir_core(plug.device),
                on_refused=lambda: self._drop(plug, _refusal(plug.device)),
                on_ended=lambda: self._stream_ended(plug),
            )
        except BaseException:
            ours.close()
            raise
        await monitor.execute(
            "device_add",
            {
                "driver": "usb-redir",
                "id": plug.id,
                "chardev": plug.id,
                "bus": plug.bus.name,
            },
        )

    async def _wait_until_in(self, monitor: Monitor, plug: _Plug) -> bool:
        """Wait until QEMU plugged it in; True: no need to, the machine is paused."""
        path = {"path": f"/machine/peripheral/{plug.id}", "property": "attached"}
        loop = asyncio.get_running_loop()
        end = loop.time() + ATTACH_TIMEOUT
        while plug.why is None and await monitor.execute("qom-get", path) is not True:
            if await self._status(monitor) != "running":
                return True
            if loop.time() > end:
                raise GuestError(f"QEMU did not plug {plug.device.info} in")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ATTACH_POLL):
                    await plug.ended.wait()
        return False

    async def _find_port(self, monitor: Monitor, plug: _Plug) -> str:
        """The port, ``3``, or ``4.1`` behind a hub; QEMU tells it to humans only."""
        with contextlib.suppress(Refused):
            text = await monitor.execute(
                "human-monitor-command", {"command-line": "info usb"}
            )
            line = rf"Port ([0-9.]{{1,20}}),.*ID: {plug.id}\s*$"
            if port := re.search(line, str(text), re.MULTILINE):
                return port[1]
        return ""

    def _check_port(self, plug: _Plug, port: str) -> None:
        """When ports run out QEMU adds a hub, which is of full speed (qemu-lab.md).

        Raises:
            GuestError: the device does not work behind it.
        """
        if "." not in port or plug.device.info.speed is not Speed.SUPER:
            return
        advice = (
            f"unplug another device of {self._machine!r} first"
            if self._machine
            else f"start QEMU with -device {XHCI}"
        )
        raise GuestError(
            f"all ports of {plug.bus} are in use, and QEMU put the device behind a"
            f" full-speed hub (port {port}), where a SuperSpeed device does not work:"
            f" {advice}"
        )

    @staticmethod
    async def _status(monitor: Monitor) -> object:
        answer = await monitor.execute("query-status")
        return answer.get("status") if isinstance(answer, dict) else None

    # ---------------------------------------------------------- take out ----

    def _stream_ended(self, plug: _Plug) -> None:
        """QEMU closed its end; the monitor says why, a little later."""
        loop = asyncio.get_running_loop()
        loop.call_later(END_GRACE, self._drop, plug, "QEMU closed its end")

    async def _delete(self, plug: _Plug) -> None:
        """Delete usb-redir and chardev, whichever of them exist."""
        if plug.far is not None:
            plug.far.close()
        monitor = self._monitor
        if monitor is None or not monitor.is_open:
            return
        if not plug.deleted.is_set():
            try:
                await monitor.execute("device_del", {"id": plug.id})
                async with asyncio.timeout(DELETE_TIMEOUT):
                    await plug.deleted.wait()
            except Refused as error:
                log.debug("%s: %s", plug.id, error)  # it was never added, or is gone
            except TimeoutError:
                log.warning("QEMU does not delete %s", plug.id)
        # QEMU deletes the chardev of a usb-redir with it.
        if any(label == plug.id for label, _ in await self._chardevs(monitor)):
            await self._remove_chardev(monitor, plug.id)

    @staticmethod
    async def _chardevs(monitor: Monitor) -> list[tuple[str, str]]:
        """Label and file name of each chardev."""
        answer = await monitor.execute("query-chardev")
        return [
            (str(e.get("label")), str(e.get("filename"))) for e in entries_of(answer)
        ]

    @staticmethod
    async def _remove_chardev(monitor: Monitor, label: str) -> None:
        try:
            await monitor.execute("chardev-remove", {"id": label})
        except Refused as error:
            log.warning("chardev %s stays in QEMU: %s", label, error)


def _refusal(device: AttachedDevice) -> str:
    return (
        f"QEMU refused {device.info}: its speed does not fit the port, or a filter of"
        " QEMU forbids it; QEMU's own output says why"
    )


PLUGIN = QemuGuest
