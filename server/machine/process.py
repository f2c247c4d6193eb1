"""What runs a machine: the contract of a hypervisor, what every QEMU has in common, and
QEMU as a process of ours."""

import abc
import asyncio
import contextlib
import os
import shutil
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from rusb.errors import ControlError, GuestError
from rusb.oserrors import reason
from rusb.usb.text import clean_text

from ..guests._qmp import Monitor
from ..guests.base import GuestBackend
from ..guests.qemu import QemuGuest
from ..vbox.model import Hardware
from ..vbox.settings import Machine
from .command_line import MAX_HEADS, qemu_command
from .control import control_path

__all__ = ["Hypervisor", "MakeHypervisor", "Qemu", "QemuProcess"]

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

T = TypeVar("T")

_SERIAL_ADVICE = (
    " (the first serial port: start the program that it connects to, free the port that"
    " it listens on, or disable it: modifyvm VM --uartmode1 disconnected)"
)


class Hypervisor(abc.ABC):
    """Runs one machine.

    Attributes:
        has_tablets: does each of several screens have a tablet of its own?
        notes: what its user is to know, once it has started.
        failure: why the machine ended, unless guest or user switched it off.
        is_movable: can it be sent to another host (``teleport/``)?
        elsewhere: where the machine runs now, for people; empty: here.
        deleted: called with the monitor's name of a device that is gone from it.
    """

    is_movable = False

    def __init__(self) -> None:
        self.has_tablets = False
        self.notes: list[str] = []
        self.failure = self.elsewhere = ""
        self.deleted: Callable[[str], None] = lambda name: None

    @abc.abstractmethod
    async def start(self, *, incoming: str = "") -> None:
        """Switch the machine on.

        Args:
            incoming: where the state of its memory and devices comes from, as QEMU
                spells it (``defer``, ``unix:PATH``), after which it is paused;
                empty: it boots.

        Raises:
            SettingsError: it cannot be what the settings say.
            GuestError: it ended, or does not answer.
        """

    @abc.abstractmethod
    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None
    ) -> object:
        """Run a command of the monitor (QMP) and return its value.

        Raises:
            ControlError: the machine is powering off.
            GuestError: it refused, or does not answer.
        """

    async def status(self) -> str:
        """How the machine is: QEMU's word, or ``stuck`` if it does not answer.

        Raises:
            ControlError: the machine is powering off.
        """
        with contextlib.suppress(GuestError, TimeoutError):
            async with asyncio.timeout(STATUS_TIMEOUT):
                found = await self.execute("query-status")
            status = found.get("status") if isinstance(found, dict) else None
            return str(status or "unknown")
        return "stuck"

    def network_names(self, slot: int) -> tuple[str, str]:
        """The monitor's names of an adapter's network, and of its card."""
        return f"net{slot}", f"nic{slot}"

    async def lend(self, name: str, sock: socket.socket) -> None:
        """Let commands of the monitor name a socket of ours: ``fd:NAME``.

        Raises:
            GuestError: this hypervisor cannot, or refused.
        """
        raise GuestError("this machine cannot be moved to another host")

    @abc.abstractmethod
    def guest(self, use: str) -> GuestBackend:
        """Return a place for devices; it is started and closed by the caller.

        Args:
            use: ``usb`` for those of clients, ``host`` for those of this machine.
        """

    async def open_screen(self, head: int) -> socket.socket | None:
        """Return a connection to the VNC server of a screen; None: there are none.

        Args:
            head: which one, counted from 0.

        Raises:
            GuestError: it has none now.
        """
        return None

    async def send_input(
        self, head: int, events: Sequence[Mapping[str, object]]
    ) -> None:
        """Send input events of QMP to a screen.

        Raises:
            GuestError: it did not take them.
        """
        raise GuestError("the machine has no screens")

    @abc.abstractmethod
    def expect_end(self) -> None:
        """That the machine ends from now on is no failure."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """Switch the machine off, let go of everything. Idempotent; it goes on when its
        caller is cancelled."""


MakeHypervisor: TypeAlias = Callable[
    [Machine, Hardware, Callable[[str], None], Callable[[], None]], Hypervisor
]
"""Takes settings, hardware, what writes a line of the log, and what to call when the
machine has ended."""


class Qemu(Hypervisor):
    """QEMU with monitors and screens of our own, whoever starts it.

    Args:
        machine: its name and UUID count.
        hardware: what it is made of.
        log: writes a line.
        ended: called when it has ended, however it did.
    """

    def __init__(
        self,
        machine: Machine,
        hardware: Hardware,
        log: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__()
        self._machine = machine
        self._hardware = hardware
        self._log = log
        self._tell_ended = ended
        path = control_path(machine.uuid)
        # QEMU serves one client per monitor: ourselves, the server, host devices
        self._sockets = [path.with_suffix(f".qmp{n}") for n in ("", "-usb", "-host")]
        heads = range(min(machine.monitors, MAX_HEADS))
        self._screens = [path.with_suffix(f".screen{n}") for n in heads]
        self.has_tablets = len(heads) > 1 and bool(hardware.usb)
        self._monitor: Monitor | None = None
        self._is_shut_down = False  # the guest, or we, switched it off
        self._watching: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    def _describe(self, how: Callable[..., T], accelerator: str, incoming: str) -> T:
        """Have :func:`.qemu_command`, or what takes the same, describe the machine."""
        return how(
            self._machine.name,
            self._machine.uuid,
            self._hardware,
            self._sockets,
            screens=self._screens,
            accelerator=accelerator,
            incoming=incoming,
        )

    async def start(self, *, incoming: str = "") -> None:
        """Start QEMU: with KVM, or, if it does not start so, without."""
        accelerators = _accelerators()
        problem = _kvm_problem()
        self.failure, self._is_shut_down = "", False  # of a run before
        self.elsewhere = ""
        self.notes.clear()
        for accelerator in accelerators:
            try:
                await self._start(accelerator, incoming)
                break
            except GuestError as error:
                await self.stop()
                if accelerator == accelerators[-1]:
                    raise
                self._log(f"QEMU: without {accelerator}, because: {error}")
                problem = f"it does not start: {error}"
        if accelerator == "tcg" and "RUSB_ACCEL" not in os.environ:
            self.notes.append(
                f"the guest runs many times slower without KVM: {problem}"
            )

    async def stop(self) -> None:
        """Nothing of QEMU is forgotten half way, whoever waits for it."""
        if self._ending is None or self._ending.done():
            self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    @abc.abstractmethod
    async def _end(self) -> None:
        """See :meth:`stop`. Idempotent."""

    @abc.abstractmethod
    async def _start(self, accelerator: str, incoming: str) -> None:
        """Start QEMU and connect to its monitor.

        Raises:
            SettingsError: it cannot be what the settings say.
            GuestError: it ended, or does not answer.
        """

    @abc.abstractmethod
    async def _note_end(self) -> None:
        """See how QEMU ended, whose monitor is gone; then tell it."""

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None
    ) -> object:
        """Run a command of QEMU's monitor."""
        if self._monitor is None:
            raise ControlError("the machine is powering off")
        return await self._monitor.execute(command, arguments)

    def guest(self, use: str) -> GuestBackend:
        """Return QEMU's USB, on a monitor of its own."""
        (path,) = (s for s in self._sockets if s.suffix == f".qmp-{use}")
        return QemuGuest(str(path), machine=self._machine.name)

    async def open_screen(self, head: int) -> socket.socket:
        """Connect to QEMU's VNC server."""
        if head >= len(self._screens):
            raise GuestError(f"the machine's card has no screen {head + 1}")
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            sock.connect(str(self._screens[head]))
        except OSError as error:
            sock.close()
            why = f"QEMU's screen: {reason(error)}"
            if self.elsewhere:
                why = (
                    f"the machine runs at {self.elsewhere} now, and its screen is"
                    " there. Close this viewer, and connect there"
                )
            raise GuestError(why) from error
        return sock

    async def send_input(
        self, head: int, events: Sequence[Mapping[str, object]]
    ) -> None:
        """Send input events of QMP."""
        place = {"device": "video0", "head": head} if self.has_tablets else {}
        await self.execute("input-send-event", {"events": list(events), **place})

    def expect_end(self) -> None:
        """QEMU is about to be told to quit."""
        self._is_shut_down = True

    def _unlink(self) -> None:
        for path in (*self._sockets, *self._screens):
            path.unlink(missing_ok=True)

    async def _connect(self, give_up: Callable[[], Awaitable[None]]) -> Monitor:
        """Return the monitor of a QEMU that has been started.

        Args:
            give_up: raises GuestError if it has ended already.

        Raises:
            GuestError: it has, or it does not answer.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            monitor = Monitor(str(self._sockets[0]), self._noted, self._ended)
            try:
                await monitor.open()
                return monitor
            except GuestError:
                await monitor.aclose()
                await asyncio.sleep(START_POLL)
                await give_up()
                if time.monotonic() > deadline:
                    raise GuestError(
                        f"QEMU did not answer within {START_TIMEOUT:g} s"
                    ) from None

    def _noted(self, name: str, data: Mapping[str, object]) -> None:
        """QEMU told of an event."""
        match name:
            case "SHUTDOWN":
                self._is_shut_down = True
            case "DEVICE_DELETED":
                self.deleted(str(data.get("device")))

    def _ended(self) -> None:
        """QEMU's monitor is gone, so is QEMU; see how it ended."""
        self._watching = asyncio.ensure_future(self._note_end())

    async def _quit(self) -> bool:
        """Tell QEMU to end; was there a monitor to say it to?"""
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            with contextlib.suppress(GuestError):
                await monitor.execute("quit")
            await monitor.aclose()
        return monitor is not None


class QemuProcess(Qemu):
    """QEMU as a process of ours, which ends with us; the arguments are Qemu's."""

    is_movable = True

    def __init__(
        self,
        machine: Machine,
        hardware: Hardware,
        log: Callable[[str], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__(machine, hardware, log, ended)
        self._process: asyncio.subprocess.Process | None = None
        self._words: deque[str] = deque(maxlen=MAX_WORDS)
        self._reading: asyncio.Task[None] | None = None

    async def lend(self, name: str, sock: socket.socket) -> None:
        """Hand a descriptor over the monitor."""
        if self._monitor is None:
            raise ControlError("the machine is powering off")
        await self._monitor.execute("getfd", {"fdname": name}, descriptor=sock.fileno())

    # ------------------------------------------------------------- our own ----

    async def _end(self) -> None:
        process, self._process = self._process, None  # its end is no event any more
        was_told = await self._quit()
        if process is None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT if was_told else 0):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        if self._reading is not None:
            await self._reading
        if self._watching is not None:
            await self._watching
        self._unlink()

    async def _start(self, accelerator: str, incoming: str) -> None:
        """Start QEMU and connect to its monitor."""
        self._unlink()
        command = self._describe(qemu_command, accelerator, incoming)
        if shutil.which("setpriv"):  # QEMU does not outlive us, even if we are killed
            command = ["setpriv", "--pdeathsig", "TERM", *command]
        self._log(f"QEMU: {' '.join(command)}")
        self._words.clear()
        self._process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we power the machine off
        )
        self._reading = asyncio.ensure_future(self._read_words(self._process))
        self._monitor = await self._connect(self._give_up)

    async def _give_up(self) -> None:
        assert self._process is not None
        assert self._reading is not None
        if self._process.returncode is not None:
            await self._reading
            why = self._why_ended(self._process.returncode)
            self._log(why)
            raise GuestError(why + _SERIAL_ADVICE if "id=com1" in why else why)

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
            self._log(f"QEMU: {text}")

    async def _note_end(self) -> None:
        process, status = self._process, None
        if process is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT):
                status = await process.wait()
        if status == 0 and self._is_shut_down:
            self._log("QEMU: the machine is off.")
        else:
            self.failure = self._why_ended(status)
            self._log(self.failure)
        self._tell_ended()

    def _why_ended(self, status: int | None) -> str:
        """How QEMU ended, and its last words; *status* None: it has not ended."""
        if status is None:
            how = "closed its connection and did not end"
        elif status < 0:
            how = f"killed by signal {-status}"
        else:
            how = f"status {status}"
        words = f": {' '.join(self._words)}" if self._words else ""
        return f"QEMU ended by itself, {how}{words}"


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
            f"no permission for {KVM}: add the user to the group kvm, and log in again"
        )
    except OSError as error:
        return (
            f"{KVM}: {reason(error)}; enable virtualization in the host's firmware, or"
            " nested virtualization if the host is a virtual machine"
        )
    return ""
