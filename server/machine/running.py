"""A machine that runs: hypervisor, VRDP server and control socket as one."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rusb.errors import ControlError, GuestError, RusbError

from ..client_usb import ClientUsb
from ..config import ServerConfig
from ..elsewhere import Elsewhere
from ..event_log import EventLog
from ..guests.base import GuestBackend
from ..guests.loopback import LoopbackGuest
from ..guests.qemu import QemuGuest
from ..release_log import ReleaseLog
from ..server import Server
from ..state import DisplayState, MachineState
from ..vbox.engine import Engine
from ..vbox.lock import MachineLock, lock_path
from ..vbox.model import Hardware
from ..vbox.settings import LIVE_PROPERTIES, Machine, load_machine
from .command_line import MAX_HEADS
from .console import Console
from .control import Command, ControlServer, control_path
from .host_devices import HostDevices, HostPlugs
from .libvirt_domain import LibvirtDomain
from .media_control import media_commands
from .process import MakeHypervisor, QemuProcess
from .teleport.arrival import Arrival
from .teleport.control import TeleportControl
from .teleport.departure import Departure, Destination
from .teleport.messages import Display

__all__ = ["RunningMachine"]

_NO_CONTROLLER = (
    "the machine has no USB controller; power it off and add one with modifyvm VM"
    " --usb-xhci on"
)

_STANDS_STILL = ("finish-migrate", "postmigrate")
"""States of QEMU after a teleport that was cut at the switch."""


_ENGINES: Mapping[Engine, MakeHypervisor] = {
    Engine.QEMU: QemuProcess,
    Engine.LIBVIRT: LibvirtDomain,
}


class RunningMachine:
    """A running machine. Use as an async context manager.

    Args:
        machine: its settings.
        hardware: what it is made of.
        log: path of ``VBox.log``.
        report: gets a line for everything a user at the terminal wants to know.
        notes: what its user is told at the start.
        host_usb: finds the devices of this machine, for ``usbattach``.
        state: folder of the self-made certificate; None: the user's.
        hypervisor: makes what runs it; None: what the settings name.
    """

    def __init__(
        self,
        machine: Machine,
        hardware: Hardware,
        *,
        log: str,
        report: Callable[[str], None],
        notes: Iterable[str] = (),
        host_usb: Callable[[], HostDevices] | None = None,
        state: Path | None = None,
        hypervisor: MakeHypervisor | None = None,
    ) -> None:
        self.machine = machine
        self._report = report
        self._notes = list(notes)
        self._state = state
        lock = MachineLock(lock_path(machine.uuid), settings=machine.path)
        self._host_usb = host_usb
        self._plugs: HostPlugs | None = None
        self._hardware = hardware
        self._arrival: Arrival | None = None
        self._came: list[Arrival] = []  # they may still carry devices
        self._guests: dict[str, GuestBackend] = {}
        self._arriving: asyncio.Task[None] | None = None
        self._failure = ""
        find_path = partial(control_path, machine.uuid)
        self._console = Console(
            *(hardware, self._ask, min(machine.monitors, MAX_HEADS)),
            names=lambda slot: self._hypervisor.network_names(slot),
            log=lambda text: self._log.write(text),
        )
        self._happened = EventLog(machine.name)
        self._teleport = TeleportControl(self._depart, self._left)
        self._control = ControlServer(find_path, self._commands(), lock, self._happened)
        self._control.hold()
        self._log = ReleaseLog(log)
        self._is_over = asyncio.Event()
        make = hypervisor or _ENGINES[machine.engine]
        self._hypervisor = make(machine, hardware, self._log.write, self._qemu_ended)
        self._hypervisor.deleted = self._device_deleted
        self._server: Server | None = None
        self._port = -1  # 0: the server did not start (vrdp-server.md 5.3)
        self._changing = asyncio.Lock()
        self._is_closing = False
        self._started = time.time()

    async def __aenter__(self) -> "RunningMachine":
        try:
            await self._start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def failure(self) -> str:
        """Why the machine ended, unless guest or user switched it off."""
        return self._failure or self._hypervisor.failure

    async def wait_ended(self) -> None:
        """Wait until the machine is off."""
        await self._is_over.wait()

    async def aclose(self) -> None:
        """Power off, disconnect everybody, let go of the machine. Idempotent."""
        self._is_closing = True
        await self._teleport.aclose()
        for arrival in (*filter(None, [self._arrival]), *self._came):
            await arrival.aclose()
        async with self._changing:  # what a command starts is there, or is not begun
            await self._stop_server()
        if self._arriving is not None:
            self._arriving.cancel()
            await asyncio.wait([self._arriving])
        plugs, self._plugs = self._plugs, None
        if plugs is not None:
            await plugs.aclose()
        await self._hypervisor.stop()
        await self._control.aclose()
        self._log.close()

    async def _start(self) -> None:
        waits = self.machine.teleporter.enabled
        await self._hypervisor.start(incoming="defer" if waits else "")
        self._notes += self._hypervisor.notes
        for note in self._notes:
            self._log.write(f"Console: {note}")
            self._report(f"Warning: {note}")
        if waits:
            self._wait_for_source()
        else:
            await self._begin()
        await self._control.start()

    def _wait_for_source(self) -> None:
        """Have the machine sent by another host (docs/spec/teleport.md)."""
        self._arrival = Arrival(
            ServerConfig(self.machine, state=self._state),
            self._hardware,
            self._hypervisor,
            log=self._log.write,
            report=self._report,
            find=self._teleport.find,
        )
        self._arrival.listen()
        self._arriving = asyncio.ensure_future(self._arrive(self._arrival))

    async def _arrive(self, arrival: Arrival) -> None:
        try:
            await arrival.wait()
        except RusbError as error:
            self._log.write(f"Teleporter: {error}")
            if self._teleport.is_relaying:  # devices still come over here
                self._report(f"The machine stays at the other host: {error}")
                self._arrival = None
                await self._hypervisor.stop()
                return
            self._failure = str(error)
            self._is_over.set()
            return
        self._report("The machine has come and runs here.")
        async with self._changing:
            self._teleport.came_home()
            if self._server is not None:
                self._server.came_home()
            self._arrival = None
            # in place, as departures look at it, too
            self._came[:] = [*(a for a in self._came if not a.is_over), arrival]
            if not self._is_closing:
                with self._warning():  # it runs, whatever is missing here
                    await self._console.start()
                await self._begin_display()
                for guest in self._own_guests():
                    with contextlib.suppress(GuestError):
                        await guest.come_back(arrival.ids)
            arrival.serves(self._display(), self._server)

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Only warn of what fails."""
        try:
            yield
        except RusbError as error:
            self._log.write(f"Console: Warning: {error}")
            self._report(f"Warning: {error}")

    def _display(self) -> Display:
        """Where the machine's remote display is, for those who had it elsewhere."""
        server = self._server
        if server is None:
            return Display("", 0, b"")
        address = self.machine.remote_display.property("TCP/Address")
        if address in ("0.0.0.0", "::"):
            address = ""
        digest = server.fingerprint.partition(":")[2]
        if not self.machine.resume_seconds:
            digest = ""  # no client can come here with what it has
        return Display(address, server.port, bytes.fromhex(digest))

    def _own_guests(self) -> list[QemuGuest]:
        return [g for g in self._guests.values() if isinstance(g, QemuGuest)]

    def _device_deleted(self, name: str) -> None:
        for arrival in self._came:
            arrival.deleted(name)

    def _qemu_ended(self) -> None:
        """The hypervisor has ended; that is not always the machine's end."""
        if not self._teleport.is_gone:
            self._is_over.set()
        elif self._arrival is not None:
            why = self._hypervisor.failure or "the machine was powered off"
            self._arrival.give_up(GuestError(why))

    async def _begin(self) -> None:
        """Serve what runs.

        Raises:
            ControlError: ports of this host cannot be forwarded.
        """
        await self._console.start()
        await self._begin_display()

    async def _begin_display(self) -> None:
        if self.machine.remote_display.enabled and self._server is None:
            with contextlib.suppress(RusbError):
                # the machine runs all the same (vrdp-server.md 5.2)
                await self._start_server()

    def power_off(self, why: str) -> None:
        """Let the machine end; *why* is for the log."""
        self._log.write(f"Console: {why}: power off")
        self._hypervisor.expect_end()
        self._is_over.set()

    # -------------------------------------------------------- VRDP server ----

    async def _start_server(self) -> None:
        config = ServerConfig(self.machine, state=self._state)
        guest: GuestBackend = LoopbackGuest()  # for a machine that gets no devices
        if self.machine.usb_controllers:
            guest = self._guests["usb"] = self._hypervisor.guest("usb")
        server = Server(
            config,
            guest=guest,
            screens=self._hypervisor,
            log=self._log,
            happened=self._happened,
            report=self._report,
        )
        self._port = 0
        try:
            await server.start()
        except RusbError as error:
            self._log.write(f"VRDE: Warning: failed to launch VRDE server: {error}")
            self._report(f"VRDE server failed to start: {error}")
            raise
        self._server, self._port = server, server.port
        self._report(f"VRDE server is listening on port {server.port}.")
        if server.fingerprint:
            self._report(f"The server's certificate is {server.fingerprint}")

    async def _stop_server(self) -> None:
        server, self._server, self._port = self._server, None, -1
        if server is not None:
            await server.aclose()
            self._report("VRDE server is inactive.")

    # ------------------------------------------------------------ control ----

    def _commands(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        return {
            "info": self._info,
            "poweroff": self._poweroff,
            "acpipowerbutton": self._tell("system_powerdown"),
            "reset": self._tell("system_reset"),
            "pause": self._tell("stop"),
            "resume": self._tell("cont"),
            "vrde": self._set_vrde,
            "vrdeproperty": self._set_property,
            "reload": self._reload,
            "usbattach": self._usbattach,
            "usbdetach": self._usbdetach,
            **self._teleport.commands(),
            "teleportwait": self._await_again,
            **self._checked(
                self._check_present,
                self._console.commands()
                | media_commands(self.machine, self._settings_changed),
            ),
            **self._checked(self._check_here, self._console.changes()),
        }

    def _checked(
        self, check: Callable[[], None], commands: Mapping[str, Command]
    ) -> dict[str, Command]:
        """Have commands refused while the machine is not in the state for them."""

        async def run(command: Command, arguments: Mapping[str, Any]) -> object:
            check()
            return await command(arguments)

        return {name: partial(run, command) for name, command in commands.items()}

    def _settings_changed(self) -> None:
        if self._server is not None:
            self._server.settings_changed()

    def _tell(self, command: str) -> Callable[[Mapping[str, Any]], Any]:
        async def tell(arguments: Mapping[str, Any]) -> None:
            self._check_here()
            self._log.write(f"Console: {command}")
            await self._ask(command)
            if command == "cont":
                await self._teleport.resumed()

        return tell

    async def _ask(
        self, command: str, arguments: Mapping[str, object] | None = None
    ) -> object:
        """Run a command of the monitor."""
        return await self._hypervisor.execute(command, arguments)

    def _check_open(self) -> None:
        if self._is_closing:
            raise ControlError("the machine is powering off")
        if self._arrival is not None:
            raise ControlError("the machine waits for another host to send it")

    def _check_present(self) -> None:
        """Is it here, though it may be about to leave?"""
        self._check_open()
        if self._teleport.is_gone:
            raise ControlError("the machine runs at another host")

    def _check_here(self) -> None:
        """Is it here, and stays?"""
        self._check_present()
        if self._teleport.is_busy:
            raise ControlError(
                "the machine is being teleported; wait until that is over, or cancel it"
                " with Ctrl-C where it was started"
            )

    # ---------------------------------------------------------- teleporting ----

    def _depart(self, to: Destination) -> Departure:
        self._check_open()
        if not self._hypervisor.is_movable:
            raise ControlError(
                "only a machine that runs as a QEMU of rusb's own can be teleported;"
                " start it with --engine qemu"
            )
        return Departure(
            self.machine,
            self._hardware,
            self._hypervisor,
            to,
            self._log.write,
            guests=self._own_guests(),
            came=self._came,
            moved=self._end_here,
            sent_on=self._send_on,
            invite=self._invite,
            known=self._state and self._state / "known_servers",
        )

    async def _end_here(self) -> None:
        """The machine runs elsewhere; its QEMU here is of no use."""
        self._hypervisor.expect_end()
        await self._hypervisor.stop()

    def _send_on(self, to: Elsewhere) -> None:
        self._hypervisor.elsewhere = str(to)
        if self._server is not None:
            self._server.send_on(to)

    def _invite(self, to: Elsewhere, ready: Callable[[ClientUsb], None]) -> None:
        if self._server is not None:
            self._server.invite(to, ready)

    def _left(self) -> None:
        """Nothing of it is here any more; unless it is awaited again, that is all."""
        if self._arrival is None:
            self._is_over.set()

    async def _await_again(self, arguments: Mapping[str, Any]) -> None:
        """Wait for a machine to come back whose devices still come over here."""
        async with self._changing:
            self._check_open()
            if not await self._teleport.wait_relaying():
                raise ControlError("the machine is already running")
            if self.machine.path is not None:
                self.machine.teleporter = load_machine(self.machine.path).teleporter
            if not self.machine.teleporter.enabled:
                raise ControlError(
                    "the machine runs at another host, and its USB devices still come"
                    " over here; to have it back, let it wait for that: modifyvm"
                    f" {self.machine.operand} --teleporter on --teleporterport PORT"
                )
            await self._hypervisor.start(incoming="defer")
            try:
                self._wait_for_source()
            except BaseException:
                self._arrival = None
                await self._hypervisor.stop()
                raise

    def _word(self, status: str) -> str:
        """The state of the machine in VirtualBox's words, where it has one."""
        if self._arrival is not None:
            return "teleportingin"
        if self._teleport.is_busy:
            return "teleporting"
        if self._teleport.is_gone:
            return "teleported"
        return "paused" if status in _STANDS_STILL else status

    async def _poweroff(self, arguments: Mapping[str, Any]) -> None:
        self.power_off("command")

    async def _set_vrde(self, arguments: Mapping[str, Any]) -> None:
        """Switch the remote display on or off, for this run."""
        await self._change_display(enabled=bool(arguments["enabled"]))

    async def _set_property(self, arguments: Mapping[str, Any]) -> None:
        """Set a VRDE property; the server restarts (filters.md 3.2).

        For what counts at once it does not.
        """
        self._check_present()
        name, value = str(arguments["name"]), str(arguments["value"])
        properties = dict(self.machine.remote_display.properties)
        properties.pop(name, None)
        if value:
            properties[name] = value
        if not name.startswith(LIVE_PROPERTIES):
            await self._change_display(properties=properties)
            return
        display = replace(self.machine.remote_display, properties=properties)
        self.machine.remote_display = display
        self._settings_changed()

    async def _change_display(self, **changes: Any) -> None:
        """Change settings of the remote display, for this run, and let them count.

        Raises:
            RusbError: the server does not start with them; they are as before then,
                and so is the server if it can be.
        """
        async with self._changing:
            self._check_here()  # its clients may bring what goes on elsewhere
            before = self.machine.remote_display
            after = replace(before, **changes)
            is_right = after.enabled == (self._server is not None)
            if after == before and is_right:
                return
            self.machine.remote_display = after
            await self._stop_server()
            if not after.enabled:
                return
            try:
                await self._start_server()
            except RusbError:
                self.machine.remote_display = before
                if before.enabled and before != after:
                    with contextlib.suppress(RusbError):
                        await self._start_server()
                raise

    async def _usbattach(self, arguments: Mapping[str, Any]) -> str:
        """Plug in a device of this machine; return its name."""
        self._check_here()
        if self._plugs is None:
            if self._host_usb is None:
                raise ControlError("devices of this machine cannot be used")
            if not self.machine.usb_controllers:
                raise ControlError(_NO_CONTROLLER)
            guest = self._guests["host"] = self._hypervisor.guest("host")
            self._plugs = HostPlugs(
                self._host_usb(),
                guest,
                self._log,
                self._happened,
                lambda: self.machine.filters,
            )
        return str((await self._plugs.attach(str(arguments["device"]))).info)

    async def _usbdetach(self, arguments: Mapping[str, Any]) -> None:
        """Give a device of this machine back."""
        text = str(arguments["device"])
        if self._server is not None and self._server.detach(text):
            return
        if self._plugs is None:
            raise ControlError(f"no device {text} of this machine is attached")
        await self._plugs.detach(text)

    async def _reload(self, arguments: Mapping[str, Any]) -> None:
        """Take filters, extra data and the certificate as they are now."""
        if self.machine.path is None:
            return
        settings = load_machine(self.machine.path)
        self.machine.extra_data.clear()
        self.machine.extra_data |= settings.extra_data
        self.machine.filters = settings.filters
        if self._server is not None:
            self._server.set_filters(settings.filters)
            self._server.renew_certificate()
        if self._plugs is not None:
            self._plugs.reconsider()

    async def _info(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The state of the machine, as ``showvminfo`` wants it."""
        is_here = not self._teleport.is_gone
        state = await self._hypervisor.status() if is_here else ""
        server, plugs = self._server, self._plugs
        display = DisplayState(self.machine.remote_display, self._port)
        return MachineState(
            self._word(state),
            server.state() if server else display,
            process=os.getpid(),
            started=self._started,
            devices=(
                *(server.devices() if server else ()),
                *(plugs.devices() if plugs else ()),
            ),
            forwards=self._console.rules(),
            links=self._console.links(),
            notes=tuple(self._notes),
            waits=self._arrival.port if self._arrival else 0,
            has_sound=self.machine.has_sound,
            clipboard=self.machine.clipboard,
            guest="qemu",
        ).to_json()
