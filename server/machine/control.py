"""The control socket of a running machine: commands from other processes of its owner.

A line of JSON each way: ``{"command": NAME, "arguments": {…}}`` is answered by
``{"value": …}`` or ``{"error": SENTENCE}``. The command ``events`` is answered by what
happens, an event a line, until one of the two hangs up (docs/spec/events.md).
"""

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rusb.errors import ControlError, RusbError
from rusb.oserrors import reason
from rusb.paths import make_private
from rusb.usb.text import clean_text

from ..event_log import EventLog
from ..vbox.files import belongs_to_others
from ..vbox.lock import MachineLock, holder_of, lock_path

__all__ = [
    "Command",
    "ControlServer",
    "call",
    "control_path",
    "follow",
    "running_path",
    "runtime_folder",
]

log = logging.getLogger(__name__)

MAX_LINE = 1 << 20
"""Bytes of a request or an answer; the longest is the state of a machine."""

MAX_CONNECTIONS = 16
"""Connections at once; a further one is hung up on."""

MAX_FOLDER = 60
"""Bytes of the folder's path: sockets in it have names of up to 46, and an address at
most 107."""

MAX_STREAMS = 4
"""Of them, those that events are sent to."""

IDLE_TIMEOUT = 30.0
"""Seconds that a connection may stay silent, or leave events unread."""

LAST_TIMEOUT = 1.0
"""Seconds that readers of events get to read the last ones."""

ANSWER_TIMEOUT, LONG_TIMEOUT = 10.0, 60.0
"""Seconds that a caller waits for an answer, and for one to LONG commands, which may
drop clients and detach devices."""

LONG = frozenset(
    ("vrde", "vrdeproperty", "usbattach", "usbdetach", "teleportcancel", "teleportwait")
)

WATCH_PERIOD = 5.0
"""Seconds after which a socket that somebody removed is there again: the folder of a
user's sockets goes with the last login."""

Command: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[object]]
"""Takes the arguments, returns what JSON can hold; a RusbError is told the caller."""


def runtime_folder() -> Path:
    """Return the folder of sockets and locks, which is ours alone; make it.

    ``RUSB_RUNTIME`` wins, then ``rusb`` in ``XDG_RUNTIME_DIR``, else one in ``/tmp``.

    Raises:
        ControlError: it cannot be made, or others could put something into it.
    """
    named, runtime = os.environ.get("RUSB_RUNTIME"), os.environ.get("XDG_RUNTIME_DIR")
    if named:
        folder = Path(named)
    elif runtime and Path(runtime).is_dir():
        folder = Path(runtime) / "rusb"
    else:
        folder = Path(f"/tmp/rusb-{os.getuid()}")
    if len(os.fsencode(folder)) > MAX_FOLDER:
        raise ControlError(
            f"{folder} is longer than the {MAX_FOLDER} bytes that the address of a"
            " socket may have; use a shorter directory with RUSB_RUNTIME"
        )
    try:
        make_private(folder)
        is_foreign = belongs_to_others(folder)
    except OSError as error:
        raise ControlError(
            f"cannot create {folder} for sockets: {reason(error)}; name another"
            " directory with RUSB_RUNTIME"
        ) from error
    if is_foreign:
        raise ControlError(
            f"{folder} belongs to another user or can be written by others; remove it,"
            " or name another directory with RUSB_RUNTIME"
        )
    return folder


def control_path(uuid: str) -> Path:
    """Return where the running machine *uuid* listens."""
    return runtime_folder() / f"{uuid.strip('{}').lower()}.control"


def running_path(uuid: str) -> Path:
    """Return where the machine listens if it runs: its lock says so.

    Raises:
        ControlError: it does not run.
    """
    holder = holder_of(lock_path(uuid))
    if holder is None or holder.socket is None:
        raise ControlError("the machine is not running")
    return holder.socket


class ControlServer:
    """Holds a machine: one process at a time, which others can talk to.

    Args:
        find_path: returns where to listen; asked again if the socket vanishes.
        commands: what can be asked, by name.
        lock: the machine's.
        happened: the machine's events.
        unknown: what to say of other commands, with ``{}`` for the name.
    """

    def __init__(
        self,
        find_path: Callable[[], Path],
        commands: Mapping[str, Command],
        lock: MachineLock,
        happened: EventLog,
        *,
        unknown: str = "a running machine has no command {}",
    ) -> None:
        self.path = find_path()
        self._find_path = find_path
        self._commands = commands
        self._lock = lock
        self._happened = happened
        self._unknown = unknown
        self._server: asyncio.Server | None = None
        self._watching: asyncio.Task[None] | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._streams: dict[asyncio.Task[None], asyncio.Event] = {}
        self._is_over = False

    def hold(self) -> None:
        """Take the lock, which the kernel drops if we are killed; see ``start``.

        Raises:
            ControlError: another process has it; the message says which.
        """
        self._lock.take(self.path)

    def let_go(self) -> None:
        """Undo :meth:`hold`, where nothing was started."""
        self._lock.drop()

    async def start(self) -> None:
        """Listen; a socket that a killed process left is replaced.

        Raises:
            ControlError: another process holds the machine, or listening failed.
        """
        if not self._lock.is_held:
            self.hold()
        await self._listen()
        self._watching = asyncio.ensure_future(self._watch())

    async def aclose(self) -> None:
        """Hang up, remove the socket, let go of the machine. Idempotent.

        Who reads events gets the last ones first.
        """
        self._is_over = True
        for news in self._streams.values():
            news.set()
        if self._streams:
            await asyncio.wait(list(self._streams), timeout=LAST_TIMEOUT)
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            await asyncio.wait({watching})
        server, self._server = self._server, None
        if server is not None:
            server.close()
            for writer in list(self._writers):
                writer.close()
            with contextlib.suppress(OSError):  # root made it, and was dropped
                self.path.unlink(missing_ok=True)
        self._lock.drop()

    async def _listen(self) -> None:
        try:
            self.path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(
                self._serve, str(self.path), limit=MAX_LINE
            )
            self.path.chmod(0o600)
        except OSError as error:
            raise ControlError(
                f"cannot listen at {self.path}: {reason(error)}"
            ) from error

    async def _watch(self) -> None:
        """Listen again when the socket, perhaps with its folder, was removed."""
        while True:
            await asyncio.sleep(WATCH_PERIOD)
            try:
                if self.path.exists():
                    continue
            except OSError:  # the folder is root's, and root was dropped
                continue
            try:
                if self._server is not None:
                    self._server.close()
                self.path = self._find_path()
                await self._listen()
                self._lock.say(self.path)
                log.warning("the control socket was removed; it is now %s", self.path)
            except ControlError as error:
                log.warning("the control socket was removed: %s", error)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if len(self._writers) >= MAX_CONNECTIONS:
            writer.close()
            return
        if (user := _user_of(writer)) not in (0, os.getuid()):
            log.warning(
                "the control socket: the connection of user %d was closed", user
            )
            writer.close()
            return
        self._writers.add(writer)
        try:
            # ValueError: the line is too long
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                while True:
                    async with asyncio.timeout(IDLE_TIMEOUT):
                        line = await reader.readline()
                    if not line:
                        break
                    answer = await self._answer(line)
                    if isinstance(answer, _Stream):
                        await self._send_events(answer, reader, writer)
                        break
                    writer.write(_line(answer))
                    await writer.drain()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, line: bytes) -> "dict[str, object] | _Stream":
        try:
            request = json.loads(line)
            name, arguments = request["command"], request.get("arguments", {})
            command = self._stream if name == "events" else self._commands[name]
        except (ValueError, TypeError, AttributeError, RecursionError):
            return {"error": "a request must be one line of JSON with a command"}
        except KeyError as error:
            return {"error": self._unknown.format(error)}
        if not isinstance(arguments, dict):
            return {"error": "the arguments of a command must be an object"}
        try:
            value = await command(arguments)
            return value if isinstance(value, _Stream) else {"value": value}
        except RusbError as error:
            return {"error": str(error)}
        except Exception as error:
            log.exception("command %s", name)
            return {"error": f"internal error: {error!r}; see the server's log"}

    async def _stream(self, arguments: Mapping[str, Any]) -> "_Stream":
        since, follows = arguments.get("since"), arguments.get("follow", True)
        if not (since is None or (type(since) is int and since >= 0)):
            raise ControlError("since must be the number of an event")
        if len(self._streams) >= MAX_STREAMS:
            raise ControlError(
                f"{MAX_STREAMS} programs already read the machine's events, the maximum"
            )
        return _Stream(since, follows=bool(follows))

    async def _send_events(
        self,
        stream: "_Stream",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Send events until the reader hangs up, or does not read them.

        What it has not read waits in the list of events, not here.
        """
        task, news = asyncio.current_task(), asyncio.Event()
        assert task is not None
        self._streams[task] = news
        gone = asyncio.ensure_future(reader.read(1))
        gone.add_done_callback(lambda _: news.set())
        try:
            with self._happened.watch(news.set):
                since = stream.since
                while not gone.done():
                    news.clear()
                    for event in self._happened.after(since):
                        since = event["seq"]
                        writer.write(_line(event))
                        async with asyncio.timeout(IDLE_TIMEOUT):
                            await writer.drain()
                    if since is not None and since < self._happened.last:
                        continue
                    if self._is_over or not stream.follows:
                        break
                    await news.wait()
        except TimeoutError:
            writer.transport.abort()  # what waits for it is not kept any longer
        finally:
            del self._streams[task]
            gone.cancel()


@dataclass(frozen=True, slots=True)
class _Stream:
    """An answer that is events: those after *since*, and, if asked for, later ones."""

    since: int | None
    follows: bool


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


async def follow(
    path: Path, since: int | None, *, follows: bool
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield what happens at a running machine, beginning with what it remembers.

    Args:
        path: where it listens.
        since: yield only what has a greater number; None: all.
        follows: wait for more events, until the machine is off.

    Raises:
        ControlError: no machine runs there, or it refused.
    """
    arguments = {"since": since, "follow": follows}
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
        try:
            writer.write(_line({"command": "events", "arguments": arguments}))
            while True:
                async with asyncio.timeout(None if follows else ANSWER_TIMEOUT):
                    line = await reader.readline()
                if not line:
                    break
                event = json.loads(line)
                match event:
                    case {"event": str()}:
                        yield event
                    case {"error": str(sentence)}:
                        raise ControlError(clean_text(sentence))
                    case _:
                        raise ControlError(
                            f"{path} does not send events; it may be another program's"
                        )
        finally:
            writer.close()
    except (FileNotFoundError, ConnectionRefusedError):
        raise ControlError("the machine is not running") from None
    except TimeoutError:
        raise ControlError(
            f"the running machine sent no events within {ANSWER_TIMEOUT:g} s"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise ControlError(
            f"cannot read events from the running machine: {why}"
        ) from error


async def call(path: Path, command: str, **arguments: object) -> Any:
    """Send a command to a running machine and return its value.

    Raises:
        ControlError: no machine runs there, it does not answer, or it refused.
    """
    request = _line({"command": command, "arguments": arguments})
    seconds = LONG_TIMEOUT if command in LONG else ANSWER_TIMEOUT
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(path, limit=MAX_LINE)
            try:
                writer.write(request)
                line = await reader.readline()
            finally:
                writer.close()
        if not line:
            raise ControlError(
                f"the running machine closed the connection during {command}"
            )
        answer = json.loads(line)
    except (FileNotFoundError, ConnectionRefusedError):
        raise ControlError("the machine is not running") from None
    except TimeoutError:
        raise ControlError(
            f"the running machine did not answer {command} within {seconds:g} s"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise ControlError(f"cannot ask the running machine: {why}") from error
    match answer:
        case {"error": str(sentence)}:
            raise ControlError(clean_text(sentence))
        case {"value": value}:
            return value
    raise ControlError(
        f"{path} does not belong to a running machine: its answer to {command} has"
        " neither a value nor an error"
    )


def _user_of(writer: asyncio.StreamWriter) -> int:
    """The user whose process is at the other end, as the kernel says."""
    layout = struct.Struct("iII")  # process, user, group
    sock: socket.socket = writer.get_extra_info("socket")
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    return int(layout.unpack(credentials)[1])
