"""A connection to QEMU's monitor: commands with bounded waits, errors that help.

QMP serves one client per socket at a time; a second one waits without a greeting.
"""

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Callable, Mapping

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecuteError,
    Message,
    QMPClient,
    QMPError,
    Runstate,
)

from rusb.aio.tasks import TaskSet
from rusb.errors import GuestError
from rusb.oserrors import reason
from rusb.usb.text import clean_text

__all__ = ["Monitor", "Refused", "entries_of"]

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 10.0
"""Seconds. QEMU answers in milliseconds, also when its machine is paused."""

MAX_TEXT = 300
"""Characters of QEMU's own words in a message of ours."""

_CLIENT_NAME = "rusb"
# The library logs as errors what we raise, or what is no error: a QEMU that ended.
logging.getLogger(f"qemu.qmp.protocol.{_CLIENT_NAME}").setLevel(logging.CRITICAL)


class Refused(GuestError):
    """QEMU understood a command and said no."""


class Monitor:
    """One QMP connection.

    Args:
        path: the unix socket that QEMU listens on (``-qmp unix:PATH,server=on``).
        on_event: gets the name and the data of every event.
        on_end: called once when an open connection ends other than by
            :meth:`aclose`.
    """

    def __init__(
        self,
        path: str,
        on_event: Callable[[str, Mapping[str, object]], None],
        on_end: Callable[[], None],
    ) -> None:
        self.path = path
        self._on_event = on_event
        self._on_end = on_end
        self._client = QMPClient(_CLIENT_NAME)
        self._listener = EventListener()
        self._client.register_listener(self._listener)
        self._commands = asyncio.Lock()
        self._socket: socket.socket | None = None
        self._tasks = TaskSet()

    @property
    def is_open(self) -> bool:
        """Is QEMU there?"""
        return self._client.runstate is Runstate.RUNNING

    async def open(self) -> None:
        """Connect; :meth:`aclose` also what could not be opened.

        Raises:
            GuestError: nobody there, not QMP, not permitted, or busy.
        """
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.setblocking(False)
                sock.connect(self.path)
                # Not every event loop lets us pass descriptors through its own.
                self._socket = sock.dup()
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    await self._client.connect(sock.dup())
        except (TimeoutError, BlockingIOError) as error:  # or the queue is full
            raise GuestError(
                f"no greeting from {self.path}: another program uses this QMP socket;"
                " add a second -qmp option to QEMU"
            ) from error
        except OSError as error:
            raise GuestError(_explain(self.path, error)) from error
        except ConnectError as error:
            raise GuestError(
                f"{self.path} does not speak QMP; start QEMU with -qmp, not -monitor"
            ) from error
        self._tasks.start(self._pump_events(), "qmp events")
        self._tasks.start(self._watch_end(), "qmp end")

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        descriptor: int | None = None,
    ) -> object:
        """Run a command and return what it returned, of whatever type that is.

        Args:
            descriptor: a file descriptor to hand over with it, for ``getfd``; it
                stays ours to close.

        Raises:
            Refused: QEMU said no.
            GuestError: QEMU does not answer or is gone.
        """
        try:
            async with self._commands, asyncio.timeout(COMMAND_TIMEOUT):
                if descriptor is not None:
                    assert self._socket is not None
                    socket.send_fds(self._socket, [b" "], [descriptor])
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            text = clean_text(str(error))[:MAX_TEXT]
            raise Refused(f"QEMU refused {command}: {text}") from error
        except (TimeoutError, BlockingIOError) as error:  # or it reads nothing
            raise GuestError(
                f"QEMU at {self.path} does not answer {command}"
            ) from error
        except (QMPError, OSError, EOFError) as error:
            raise GuestError(f"QEMU at {self.path} has ended") from error

    async def aclose(self) -> None:
        """Hang up. Idempotent."""
        await self._tasks.aclose()
        await self._disconnect()

    async def _disconnect(self) -> None:
        # It raises what had ended the connection: EOFError after QEMU's end.
        with contextlib.suppress(QMPError, OSError, EOFError, TimeoutError):
            async with asyncio.timeout(COMMAND_TIMEOUT):
                await self._client.disconnect()
        if self._socket is not None:
            self._socket.close()

    async def _pump_events(self) -> None:
        async for message in self._listener:
            name, data = _event_of(message)
            log.debug("< %s %s", name, data)
            try:
                self._on_event(name, data)
            except Exception:
                log.exception("event %s", name)

    async def _watch_end(self) -> None:
        while self.is_open:
            await self._client.runstate_changed()
        await self._disconnect()
        log.info("QEMU at %s has ended", self.path)
        self._on_end()


def _event_of(message: Message) -> tuple[str, Mapping[str, object]]:
    """Name and data of an event; nothing is believed of their types."""
    name, data = message.get("event"), message.get("data")
    return clean_text(str(name)), data if isinstance(data, dict) else {}


_TCP = re.compile(r"(tcp:)?[^/]*:\d{1,5}")


def _explain(path: str, error: OSError) -> str:
    """Say why there is no connection and what to do about it."""
    match error:
        case FileNotFoundError():
            if _TCP.fullmatch(path):
                return (
                    f"{path} is not the path of a UNIX socket, and QMP over TCP is not"
                    " supported: it asks for no password; start QEMU with -qmp"
                    " unix:PATH,server=on,wait=off"
                )
            return (
                f"there is no QMP socket {path}; start QEMU with -qmp"
                f" unix:{path},server=on,wait=off"
            )
        case PermissionError():
            return (
                f"no permission for {path}; run as QEMU's user, or change the"
                " permissions of the socket"
            )
        case ConnectionRefusedError():
            return (
                f"nothing listens at {path}: QEMU has ended, or this is not its socket"
            )
    return f"cannot connect to {path}: {reason(error)}"


def entries_of(answer: object) -> list[dict[str, object]]:
    """The objects in an answer that should be a list of them."""
    listed = answer if isinstance(answer, list) else []
    return [entry for entry in listed if isinstance(entry, dict)]
