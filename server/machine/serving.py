"""A machine that ``rusb serve`` serves: Server, control socket and settings as one."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rusb.errors import ControlError, RusbError

from ..config import ServerConfig
from ..event_log import EventLog
from ..server import Server
from ..state import MachineState
from ..vbox.lock import MachineLock, lock_path
from ..vbox.ports import parse_ports
from ..vbox.settings import LIVE_PROPERTIES, load_machine
from .control import Command, ControlServer, control_path
from .media_control import media_commands

__all__ = ["Serving"]

LOOK_PERIOD = 2.0
"""Seconds between looks at whether the file of the settings has changed."""

PORTS = "TCP/Ports"

_UNKNOWN = (
    "rusb serve has no command {}, because another program runs the machine; vrdeport"
    " moves the server to another port, and poweroff ends it"
)


class Serving:
    """Serves a machine that something else runs. Use as an async context manager.

    Args:
        config: see :class:`~rusb.server.server.Server`; the machine's file, if it
            has one, is read again when it has changed.
        report: gets what a user at the terminal has to know.

    Attributes:
        server: what clients connect to.
    """

    def __init__(self, config: ServerConfig, report: Callable[[str], None]) -> None:
        self._config = config
        self._machine = config.machine
        self._report = report
        self._started = time.time()
        self._is_over = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._control: ControlServer | None = None
        self._happened = EventLog(self._machine.name)
        self._stamp = self._look()
        if self._machine.uuid:
            self._control = self._make_control(self._machine.uuid)
        if self._control is not None:
            self._control.hold()
        try:
            self.server = Server(config, happened=self._happened, report=report)
        except BaseException:
            if self._control is not None:
                self._control.let_go()
            raise

    async def __aenter__(self) -> "Serving":
        try:
            await self.server.start()
            await self._start_control()
        except BaseException:
            await self.aclose()
            raise
        self._watching = asyncio.ensure_future(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def wait_ended(self) -> None:
        """Wait until ``controlvm … poweroff`` comes."""
        await self._is_over.wait()

    async def aclose(self) -> None:
        """Stop serving, let go of the machine. Idempotent."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
        await self.server.aclose()
        if self._control is not None:
            await self._control.aclose()

    def reload(self) -> None:
        """Take filters, extra data and the certificate as they are now.

        What cannot be read is reported; the previous one stays.
        """
        if self._machine.path is None:
            return
        self._stamp = self._look()
        name = self._machine.name
        try:
            settings = load_machine(self._machine.path)
        except RusbError as error:
            self._report(f"{name}: the previous settings stay in effect: {error}")
            return
        self._machine.extra_data.clear()
        self._machine.extra_data |= settings.extra_data
        count = len(settings.filters)
        self.server.log.write(f"Console: settings read again, {count} USB filters")
        self._report(f"{name}: settings read again, {count} USB filters")
        self.server.set_filters(settings.filters)
        previous = self.server.fingerprint
        if (now := self.server.renew_certificate()) != previous:
            self._report(f"{name}: the certificate is {now}")

    # ------------------------------------------------------------- our own ----

    def _make_control(self, uuid: str) -> ControlServer | None:
        try:
            lock = MachineLock(lock_path(uuid), settings=self._machine.path)
            find_path = partial(control_path, uuid)
            commands, happened = self._commands(), self._happened
            return ControlServer(find_path, commands, lock, happened, unknown=_UNKNOWN)
        except ControlError as error:  # USB is served all the same
            self._report(
                f"Warning: controlvm and showvminfo cannot see the machine: {error}"
            )
            return None

    async def _start_control(self) -> None:
        if self._control is not None:
            try:
                await self._control.start()
            except ControlError as error:
                self._report(f"Warning: controlvm cannot reach the machine: {error}")

    def _look(self) -> tuple[int, int, int] | None:
        """What changes when the file does; None: it is not there."""
        path: Path | None = self._machine.path
        try:
            found = path.stat() if path is not None else None
        except OSError:
            return None
        return found and (found.st_ino, found.st_mtime_ns, found.st_size)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_PERIOD)
            now = self._look()
            if now is not None and now != self._stamp:
                self.reload()

    def _commands(self) -> dict[str, Command]:
        return {
            "info": self._info,
            "poweroff": self._poweroff,
            "reload": self._reload,
            "usbdetach": self._usbdetach,
            "vrdeproperty": self._set_property,
            **media_commands(self._machine, lambda: self.server.settings_changed()),
        }

    async def _poweroff(self, arguments: Mapping[str, Any]) -> None:
        self.server.log.write("Console: command: poweroff")
        self._is_over.set()

    async def _usbdetach(self, arguments: Mapping[str, Any]) -> None:
        text = str(arguments["device"])
        if not self.server.detach(text):
            raise ControlError(
                f"no device {text} waits for its client; of clients that are connected,"
                " the machine's filters decide on devices: see usbfilter explain"
            )

    async def _reload(self, arguments: Mapping[str, Any]) -> None:
        self.reload()

    async def _set_property(self, arguments: Mapping[str, Any]) -> None:
        """Listen on other ports, or obey switches, for this run."""
        name, value = str(arguments["name"]), str(arguments["value"])
        is_live = name.startswith(LIVE_PROPERTIES)
        if name != PORTS and not is_live:
            live = " and ".join(f"{prefix}…" for prefix in LIVE_PROPERTIES)
            raise ControlError(
                f"rusb serve can only change {PORTS}, {live} while it runs, not"
                f" {name}; change the machine's settings and start rusb serve again"
            )
        if name == PORTS:
            await self.server.listen_on(parse_ports(value or "3389"))
        properties = self._machine.remote_display.properties | {name: value}
        display = replace(self._machine.remote_display, properties=properties)
        self._machine.remote_display = display
        if is_live:
            self.server.settings_changed()
        else:
            self._report(f"{self._machine.name}: listening on port {self.server.port}")

    def _guest(self) -> str:
        """Where devices go, so that others find them there."""
        kind = self._config.guest.partition(":")[0]
        return f"{kind}:{self.server.guest.address or ''}".rstrip(":")

    async def _info(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The state of the machine, as ``showvminfo`` wants it."""
        return MachineState(
            "running",
            self.server.state(),
            process=os.getpid(),
            started=self._started,
            devices=self.server.devices(),
            has_sound=self._machine.has_sound,
            clipboard=self._machine.clipboard,
            guest=self._guest(),
        ).to_json()
