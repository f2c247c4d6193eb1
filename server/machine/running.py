"""A machine without a window: QEMU, its VRDP server and its control socket as one."""

import asyncio
import contextlib
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rusb.errors import ControlError, GuestError, RusbError
from rusb.oserrors import reason
from rusb.usb.device import clean_text

from ..config import ServerConfig
from ..events import EventLog
from ..guests._qmp import Monitor
from ..guests.base import GuestBackend
from ..guests.loopback import LoopbackGuest
from ..guests.qemu import QemuGuest
from ..release_log import ReleaseLog
from ..server import Server
from ..state import DisplayState, MachineState
from ..vbox.lock import MachineLock, lock_path
from ..vbox.model import Hardware
from ..vbox.settings import Machine, load_machine
from .command_line import qemu_command
from .console import Console
from .control import ControlServer, control_path
from .host_devices import HostDevices, HostPlugs

__all__ = ["Headless"]

START_TIMEOUT = 30.0
"""Seconds until QEMU must answer; it takes a quarter."""

START_POLL = 0.05

KVM = "/dev/kvm"

STOP_TIMEOUT = 10.0
"""Seconds that QEMU gets to write its disks' last data when it is told to quit."""

STATUS_TIMEOUT = 3.0
"""Seconds until a QEMU that does not say how it is counts as stuck."""

MAX_WORDS = 20
"""Lines of QEMU's that are kept for a message about its end."""


_SERIAL_ADVICE = (
    " (the first serial port: start the program that it connects to, free the port that"
    " it listens on, or take it away: modifyvm VM --uartmode1 disconnected)"
)

_NO_CONTROLLER = (
    "the machine has no USB controller; modifyvm VM --usb-xhci on adds one, while the"
    " machine is off"
)


class Headless:
    """A running machine. Use as an async context manager.

    Args:
        machine: its settings.
        hardware: what it is made of.
        log: path of ``VBox.log``.
        report: gets a line for everything a user at the terminal wants to know.
        notes: what its user is told at the start.
        host_usb: finds the devices of this machine, for ``usbattach``.
        state: folder of the self-made certificate; None: the user's.

    Attributes:
        failure: why the machine ended, unless guest or user switched it off.
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
    ) -> None:
        self.machine = machine
        self._hardware = hardware
        self._report = report
        self._notes = list(notes)
        self._state = state
        path = control_path(machine.uuid)
        lock = MachineLock(lock_path(machine.uuid), settings=machine.path)
        # QEMU serves one client per monitor: ourselves, the server, host devices
        self._monitors = [path.with_suffix(f".qmp{n}") for n in ("", "-usb", "-host")]
        self._host_usb = host_usb
        self._plugs: HostPlugs | None = None
        find_path = partial(control_path, machine.uuid)
        self._console = Console(hardware, self._ask, lambda text: self._log.write(text))
        self._happened = EventLog(machine.name)
        self._control = ControlServer(find_path, self._commands(), lock, self._happened)
        self._control.hold()
        self._log = ReleaseLog(log)
        self._process: asyncio.subprocess.Process | None = None
        self._words: deque[str] = deque(maxlen=MAX_WORDS)
        self._reading: asyncio.Task[None] | None = None
        self._monitor: Monitor | None = None
        self._server: Server | None = None
        self._port = -1  # 0: the server did not start (vrdp-server.md 5.3)
        self._changing = asyncio.Lock()
        self._is_closing = False
        self._is_over = asyncio.Event()
        self._is_shut_down = False  # the guest, or we, switched it off
        self._watching: asyncio.Task[None] | None = None
        self.failure = ""
        self._started = time.time()

    async def __aenter__(self) -> "Headless":
        try:
            await self._start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def wait_ended(self) -> None:
        """Wait until the machine is off."""
        await self._is_over.wait()

    async def aclose(self) -> None:
        """Power off, disconnect everybody, let go of the machine. Idempotent."""
        self._is_closing = True
        async with self._changing:  # what a command starts is there, or is not begun
            await self._stop_server()
        plugs, self._plugs = self._plugs, None
        if plugs is not None:
            await plugs.aclose()
        await self._stop_qemu()
        await self._control.aclose()
        for path in self._monitors:
            path.unlink(missing_ok=True)
        self._log.close()

    # ---------------------------------------------------------------- QEMU ----

    async def _start(self) -> None:
        accelerators = _accelerators()
        problem = _kvm_problem()
        for accelerator in accelerators:
            try:
                await self._start_qemu(accelerator)
                break
            except GuestError as error:
                await self._stop_qemu()
                if accelerator == accelerators[-1]:
                    raise
                self._log.write(f"QEMU: without {accelerator}, because: {error}")
                problem = f"it does not start: {error}"
        if accelerator == "tcg" and "RUSB_ACCEL" not in os.environ:
            self._notes.append(f"no KVM, so the guest is many times slower: {problem}")
        for note in self._notes:
            self._log.write(f"Console: {note}")
            self._report(f"Warning: {note}")
        await self._console.start()
        if self.machine.remote_display.enabled:
            with contextlib.suppress(RusbError):
                # the machine runs all the same (vrdp-server.md 5.2)
                await self._start_server()
        await self._control.start()

    async def _start_qemu(self, accelerator: str) -> None:
        """Start QEMU and connect to its monitor.

        Raises:
            SettingsError: it cannot be what the settings say.
            GuestError: it ended, or does not answer.
        """
        for path in self._monitors:
            path.unlink(missing_ok=True)
        machine = self.machine
        command = qemu_command(
            machine.name,
            machine.uuid,
            self._hardware,
            self._monitors,
            accelerator=accelerator,
        )
        if shutil.which("setpriv"):  # QEMU does not outlive us, even if we are killed
            command = ["setpriv", "--pdeathsig", "TERM", *command]
        self._log.write(f"QEMU: {' '.join(command)}")
        self._words.clear()
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reading = asyncio.ensure_future(self._read_words(self._process))
        self._monitor = await self._connect(self._process)

    async def _connect(self, process: asyncio.subprocess.Process) -> Monitor:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            monitor = Monitor(str(self._monitors[0]), self._noted, self._ended)
            try:
                await monitor.open()
                return monitor
            except GuestError:
                await monitor.aclose()
                await asyncio.sleep(START_POLL)
                if process.returncode is not None:
                    assert self._reading is not None
                    await self._reading
                    words = " ".join(self._words) or "it did not say why"
                    if "id=com1" in words:
                        words += _SERIAL_ADVICE
                    raise GuestError(
                        f"QEMU ended with status {process.returncode}: {words}"
                    ) from None
                if time.monotonic() > deadline:
                    raise GuestError(
                        f"QEMU did not answer within {START_TIMEOUT:g} s"
                    ) from None

    async def _read_words(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than the reader takes; QEMU must not wait
                line = b"(a line that is too long)\n"
            if not line:
                break
            text = clean_text(line.decode(errors="replace").strip())
            self._words.append(text)
            self._log.write(f"QEMU: {text}")

    def power_off(self, why: str) -> None:
        """Let the machine end; *why* is for the log."""
        self._log.write(f"Console: {why}: power off")
        self._is_shut_down = True
        self._is_over.set()

    def _noted(self, name: str, data: Mapping[str, object]) -> None:
        """QEMU told of an event."""
        if name == "SHUTDOWN":
            self._is_shut_down = True

    def _ended(self) -> None:
        """QEMU's monitor is gone, so is QEMU; see how it ended."""
        if self._process is not None:
            self._watching = asyncio.ensure_future(self._note_end(self._process))

    async def _note_end(self, process: asyncio.subprocess.Process) -> None:
        status: int | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT):
                status = await process.wait()
        if status == 0 and self._is_shut_down:
            self._log.write("QEMU: the machine is off.")
        else:
            how = "hung up and did not end" if status is None else f"status {status}"
            if status is not None and status < 0:
                how = f"killed by signal {-status}"
            words = f": {' '.join(self._words)}" if self._words else ""
            self.failure = f"QEMU ended by itself, {how}{words}"
            self._log.write(self.failure)
        self._is_over.set()

    async def _stop_qemu(self) -> None:
        monitor, self._monitor = self._monitor, None
        process, self._process = self._process, None
        if monitor is not None:
            with contextlib.suppress(GuestError):
                await monitor.execute("quit")
            await monitor.aclose()
        if process is None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT if monitor is not None else 0):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading
        if self._watching is not None:
            await self._watching

    # -------------------------------------------------------- VRDP server ----

    async def _start_server(self) -> None:
        config = ServerConfig(self.machine, state=self._state)
        guest: GuestBackend = LoopbackGuest()  # for a machine that gets no devices
        if self.machine.usb_controllers:
            guest = QemuGuest(str(self._monitors[1]), machine=self.machine.name)
        server = Server(
            config,
            guest=guest,
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
        } | self._console.commands()

    def _tell(self, command: str) -> Callable[[Mapping[str, Any]], Any]:
        async def tell(arguments: Mapping[str, Any]) -> None:
            self._log.write(f"Console: {command}")
            await self._ask(command)

        return tell

    async def _ask(
        self, command: str, arguments: Mapping[str, object] | None = None
    ) -> object:
        """Run a command of QEMU's monitor."""
        if self._monitor is None:
            raise ControlError("the machine is going off")
        return await self._monitor.execute(command, arguments)

    def _check_open(self) -> None:
        if self._is_closing:
            raise ControlError("the machine is going off")

    async def _poweroff(self, arguments: Mapping[str, Any]) -> None:
        self.power_off("command")

    async def _set_vrde(self, arguments: Mapping[str, Any]) -> None:
        """Switch the remote display on or off, for this run."""
        await self._change_display(enabled=bool(arguments["enabled"]))

    async def _set_property(self, arguments: Mapping[str, Any]) -> None:
        """Set a VRDE property; the server restarts, as filters.md 3.2 says."""
        name, value = str(arguments["name"]), str(arguments["value"])
        properties = dict(self.machine.remote_display.properties)
        properties.pop(name, None)
        if value:
            properties[name] = value
        await self._change_display(properties=properties)

    async def _change_display(self, **changes: Any) -> None:
        """Change settings of the remote display, for this run, and let them count.

        Raises:
            RusbError: the server does not start with them; they are as before then,
                and so is the server if it can be.
        """
        async with self._changing:
            self._check_open()
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
        self._check_open()
        if self._plugs is None:
            if self._host_usb is None:
                raise ControlError("devices of this machine cannot be reached")
            if not self.machine.usb_controllers:
                raise ControlError(_NO_CONTROLLER)
            guest = QemuGuest(str(self._monitors[2]), machine=self.machine.name)
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
        if self._plugs is None:
            raise ControlError(f"no device {text} of this machine is attached")
        await self._plugs.detach(text)

    async def _reload(self, arguments: Mapping[str, Any]) -> None:
        """Take filters and extra data from the settings as they are now."""
        if self.machine.path is None:
            return
        settings = load_machine(self.machine.path)
        self.machine.extra_data.clear()
        self.machine.extra_data |= settings.extra_data
        self.machine.filters = settings.filters
        if self._server is not None:
            self._server.set_filters(settings.filters)
        if self._plugs is not None:
            self._plugs.reconsider()

    async def _info(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The state of the machine, as ``showvminfo`` wants it."""
        if self._monitor is None:
            raise ControlError("the machine is going off")
        state = "stuck"
        with contextlib.suppress(GuestError, TimeoutError):
            async with asyncio.timeout(STATUS_TIMEOUT):
                status = await self._monitor.execute("query-status")
            found = status.get("status") if isinstance(status, dict) else None
            state = str(found or "unknown")
        server, plugs = self._server, self._plugs
        display = DisplayState(self.machine.remote_display, self._port)
        return MachineState(
            state,
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
        ).to_json()


def _accelerators() -> list[str]:
    """What to try, in this order; ``RUSB_ACCEL`` names one."""
    if named := os.environ.get("RUSB_ACCEL"):
        return [named]
    return ["tcg"] if _kvm_problem() else ["kvm", "tcg"]


def _kvm_problem() -> str:
    """Why there is no KVM, and what to do about it; empty: it is there."""
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError:
        return (
            f"no permission for {KVM}: add the user to the group kvm and log in again"
        )
    except OSError as error:
        return (
            f"{KVM}: {reason(error)}: switch virtualization on in the host's firmware,"
            " or nested virtualization where the host is a virtual machine"
        )
    return ""
