"""Two hosts in one process: a machine that runs, and one that waits for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rusb.cli.connect import WIRES
from rusb.client.backends.emulated import EmulatedBackend, Keyboard
from rusb.client.config import ClientConfig
from rusb.client.events import SessionEvent
from rusb.client.session import ClientSession, connect
from rusb.filters.model import Filter
from rusb.server.guests._qmp import entries_of
from rusb.server.machine.control import call, control_path
from rusb.server.machine.process import QemuProcess
from rusb.server.machine.running import RunningMachine
from rusb.server.machine.teleport.core import TeleportCore
from rusb.server.machine.teleport.messages import Message
from rusb.server.state import MachineState
from rusb.server.vbox.model import Adapter, Controller, Drive, Hardware
from rusb.server.vbox.settings import Machine, RemoteDisplay
from rusb.server.vbox.teleporter import Teleporter
from rusb.usb.urb import Completion, Urb
from tests.support.breaking import until
from tests.support.rusbserver import free_port
from tests.support.watching import GONE, Watched, check_apart, watched

__all__ = [
    "BELONG_TO_THE_GUEST",
    "SOURCE",
    "TARGET",
    "Counting",
    "Host",
    "Plugged",
    "Stubborn",
    "awaited",
    "before",
    "begin",
    "check_moved",
    "check_stayed",
    "hardware",
    "move",
    "over",
    "plugged",
    "qemu_of",
    "reset",
    "running",
    "state",
    "teleport",
    "wait_redirs",
    "wait_state",
    "when_sent",
]

SOURCE = "3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a716"
TARGET = "3d5c8f10-7a44-4e0b-9c1d-5f2a9be6a717"

BELONG_TO_THE_GUEST: dict[str, dict[str, Any]] = {
    "resume": {},
    "keys": {"codes": "1e9e"},
    "acpisleepbutton": {},
    "screenshot": {"file": "nowhere"},
    "natpf": {"number": 1, "add": "ssh,tcp,127.0.0.1,5002,,22"},
    "setlinkstate": {"number": 1, "enabled": False},
    "vrde": {"enabled": False},
    "vrdeproperty": {"name": "TCP/Ports", "value": "5000"},
    "clipboard": {"mode": "bidirectional"},
    "audioout": {"enabled": False},
}
"""Commands that make no sense where the guest is not, with arguments."""


def hardware(folder: Path, **changes: Any) -> Hardware:
    """A small machine whose disk is on storage that both hosts share."""
    disk = folder / "shared" / "disk.img"
    disk.parent.mkdir(exist_ok=True)
    if not disk.exists():
        disk.write_bytes(bytes(1 << 20))
    given: dict[str, Any] = {
        "memory": 48,
        "usb": ("XHCI",),
        "controllers": (Controller("IDE", "PIIX4", 2, (Drive(0, 0, "hdd", disk),)),),
        "adapters": {0: Adapter(mac="0800270000aa")},
    }
    return Hardware(**(given | changes))


class Host(RunningMachine):
    """A host with a remote display; its files are in a directory of its own.

    Attributes:
        said: what a user at its terminal sees.
        watched: the QEMU that it began with.
    """

    watched: Watched

    def __init__(
        self,
        folder: Path,
        uuid: str,
        found: Hardware,
        teleporter: Teleporter | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.said: list[str] = []
        self._watching = contextlib.AsyncExitStack()
        display = RemoteDisplay(
            enabled=True,
            properties={"TCP/Ports": str(free_port()), "TCP/Address": "127.0.0.1"},
        )
        machine = Machine(
            name=folder.name,
            uuid=uuid,
            filters=(Filter(name="all"),),
            usb_controllers=tuple(found.usb),
            remote_display=display,
            teleporter=teleporter or Teleporter(),
        )
        super().__init__(
            machine,
            found,
            log=str(folder / "VBox.log"),
            report=self.said.append,
            state=folder,
        )

    async def __aenter__(self) -> "Host":
        await super().__aenter__()
        watching = watched(self.machine.uuid)
        self.watched = await self._watching.enter_async_context(watching)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watching.aclose()
        await super().__aexit__()

    @classmethod
    def waiting(
        cls,
        folder: Path,
        found: Hardware,
        password: str = "",
        *,
        uuid: str = TARGET,
        port: int = 0,
    ) -> "Host":
        """A target; *password* is its hash."""
        settings = Teleporter(True, port, "127.0.0.1", password)
        return cls(folder, uuid, found, settings)

    @property
    def log(self) -> str:
        return (self.folder / "VBox.log").read_text()

    @property
    def port(self) -> int:
        assert self._arrival is not None
        return self._arrival.port


class Counting(Keyboard):
    """A keyboard that counts how often its port is reset."""

    resets = 0

    def was_reset(self) -> None:
        self.resets += 1
        super().was_reset()


class Stubborn(Counting):
    """One that does not give reads back.

    Attributes:
        reads: so many have begun.
    """

    reads = 0

    def submit(self, urb: Urb, complete: Completion) -> None:
        self.reads += urb.setup is None
        super().submit(urb, complete)

    def cancel(self, urb_id: int) -> None:
        pass


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Host]:
    """The host where the machine begins."""
    async with (
        asyncio.timeout(60),
        Host(folder / "source", SOURCE, hardware(folder)) as found,
    ):
        yield found


@contextlib.asynccontextmanager
async def awaited(folder: Path) -> AsyncIterator[Host]:
    """The host where it is awaited."""
    async with (
        asyncio.timeout(60),
        Host.waiting(folder / "target", hardware(folder)) as found,
    ):
        yield found


async def state(uuid: str) -> MachineState:
    return MachineState.from_json(await call(control_path(uuid), "info"))


async def teleport(port: int, *, uuid: str = SOURCE, **changes: Any) -> dict[str, Any]:
    """Have a machine go to a port; return how it ended."""
    await begin(port, uuid=uuid, **changes)
    return await over(uuid)


async def move(port: int, *, uuid: str = SOURCE, to: str = TARGET) -> None:
    """Have a machine go to a port, and wait until it runs there."""
    assert (await teleport(port, uuid=uuid))["error"] == ""
    await wait_state(to, "running")


async def over(uuid: str) -> dict[str, Any]:
    """Wait until a move is over; return how it ended."""
    while True:
        found: dict[str, Any] = await call(control_path(uuid), "teleportstatus")
        if found["is_over"]:
            return found
        await asyncio.sleep(0.02)


async def begin(port: int, *, uuid: str = SOURCE, **changes: Any) -> None:
    given = {
        "host": "127.0.0.1",
        "port": port,
        "password": "",
        "downtime": 300,
        "bandwidth": 0,
    }
    await call(control_path(uuid), "teleport", **(given | changes))


def qemu_of(host: Host) -> asyncio.subprocess.Process:
    """The process that runs a host's machine."""
    assert isinstance(host._hypervisor, QemuProcess)
    process = host._hypervisor._process
    assert process is not None
    return process


async def wait_state(uuid: str, wanted: str) -> None:
    """Wait until a machine is so."""
    while True:
        if (await state(uuid)).state == wanted:
            return
        await asyncio.sleep(0.02)


async def check_moved(source: Host, target: Host) -> None:
    """The machine runs at the target, and is gone from the source."""
    await source.wait_ended()
    assert source.failure == ""
    await source.aclose()
    await wait_state(target.machine.uuid, "running")
    assert await source.watched.status() == GONE
    assert await target.watched.status() == "running"
    check_apart(source.watched, target.watched)


async def check_stayed(source: Host, target: Host, *, waits: bool = False) -> None:
    """The machine runs at the source, and at the target it never did and never will.

    Args:
        waits: the target waits on, and the source has not even begun.
    """
    assert (await state(SOURCE)).state == "running"
    assert await source.watched.status() == "running"
    assert (await call(control_path(SOURCE), "teleportstatus"))["is_over"]
    if waits:
        found = await state(target.machine.uuid)
        assert (found.state, found.waits) == ("teleportingin", target.port)
        assert await target.watched.status() == "inmigrate"
        assert "status" not in await source.watched.ask("query-migrate")
    else:
        await target.wait_ended()
        assert target.failure
        await target.aclose()
        assert await target.watched.status() == GONE
    assert target.watched.spans == []


async def wait_redirs(host: Host, count: int) -> None:
    """Wait until a host's QEMU has so many remote devices."""
    while True:
        chardevs = entries_of(await host._hypervisor.execute("query-chardev"))
        if sum(str(c["label"]).startswith("rusb-") for c in chardevs) == count:
            return
        await asyncio.sleep(0.02)


def when_sent(
    monkeypatch: pytest.MonkeyPatch, kind: type[Message], then: Callable[[], object]
) -> None:
    """Do something at the moment at which a message is about to leave."""
    send = TeleportCore.send

    def spy(core: TeleportCore, message: Message) -> None:
        send(core, message)
        if isinstance(message, kind):
            then()

    monkeypatch.setattr(TeleportCore, "send", spy)


def before(
    monkeypatch: pytest.MonkeyPatch, of: type, name: str, then: Callable[[], object]
) -> None:
    """Do something, once, when a method is about to be called."""
    found, done = of.__dict__[name], list[object]()
    method: Callable[..., object] = getattr(found, "fget", found)

    def spy(*args: object, **known: object) -> object:
        if not done:
            done.append(then())
        return method(*args, **known)

    is_property = isinstance(found, property)
    monkeypatch.setattr(of, name, property(spy) if is_property else spy)


class Plugged:
    """A client, what it brings, and what it has said."""

    session: ClientSession

    def __init__(self, *devices: Counting) -> None:
        self.backend = EmulatedBackend(devices=list(devices))
        self.events: list[SessionEvent] = []

    def said(self) -> str:
        return "\n".join(map(str, self.events))


@contextlib.asynccontextmanager
async def plugged(
    source: Host, *devices: Counting, **changes: object
) -> AsyncIterator[Plugged]:
    """A client that comes back, with keyboards that the source's guest has configured.

    Args:
        changes: of its configuration.
    """
    port = (await state(SOURCE)).display.port
    config = ClientConfig(
        *("127.0.0.1", port),
        known_servers=source.folder / "known",
        reconnect=True,
        wires=WIRES["auto"],  # as a user's client does
    )
    config = replace(config, **changes)  # type: ignore[arg-type]
    found = Plugged(*devices)
    async with (
        asyncio.timeout(40),
        connect(
            config, backends=[found.backend], on_event=found.events.append
        ) as found.session,
    ):
        await until(lambda: source.log.count("VUSB: Attached") == len(devices))
        await reset(SOURCE, *devices)
        yield found


async def reset(uuid: str, *devices: Counting) -> None:
    """The guest starts anew, and finds the keyboards.

    A device that was reset, and of which nothing was asked since, is not reset once
    more: a machine that moved at such a moment has to start a second time.
    """
    for device in devices:
        device.resets = 0
    seconds = 2.0
    while not all(device.resets for device in devices):
        await call(control_path(uuid), "reset")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await until(lambda: all(device.resets for device in devices))
        seconds *= 2
