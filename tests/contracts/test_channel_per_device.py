"""A protocol with a channel for each device, from end to end over TLS.

It comes as a wire of another package does, once over static channels and once over
dynamic ones; client, server, guest and devices are what users run.
"""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rusb.aio.link import WireLink
from rusb.aio.stream import RdpStream, TlsUpgrade
from rusb.aio.tls import make_self_signed, server_context
from rusb.client.backends._emulated.flash_drive import FlashDrive
from rusb.client.backends._emulated.keyboard import Keyboard
from rusb.client.backends._emulated.loopback import Loopback
from rusb.client.backends.emulated import EmulatedBackend
from rusb.client.config import ClientConfig
from rusb.client.events import DeviceOffered, SessionEvent
from rusb.client.session import ClientSession, connect
from rusb.errors import NegotiationError
from rusb.rdp import events as rdp
from rusb.rdp.channels import DRDYNVC, ChannelLimits
from rusb.rdp.dvc import FIRST_DYNAMIC
from rusb.rdp.server import ServerConnection, ServerSettings
from rusb.server.session import ServerSession
from rusb.usb.types import TransferType
from rusb.usb.urb import Urb, UrbStatus
from tests.support.whole_path import Lab, machine, rdp_of, stream_of, wires_of
from tests.support.wire import toy

KINDS = ["toystatic", "toydynamic"]
ENTRY_POINTS = """\
[rusb.wires]
toystatic = tests.support.wire.toy:STATIC
toydynamic = tests.support.wire.toy:DYNAMIC
toyother = tests.support.wire.toy:OTHER
toyfew = tests.support.wire.toy:FEW
toymore = tests.support.wire.toy:MORE
toyplain = tests.support.wire.toy:PLAIN
toyone = tests.support.wire.toy:ONE
toyshort = tests.support.wire.toy:SHORT
"""


@pytest.fixture(autouse=True)
def _toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with the protocol."""
    info = tmp_path / "site" / "toys-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


class ToyLab(Lab):
    """A server that knows some wires, and its clients."""

    @contextlib.asynccontextmanager
    async def toys(
        self,
        backend: EmulatedBackend,
        *,
        wires: tuple[str, ...] = (),
        usb_timeout: float = 45,
        on_event: Callable[[SessionEvent], None] = lambda event: None,
    ) -> AsyncIterator[ClientSession]:
        config = dataclasses.replace(
            self.config(),
            wires=wires or self.server.config.wires,
            usb_timeout=usb_timeout,
        )
        async with connect(config, backends=[backend], on_event=on_event) as session:
            yield session

    def session(self) -> ServerSession:
        (session,) = self.server._sessions
        assert isinstance(session, ServerSession)
        return session


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.asynccontextmanager
async def serving(
    folder: Path, *wires: str, **changes: object
) -> AsyncIterator[ToyLab]:
    lab = ToyLab(folder, machine(resume=0.0, **changes), wires)  # it waits for none
    async with asyncio.timeout(20), lab.server:
        yield lab


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - whatever a test looks at
        await asyncio.sleep(0.01)


async def test_each_device_has_a_channel_and_moves_data(
    tmp_path: Path, kind: str
) -> None:
    async with serving(tmp_path, kind) as lab:
        backend = EmulatedBackend(devices=[Loopback(), FlashDrive()])
        async with lab.toys(backend) as client:
            assert client.security.startswith("TLS")
            devices = {d.strings["product"]: d for d in await lab.guest.wait_for(2)}
            assert "Loopback" in devices
            device = devices["Loopback"]
            for size in (1, 65_536, 1 << 20):
                result = await device.read(Loopback.SOURCE, size)
                assert (result.status, result.length) == (UrbStatus.OK, size)
                result = await device.write(Loopback.SINK, bytes(size))
                assert (result.status, result.length) == (UrbStatus.OK, size)
            channels = carried(client)
            assert channels == carrying(lab.session())
            bound = [channel.bound for channel in sides(client, lab)]
            assert bound[0] == bound[1]
            assert len(bound[0]) == 2
            if kind == "toydynamic":
                assert len(channels) == 3
            else:
                assert len(channels) == 4
        await lab.wait_log("VUSB: Detached")
        assert lab.guest.devices == {}


def carried(client: ClientSession) -> set[int]:
    """Return the channels of wires that are open at a client."""
    found = wires_of(client).channels.open.items()
    return {number for number, handler in found if isinstance(handler, WireLink)}


def carrying(session: ServerSession) -> set[int]:
    """Return the channels of wires that are open at a server."""
    found = session._channels.open.items()
    return {number for number, handler in found if isinstance(handler, WireLink)}


def sides(
    client: ClientSession, lab: ToyLab
) -> tuple[toy.ToyGuestSide, toy.ToyDeviceSide]:
    """Return the two cores of a connection."""
    (devices,) = lab.session().usb.devices
    (taken,) = client._offers._taken
    assert isinstance(devices.link.core, toy.ToyGuestSide)
    assert isinstance(taken.core, toy.ToyDeviceSide)
    return devices.link.core, taken.core


async def test_a_channel_that_closes_leaves_the_others_alone(
    tmp_path: Path, kind: str
) -> None:
    async with serving(tmp_path, kind) as lab:
        drive = FlashDrive()
        backend = EmulatedBackend(devices=[drive, Loopback()])
        async with lab.toys(backend) as client:
            await lab.guest.wait_for(2)
            for _ in range(3):
                backend.unplug(drive)
                (device,) = await lab.guest.wait_for(1)
                result = await device.read(Loopback.SOURCE, 4096)
                assert (result.status, result.length) == (UrbStatus.OK, 4096)
                backend.plug(drive)
                await lab.guest.wait_for(2)
            if kind == "toydynamic":  # a number is used once
                await until(lambda: len(carried(client)) == 3)
                numbers = carried(client)
                assert max(numbers) - min(numbers) >= 5
            assert carrying(lab.session()) == carried(client)
        log = lab.log()
        assert log.count("VUSB: Attached") == log.count("VUSB: Detached") == 5


async def test_the_end_of_the_connection_completes_everything_once(
    tmp_path: Path, kind: str
) -> None:
    async with serving(tmp_path, kind) as lab:
        backend = EmulatedBackend(devices=[Loopback(), Keyboard()])
        done: list[UrbStatus] = []
        async with lab.toys(backend, wires=(kind, "vrdpusb")) as client:
            devices = {d.strings["product"]: d for d in await lab.guest.wait_for(2)}
            attached = devices["Loopback"].attached
            for number in range(900, 905):
                urb = Urb(number, TransferType.INTERRUPT, Loopback.INTERRUPT_IN, 8)
                attached.submit(urb, lambda result: done.append(result.status))
            stream_of(client).abort()
            await lab.guest.wait_for(0)
        assert len(done) == 5


async def test_the_device_of_a_channel_that_its_peer_closes_is_gone(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, "toydynamic") as lab:
        backend = EmulatedBackend(devices=[FlashDrive(), Loopback()])
        async with lab.toys(backend) as client:
            await lab.guest.wait_for(2)
            first = min(sides(client, lab)[1].bound)
            rdp_of(client).close_channel(first)
            stream_of(client).flush()
            await lab.guest.wait_for(1)
        assert "is gone" in lab.log()


async def test_too_long_a_message_costs_its_channel_alone(tmp_path: Path) -> None:
    """The server lets no client say more than the wire's limit."""
    async with serving(tmp_path, "toyshort") as lab:
        backend = EmulatedBackend(devices=[Loopback(), FlashDrive()])
        async with lab.toys(backend):
            devices = {d.strings["product"]: d for d in await lab.guest.wait_for(2)}
            result = await devices["Loopback"].read(Loopback.SOURCE, 90_000)
            assert result.status is UrbStatus.OK
            result = await devices["Loopback"].read(Loopback.SOURCE, 100_000)
            assert result.status is UrbStatus.NO_DEVICE
            (left,) = await lab.guest.wait_for(1)
            assert left.strings["product"] != "Loopback"


async def test_a_device_without_a_channel_left_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, "toyfew") as lab:
        backend = EmulatedBackend(devices=[Loopback(), FlashDrive()])
        async with lab.toys(backend):
            await lab.wait_log("refused: open")
            await lab.guest.wait_for(1)


# ---------------------------------------------------------------- which wire ----


def opened(session: ServerSession) -> int:
    """Return how many dynamic channels of wires are open at a server."""
    return sum(number >= FIRST_DYNAMIC for number in carrying(session))


@pytest.mark.parametrize(
    ("server", "client", "chosen"),
    [
        (("toyplain", "vrdpusb"), ("toyplain", "vrdpusb"), "vrdpusb"),
        (("toydynamic", "vrdpusb"), ("vrdpusb",), "vrdpusb"),
        (("toydynamic", "vrdpusb"), ("toydynamic",), "toydynamic"),
        (("vrdpusb", "toystatic"), ("toystatic", "toydynamic"), "toystatic"),
        (("toystatic", "vrdpusb"), ("vrdpusb", "toystatic"), "vrdpusb toystatic"),
        (("toydynamic", "vrdpusb"), ("toydynamic", "vrdpusb"), "vrdpusb toydynamic"),
    ],
)
async def test_the_first_wire_whose_channel_opens_is_taken(
    tmp_path: Path, server: tuple[str, ...], client: tuple[str, ...], chosen: str
) -> None:
    """Static channels open first, in the order of the client; so is one that carries
    more than it."""
    async with serving(tmp_path, *server) as lab:
        backend = EmulatedBackend(devices=[Loopback()])
        async with lab.toys(backend, wires=client) as session:
            (device,) = await lab.guest.wait_for(1)
            result = await device.read(Loopback.SOURCE, 4096)
            assert result.length == 4096
            both = (
                [d.protocol for d in lab.session().usb.devices],
                wires_of(session).taken,
            )
            for taken in both:
                assert " ".join(one.name for one in taken) == chosen
            assert opened(lab.session()) == (2 if "toydynamic" in chosen else 0)


async def test_what_the_wire_cannot_carry_is_said_of_that_wire(tmp_path: Path) -> None:
    seen: list[SessionEvent] = []
    async with serving(tmp_path, "toydynamic") as lab:
        backend = EmulatedBackend(devices=[Loopback()])
        async with lab.toys(backend, on_event=seen.append):
            await lab.guest.wait_for(1)
    (offered,) = [e for e in seen if isinstance(e, DeviceOffered)]
    assert "isochronous" not in str(offered)


async def test_a_client_without_the_wire_is_told_so(tmp_path: Path) -> None:
    async with serving(tmp_path, "toydynamic") as lab:
        backend = EmulatedBackend(devices=[Loopback()])
        async with lab.toys(backend, wires=("vrdpusb",), usb_timeout=0.5) as client:
            backend.plug(FlashDrive())  # there is nobody to tell
            with pytest.raises(
                NegotiationError, match="no remote USB: it sent nothing"
            ):
                await client.wait_closed()


async def test_a_wire_that_the_client_refuses_is_logged(tmp_path: Path) -> None:
    """A client with dynamic channels for something else."""
    async with serving(tmp_path, "toydynamic") as lab:
        async with lab.toys(EmulatedBackend(devices=[Loopback()]), wires=("toyother",)):
            await lab.wait_log("The client does not have the channel TOY.")


async def test_usb_that_is_switched_off_opens_nothing(
    tmp_path: Path, kind: str
) -> None:
    async with serving(tmp_path, kind) as lab:
        display = lab.server.machine.remote_display
        display.properties["Client/DisableUSB"] = "1"
        backend = EmulatedBackend(devices=[Loopback()])
        async with lab.toys(backend, usb_timeout=0.3) as client:
            session = lab.session()
            with pytest.raises(NegotiationError, match="no remote USB"):
                await client.wait_closed()
        assert opened(session) == 0


async def test_a_further_channel_of_a_client_alone_is_no_wire(tmp_path: Path) -> None:
    async with serving(tmp_path, "toystatic") as lab:
        backend = EmulatedBackend(devices=[Loopback()])
        async with lab.toys(backend, wires=("toyone",), usb_timeout=0.3) as client:
            session = lab.session()
            with pytest.raises(NegotiationError, match="no remote USB"):
                await client.wait_closed()
        assert session.usb.devices == []


async def test_a_second_wire_is_closed(tmp_path: Path) -> None:
    """A server that opens one over dynamic channels, though another is in use."""
    async with serving(tmp_path, "vrdpusb", "toyplain") as lab:
        backend = EmulatedBackend(devices=[Loopback()])
        async with lab.toys(backend) as client:
            await lab.guest.wait_for(1)
            session = lab.session()
            await until(lambda: session._rdp._dynamic and session._rdp._dynamic.is_own)
            session._rdp.open_channel("TOY")
            session.stream.flush()
            dynamic = session._rdp._dynamic
            assert dynamic is not None
            await until(lambda: not dynamic._channels)
            assert len(carried(client)) == 1


class Undecided:
    """A server that opens both kinds of wires, and then speaks over the static one.

    Args:
        folder: where its certificate is kept.
        first: the dynamic channel that it opens.
        wire: what its client has beside vrdpusb.
    """

    def __init__(
        self, folder: Path, first: str = "TOY", wire: str = "toyplain"
    ) -> None:
        self.first = first
        self.wire = wire
        self.events: list[rdp.Event] = []
        limits = ChannelLimits(1 << 20, 33)
        settings = ServerSettings(
            channels=("vrdpusb", DRDYNVC), dynamic={"TOY": limits, "MORE": limits}
        )
        self.core = ServerConnection(settings, random_bytes=secrets.token_bytes)
        self.stream = RdpStream(
            self.core,
            on_event=self._handle,
            on_lost=lambda error: None,
            tls=TlsUpgrade(server_context(*make_self_signed(folder), None)),
        )
        self.static = 0

    @contextlib.asynccontextmanager
    async def calling(self, folder: Path) -> AsyncIterator[ClientSession]:
        """A client that has both wires."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: self.stream, "127.0.0.1", 0)
        config = ClientConfig(
            "127.0.0.1",
            server.sockets[0].getsockname()[1],
            known_servers=folder / "known",
            wires=("vrdpusb", self.wire),
        )
        async with server:
            async with connect(config, backends=[EmulatedBackend(devices=[])]) as one:
                yield one

    def _handle(self, event: rdp.Event) -> None:
        self.events.append(event)
        match event:
            case rdp.LogonRequested():
                self.core.accept_logon()
            case rdp.ChannelOpened(channel, "vrdpusb"):
                self.static = channel
            case rdp.DynamicReady():
                self.core.open_channel(self.first)
            case rdp.ChannelOpened(_, "TOY"):
                negotiate = struct.pack("<IBHH", 5, 12, 3, 0)
                self.core.send_channel(self.static, negotiate)

    def saw(self, kind: type) -> list[rdp.Event]:
        return [e for e in self.events if isinstance(e, kind)]


async def test_a_wire_that_says_nothing_gives_way_to_one_that_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rusb.client")
    peer = Undecided(tmp_path)
    async with asyncio.timeout(20), peer.calling(tmp_path) as client:
        await until(lambda: peer.saw(rdp.ChannelClosed))
        assert [one.name for one in wires_of(client).taken] == ["vrdpusb"]
        assert wires_of(client)._links["toyplain"]._is_closed
        assert carried(client) == {peer.static}
        await until(lambda: peer.saw(rdp.ChannelData))  # it is answered
        for count in (2, 3):  # it is too late
            peer.core.open_channel("TOY")
            peer.stream.flush()
            await until(lambda: len(peer.saw(rdp.ChannelClosed)) == count)  # noqa: B023
    assert "it never began" not in caplog.text


async def test_a_further_channel_alone_is_no_wire(tmp_path: Path) -> None:
    peer = Undecided(tmp_path, first="MORE", wire="toymore")
    async with asyncio.timeout(20), peer.calling(tmp_path) as client:
        await until(lambda: peer.saw(rdp.ChannelClosed))
        assert carried(client) == {peer.static}
        assert list(wires_of(client)._links) == ["vrdpusb"]
