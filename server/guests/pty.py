"""Pseudo-terminals as the guest: serial ports for programs, without a kernel driver.

Each serial port of a device gets a pseudo-terminal, and a link with a name that stays.
What a program sets reaches the chip by packet mode (ioctl_tty(2), TIOCPKT). A
pseudo-terminal of Linux has no modem lines, no break, and 8 data bits without even
parity only; :mod:`.rfc2217` and :mod:`.vhci` have all that.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import select
import struct
import sys
import termios
import tty
from pathlib import Path

from rusb.errors import GuestError, Hint
from rusb.oserrors import reason

from ..serial.driver import Flow, Line, Parity, StopBits
from ..serial.port import SerialPort
from ._listening import make_own_folder
from ._serial import SerialGuest, SerialPlace, port_name
from .base import AttachedDevice

__all__ = ["PtyGuest", "default_folder"]

log = logging.getLogger(__name__)

POLL = 0.05
"""Seconds between two looks whether a program has opened it; Linux does not tell."""

BLOCK = 4096
"""Bytes that are read from a program at a time; a pseudo-terminal has no more."""

MAX_WAITING = 16 << 10
"""Bytes that wait for a program that does not read, above which the device waits."""

_EXTPROC = 0o200000
_CMSPAR = 0o10000000000
_TCGETS2, _TCSETS2 = 0x802C542A, 0x402C542B
_TERMIOS2 = struct.Struct("<IIII20xII")
_SETTINGS = 0x40 | 0x20 | 0x10  # TIOCPKT_IOCTL, _DOSTOP, _NOSTOP


def default_folder() -> Path:
    """Return where the links are when nobody names a directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return (
        Path(runtime) / "rusb-tty" if runtime else Path(f"/tmp/rusb-tty-{os.getuid()}")
    )


class _Terminal(SerialPlace):
    """A port's pseudo-terminal.

    Attributes:
        link: the name that stays.
    """

    def __init__(self, port: SerialPort, link: Path) -> None:
        self.port = port
        self.link = link
        self._loop = asyncio.get_running_loop()
        self._out = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._is_reading = self._is_writing = self._is_refused = False
        self._fd, slave = os.openpty()
        try:
            self.name = os.ttyname(slave)
            os.fchmod(slave, 0o600)
            os.set_blocking(self._fd, False)
            tty.setraw(slave)
            settings = termios.tcgetattr(slave)
            settings[2] |= termios.HUPCL
            settings[4] = settings[5] = termios.B9600
            termios.tcsetattr(slave, termios.TCSANOW, settings)
            fcntl.ioctl(self._fd, termios.TIOCPKT, struct.pack("i", 1))
            self._have_told()
            with contextlib.suppress(BlockingIOError):
                os.read(self._fd, 1)  # that we have set something
            link.symlink_to(self.name)
        except BaseException:
            os.close(self._fd)
            raise
        finally:
            os.close(slave)
        port.on_data = self._took
        port.on_room = self._go_on
        self._look()

    def describe(self) -> str:
        """Say where it is, for the log."""
        return f"{self.link} ({self.name})"

    def close(self) -> None:
        """The device goes: programs see a hang-up. Idempotent."""
        if self._fd < 0:
            return
        self._stop()
        if self._timer is not None:
            self._timer.cancel()
        with contextlib.suppress(OSError):
            if os.readlink(self.link) == self.name:
                self.link.unlink()
        os.close(self._fd)
        self._fd = -1

    # ------------------------------------------------------- open and closed ----

    def _look(self) -> None:
        """Has a program opened it, perhaps to write something and go at once?"""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        found = poll.poll(0)
        if found and found[0][1] == select.POLLHUP:  # nobody has
            self._timer = self._loop.call_later(POLL, self._look)
            return
        self._timer = None
        self._have_told()
        self.port.open(*self._settings())
        self._is_reading = True
        self._loop.add_reader(self._fd, self._readable)

    def _ended(self) -> None:
        """The last program has closed it."""
        self._stop()
        self._out.clear()
        is_held = not termios.tcgetattr(self._fd)[2] & termios.HUPCL
        self.port.close(keeps_outputs=is_held)
        self._forget()
        self._look()

    def _forget(self) -> None:
        """What the program has not read is not for the next one."""
        with contextlib.suppress(OSError):
            slave = os.open(self.name, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            try:
                termios.tcflush(slave, termios.TCIFLUSH)
            finally:
                os.close(slave)
            os.read(self._fd, 1)  # that we have done so

    def _stop(self) -> None:
        if self._is_reading:
            self._loop.remove_reader(self._fd)
        if self._is_writing:
            self._loop.remove_writer(self._fd)
        self._is_reading = self._is_writing = False

    # ------------------------------------------------------ from the program ----

    def _readable(self) -> None:
        try:
            packet = os.read(self._fd, BLOCK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._ended()
            return
        if packet[0]:
            self._told(packet[0])
        else:
            self.port.write(packet[1:])
        if self.port.is_full:
            self._is_reading = False
            self._loop.remove_reader(self._fd)

    def _go_on(self) -> None:
        if self.port.is_open and not self._is_reading and self._fd >= 0:
            self._is_reading = True
            self._loop.add_reader(self._fd, self._readable)

    def _told(self, what: int) -> None:
        """The program has done something to its terminal (ioctl_tty(2), TIOCPKT)."""
        received, sent = bool(what & 0x01), bool(what & 0x02)
        if received:
            self._out.clear()
            self._write()
        if received or sent:
            self.port.purge(received=received, sent=sent)
        if what & _SETTINGS:
            self._have_told()
            line, flow = self._settings()
            if line != self.port.line:
                self.port.set_line(line)
            if flow != self.port.flow:
                self.port.set_flow(flow)

    def _have_told(self) -> None:
        """Changes are only told while EXTPROC is set, which a program may clear."""
        settings = termios.tcgetattr(self._fd)
        if not settings[3] & _EXTPROC:
            data = bytearray(fcntl.ioctl(self._fd, _TCGETS2, bytes(_TERMIOS2.size)))
            flags = int.from_bytes(data[12:16], "little") | _EXTPROC
            data[12:16] = flags.to_bytes(4, "little")
            fcntl.ioctl(self._fd, _TCSETS2, bytes(data))

    def _settings(self) -> tuple[Line, Flow]:
        """Read what the program has set."""
        data = fcntl.ioctl(self._fd, _TCGETS2, bytes(_TERMIOS2.size))
        iflag, _, cflag, _, _, baud = _TERMIOS2.unpack(data)
        is_odd, is_sticky = bool(cflag & termios.PARODD), bool(cflag & _CMSPAR)
        parity = Parity.NONE  # Linux does not show that there is one, so "even" is lost
        if is_sticky:
            parity = Parity.MARK if is_odd else Parity.SPACE
        elif is_odd:
            parity = Parity.ODD
        stop = StopBits.TWO if cflag & termios.CSTOPB else StopBits.ONE
        flow = Flow.NONE
        if cflag & termios.CRTSCTS:
            flow = Flow.HARDWARE
        elif iflag & termios.IXON:
            flow = Flow.SOFTWARE
        if flow not in self.port.driver.flows:
            if not self._is_refused:
                self._is_refused = True
                log.info("%s has no such flow control", self.port.name)
            flow = Flow.NONE
        # B0 hangs up; the rate stays
        return Line(baud or self.port.line.baud, 8, parity, stop), flow

    # -------------------------------------------------------- to the program ----

    def _took(self, data: bytes) -> None:
        if self._fd < 0:
            return
        self._out += data
        if not self._is_writing:
            self._write()
        if len(self._out) > MAX_WAITING:
            self.port.pause()

    def _write(self) -> None:
        """Write what waits."""
        while self._out:
            try:
                count = os.write(self._fd, self._out[:BLOCK])
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self._out.clear()
                break
            del self._out[:count]
        want = bool(self._out)
        if want and not self._is_writing:
            self._loop.add_writer(self._fd, self._write)
        elif self._is_writing and not want:
            self._loop.remove_writer(self._fd)
        self._is_writing = want
        if not want:
            self.port.resume()


class PtyGuest(SerialGuest):
    """Keeps a link in a directory for each serial port.

    Args:
        address: the directory; None: ``rusb-tty`` in the run-time directory.
    """

    def __init__(self, address: str | None = None) -> None:
        super().__init__(address)
        self.folder = Path(address) if address else default_folder()
        self._lock = -1

    async def start(self) -> None:
        """Make the directory, which must be ours alone; remove stale links.

        Raises:
            GuestError: it is not, or another server uses it.
        """
        if sys.platform != "linux":
            raise GuestError("the guest pty needs Linux; rfc2217 runs everywhere")
        make_own_folder(self.folder, "pty")
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = -1
            raise GuestError(
                f"another server keeps its links in {self.folder}"
            ).hinting(Hint.OTHER_GUEST_ADDRESS) from None
        for path in self.folder.glob("usb-*"):
            if path.is_symlink():  # of a server that was killed: whose is it now?
                path.unlink()

    async def open_place(self, device: AttachedDevice, port: SerialPort) -> SerialPlace:
        """Make a pseudo-terminal, and its link.

        Raises:
            GuestError: there is no pseudo-terminal, or no link can be made.
        """
        name, taken = port_name(device, port), self._taken()
        number = 2
        unique = name
        while unique in taken:
            unique, number = f"{name}-{number}", number + 1
        try:
            return _Terminal(port, self.folder / unique)
        except OSError as error:
            raise GuestError(
                f"cannot make a pseudo-terminal for {device.info}: {reason(error)}"
            ) from error

    async def aclose(self) -> None:
        """Hang up on all."""
        await super().aclose()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _taken(self) -> set[str]:
        return {
            place.link.name
            for places in self._places.values()
            for place in places
            if isinstance(place, _Terminal)
        }


PLUGIN = PtyGuest
