"""``VBox.log``: the release log of a machine, and its lines (vrdp-server.md 7).

Each line begins with the process's run time, ``HH:MM:SS.uuuuuu``, and a blank.
"""

import contextlib
import datetime
import errno
import logging
import os
import platform
import stat
import sys
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import TextIO

from rusb import __version__
from rusb.aio.output import write_line
from rusb.errors import Hint, SettingsError
from rusb.oserrors import os_error, reason
from rusb.usb.text import clean_text

from . import events
from .event_log import EventLog
from .quotas import MAX_LINE, Writer

__all__ = ["BRING_USB", "ReleaseLog", "log_lines", "report", "terminal_lines"]

log = logging.getLogger(__name__)

KEPT = 3
"""Older logs that are kept, as ``.1`` to ``.3``."""

MAX_SIZE = 16 << 20
"""Bytes of a log; a longer one is continued in a new file, so that with the older ones
it takes four times that of the disk, whatever peers do."""

_FULL = (errno.ENOSPC, errno.EDQUOT)

BRING_USB = (
    "The client brings no USB devices. To bring them: xfreerdp /usb:id:VVVV:PPPP;"
    " mstsc: Local Resources, More, Other supported RemoteFX USB devices; or run"
    " rusb connect as well."
)
"""What a viewer needs so that its devices reach the guest (rdpeusb.md 15)."""


class ReleaseLog:
    """A release log, begun with its header and rotated when it is opened.

    Only a regular file is rotated. What else the name stands for, a device, a pipe or
    a symbolic link, is written to and stays.

    Args:
        path: file to write; None or ``-`` for standard error.
        clock: seconds since the process began to run, or since any other moment: the
            first call counts as zero.
        max_size: bytes after which a regular file is continued in a new one.

    Raises:
        SettingsError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path | str | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_size: int = MAX_SIZE,
    ) -> None:
        self._clock = clock
        self._start = clock()
        self._max_size = max_size
        self._size = 0
        self._lost = 0  # since the disk is full
        self._path = None if path in (None, "-") else Path(str(path))
        self._rotates = False
        self._file: FileIO | TextIO | None = None
        try:
            self._file = sys.stderr if self._path is None else self._open(self._path)
        except OSError as error:
            why = reason(error)
            if error.errno == errno.ENXIO:
                why = "no program reads from it"
            raise SettingsError(f"cannot write the log {self._path}: {why}").hinting(
                Hint.OTHER_LOG
            ) from error
        for line in _header():
            self.write(line)

    def now(self) -> float:
        """Return the time of the log, in seconds."""
        return self._clock()

    def write(self, text: str) -> None:
        """Write a line; a reader that went ends the log, not the server.

        A disk that is full loses lines until there is room.
        """
        line = clean_text(text)
        if len(line) > MAX_LINE:
            line = line[:MAX_LINE] + "…"
        log.info("%s", line)
        if self._file is None:
            return
        try:
            if self._rotates and self._size >= self._max_size:
                self._continue()
            self._put(line)
        except (OSError, ValueError) as error:  # ValueError: somebody closed it
            name = self._path or "on standard error"
            why = reason(error) if isinstance(error, OSError) else error
            if isinstance(error, OSError) and error.errno in _FULL:
                if not self._lost:
                    log.warning("the log %s goes on when there is room: %s", name, why)
                self._lost += 1
                return
            self.close()
            log.warning("the log %s ends here: %s", name, why)

    def close(self) -> None:
        """Close the file. Idempotent."""
        file, self._file = self._file, None
        if file is not None and self._path is not None:
            with contextlib.suppress(OSError):
                file.close()

    def _put(self, line: str) -> None:
        stamped = f"{self._stamp()} {line}"
        if isinstance(self._file, FileIO):
            if self._lost:  # the last one may have been cut
                gap = f"\n{self._stamp()} Log: {self._lost} lines are missing here"
                stamped = f"{gap}: the disk was full\n{stamped}"
            data = f"{stamped}\n".encode("utf-8", "replace")
            count = self._file.write(data)
            # None: a pipe that is full loses the line
            if count is not None and count < len(data):
                raise os_error(errno.ENOSPC)
            self._size += len(data)
            self._lost = 0
        elif self._file is not None:
            write_line(self._file, stamped)

    def _open(self, path: Path) -> FileIO:
        try:
            found: os.stat_result | None = path.lstat()
        except FileNotFoundError:
            found = None
        is_link = found is not None and stat.S_ISLNK(found.st_mode)
        if found is not None and is_link and found.st_uid != os.geteuid() == 0:
            raise SettingsError(
                f"cannot write the log {path}: it is a symbolic link that belongs to"
                " another user"
            ).hinting(Hint.OTHER_LOG)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOCTTY
        self._rotates = found is None or stat.S_ISREG(found.st_mode)
        if self._rotates:
            _rotate(path)
            flags |= os.O_EXCL  # nobody puts a link there meanwhile
        else:
            flags |= os.O_NONBLOCK  # a pipe that nobody reads must not keep us
        self._size = 0
        # what somebody typed for a name may have been a password
        return FileIO(os.open(path, flags, 0o640), "w")

    def _continue(self) -> None:
        """Go on in a new file, or, where none can be made, in this one, emptied."""
        assert self._path is not None
        assert isinstance(self._file, FileIO)
        try:
            file = self._open(self._path)
        except (OSError, SettingsError):  # the folder is root's, and root was dropped
            file = self._file
            file.truncate(0)
            self._size, self._rotates = 0, True
        else:
            self._file.close()
        self._file = file
        for line in (f"Log continued after {self._max_size} bytes", *_header()):
            self._put(line)

    def _stamp(self) -> str:
        micros = int((self._clock() - self._start) * 1_000_000)
        seconds, micros = divmod(micros, 1_000_000)
        minutes, seconds = divmod(seconds, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours:02}:{minutes:02}:{seconds:02}.{micros:06}"


def _rotate(path: Path) -> None:
    """Move ``VBox.log`` to ``VBox.log.1`` and so on."""
    for number in range(KEPT, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        newer = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
        if newer.exists():
            newer.replace(older)


def _header() -> list[str]:
    """The first lines: what ran where."""
    now = datetime.datetime.now(datetime.UTC)
    opened = now.strftime("%Y-%m-%dT%H:%M:%S.%f") + f"{time.time_ns() % 1000:03}Z"
    system = platform.uname()
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return [
        f"rusb {__version__} {system.system.lower()}.{system.machine}"
        f" (Python {platform.python_version()}) release log",
        f"Log opened {opened}",
        f"OS Product: {system.system}",
        f"OS Release: {system.release}",
        f"OS Version: {system.version}",
        f"Host RAM: {pages * page >> 20}MB",
        f"Executable: {sys.executable}",
        f"Process ID: {os.getpid()}",
    ]


# -------------------------------------------------------------- lines of events ----


def log_lines(event: events.Event) -> tuple[str, ...]:
    """Return what ``VBox.log`` says of an event (7.2, 7.3)."""
    match event:
        case events.ServerStarted():
            where = f"{event.port} ({event.families})"
            return (f"VRDP: TCP server listening on port {where}.",)
        case events.ServerFailed(problem):
            return (f"VRDP: {problem}",)
        case events.ServerStopped():
            return ("VRDP: TCP server closed.",)
        case events.Warned(text):
            return (f"VRDP: WARNING: {text}",)
        case events.GuestEnded(why):
            return (f"VUSB: {why}; its devices are attached again when it is back",)
        case events.GuestReturned():
            return ("VUSB: The guest is back: its devices are attached again",)
        case events.Crowded(network, waiting):
            which = f"{waiting} connections from {network}"
            end = "have not logged on yet: a new one from there was closed."
            return (f"VRDP: {which} {end}",)
        case events.PlaceDenied(problem):
            return (f"AUTH: {problem} Access denied.",)
        case events.OthersDisconnected():
            why = "Multiple connections are not enabled."
            return (f"AUTH: {why} Disconnecting the others.",)
        case events.ClientConnected(client, address):
            family = "IPv6" if ":" in address else "IPv4"
            opened = f"VRDP: Connection opened ({family}): {client}"
            return ("VRDP: New connection:", opened)
        case events.TlsAgreed(version, issuer):
            return (f"VRDP: {version}. Issuer of the certificate: [{issuer}].",)
        case events.LogonAsked():
            asked = f"User: [{event.user}] Domain: [{event.domain}]"
            place = f"connects from [{event.address}] (it claims [{event.claimed}])"
            return (
                f"VRDP: Logon: {event.title} {asked} Screen: {event.screen}",
                f"VRDP: Client {event.client} {place}.",
            )
        case events.ScreenMissing(screen):
            return (f"VRDP: There is no screen {screen}.",)
        case events.FeatureSwitched(feature, is_off):
            again = "" if is_off else " no longer"
            return (f"VRDP: feature: Client/Disable{feature}{again}",)
        case events.SoundAgreed(client, rate):
            return (f"VRDP: rdpsnd: client {client} plays {rate} Hz.",)
        case events.ChannelNoted(client, channel, problem):
            return (f"VRDP: {channel}: client {client} {problem}.",)
        case events.LoggedOff(title, reason_):
            return (f"VRDP: Logoff: {title} Reason 0x{reason_:04X}.",)
        case events.ClientLeft():
            closed = f"VRDP: Connection closed: {event.client}"
            why = f"VRDP: {event.title}: {event.reason}"
            return (why, closed) if event.reason else (closed,)
        case events.ClientArrived(client, devices, seconds):
            what = f"{devices} device{'' if devices == 1 else 's'}"
            text = f"client {client} came with the machine, keeping its {what}"
            return (f"Remote USB: {text} for {seconds:g} s",)
        case events.ClientParked(_, devices, seconds):
            what = f"{devices} device{'' if devices == 1 else 's'}"
            return (f"Remote USB: link lost, keeping {what} for {seconds:g} s",)
        case events.ClientResumed(_, seconds, messages):
            again = f"{messages} message{'' if messages == 1 else 's'} again"
            return (f"Remote USB: resumed after {seconds:g} s, {again}",)
        case events.ClientGivenUp(_, why):
            return (f"Remote USB: not resumed: {why}",)
        case events.ClientSentOn(client, where, is_told):
            return (f"VRDP: client {client}: {_sent_on(where, is_told=is_told)}",)
        case events.ClientStays(client, why):
            return (f"Remote USB: client {client} stays: {why}",)
        case events.ResumeRefused(client, why):
            return (f"Remote USB: client {client} may not resume: {why}",)
        case events.WireAgreed():
            flags = f"Received negotiate response. Flags 0x{event.flags:02X}."
            outcome = f"remote USB protocol version {event.version}."
            if event.error is not None:
                outcome = f"ERROR: {event.error}"
            return (f"Remote USB: {flags}", f"VRDP: {outcome}")
        case events.WireMissing(_, channel):
            return (
                f"Remote USB: The client does not have the channel {channel}.",
                f"Remote USB: {BRING_USB}",
            )
        case events.DeviceEvent():
            return _device_lines(event)
    return ()


def _device_lines(event: events.DeviceEvent) -> tuple[str, ...]:
    info = event.subject.info
    ids = f"[proxy {info.vendor_id:04x}:{info.product_id:04x}]"  # vrdpusb.md 5
    whose = "Host USB" if event.subject.client is None else "Remote USB"
    match event:
        case events.DeviceListed() | events.DeviceGone():
            mark = "++++" if isinstance(event, events.DeviceListed) else "----"
            kind = f"Vendor {info.vendor_id:04X}. Product {info.product_id:04X}."
            return (f"{whose}: {mark} {kind} Name = [{info.product or ''}].",)
        case events.DeviceAdmitted() | events.DeviceRefused():
            return (f"{whose}: {info}: {event.verdict}",)
        case events.DeviceNoted(_, text):
            return (f"{whose}: {info}: {text}",)
        case events.DeviceLeft(_, why):
            return (f"{whose}: {info} {why}",)
        case events.Cure():
            return (f"{whose}: {_cure(event)}",)
        case events.DeviceUnfit(_, why):
            return (f"{whose}: {info}: refused: {why}",)
        case events.DeviceFailed(_, device, why):
            return (f"VUSB: Failed to attach '{device} {ids}': {why}",)
        case events.DeviceAttached(_, device, where):
            speed = f"{info.speed.label}Speed"
            return (f"VUSB: Attached '{device} {ids}' to {where} ({speed})",)
        case events.StreamEnded(_, device, endpoint):
            counts = f"{event.packets} packets, {event.bad} bad"
            waits = f"{event.underruns} underruns, {event.late} late"
            ended = f"stream 0x{endpoint:02x} of '{device} {ids}' ended"
            return (f"VUSB: {ended}: {counts}, {waits}, drift {event.drift}",)
        case events.DeviceDetached(_, device, why):
            detached = f"VUSB: Detached '{device} {ids}'"
            return (detached, f"{whose}: {info} was detached: {why}")
    return ()


def _sent_on(where: str, *, is_told: bool) -> str:
    if is_told:
        return f"sent on to {where}"
    return f"disconnected, since the machine runs at {where} now"


def _cure(event: events.Cure) -> str:
    info = event.subject.info
    text = f"to admit {info}: rusb {event.command}"
    if event.is_bare:
        ids = f"{info.vendor_id:04x}:{info.product_id:04x}"
        text += f"; to keep that, also start rusb serve with --allow {ids}"
    return text


def terminal_lines(event: events.Event) -> tuple[str, ...]:
    """Return what a user at the terminal learns of an event."""
    match event:
        case events.ClientAdmitted() | events.ClientRefused():
            who = f"{event.user or 'someone'} at {event.address} ({event.name})"
            end = "connected"
            if isinstance(event, events.ClientRefused):
                end = f"refused: {event.reason}"
            return (f"client {event.client}: {who} {end}",)
        case events.Warned(text):
            return (f"WARNING: {text}",)
        case events.GuestEnded(why):
            return (f"{why}; its devices are attached again when it is back",)
        case events.GuestReturned():
            return ("the guest is back: its devices are attached again",)
        case events.ClientLeft(stage="admitted"):
            why = f": {event.reason}" if event.reason else ""
            return (f"client {event.client}: disconnected{why}",)
        case events.ClientLeft(stage="waiting"):
            why = event.reason or "it disconnected before logging on"
            return (f"client {event.client} at {event.address}: {why}",)
        case events.ClientParked(client, devices, seconds):
            what = f"{devices} device{'' if devices == 1 else 's'}"
            text = f"the guest keeps {what} for {seconds:g} s, in case it comes back"
            return (f"client {client}: {text}",)
        case events.ClientResumed(client, seconds):
            return (f"client {client}: it is back after {seconds:g} s",)
        case events.ClientGivenUp(client, why):
            return (f"client {client}: {why}",)
        case events.ClientSentOn(client, where, is_told):
            return (f"client {client}: {_sent_on(where, is_told=is_told)}",)
        case events.Cure():
            return (_cure(event),)
        case events.DeviceRefused(subject, words) | events.DeviceNoted(subject, words):
            return (f"{subject.info}: {words}",)
        case events.DeviceUnfit(subject, why):
            return (f"{subject.info}: refused: {why}",)
        case events.DeviceFailed(subject, _, why):
            return (f"{subject.info}: not attached: {why}",)
        case events.DeviceAttached(subject):
            return (f"{subject.info}: in use by the guest, {event.verdict}",)
        case events.DeviceDetached(subject, _, why):
            return (f"{subject.info}: detached: {why}",)
    return ()


def report(
    event: events.Event,
    happened: EventLog,
    log: Writer,
    terminal: Writer | None = None,
) -> None:
    """Keep an event, and say in the log and at the terminal what there is to say."""
    for line in log_lines(event):
        log.write(line)
    if terminal is not None:
        for line in terminal_lines(event):
            terminal.write(line)
    happened.add(event)
