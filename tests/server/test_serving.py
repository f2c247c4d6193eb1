"""What ``rusb serve`` has around its server: settings, lock, control socket."""

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rusb.aio.tls import make_self_signed
from rusb.cli._vbox_options import UsageError
from rusb.cli.serve import make_settings
from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import connect
from rusb.errors import CertificateError, ConnectionLost, ControlError, SettingsError
from rusb.filters.parser import parse_offer
from rusb.server.channels.clipboard import ClipboardMode
from rusb.server.config import ServerConfig
from rusb.server.machine import serving as serving_module
from rusb.server.machine.control import call, running_path
from rusb.server.machine.serving import Serving
from rusb.server.state import MachineState
from rusb.server.vbox.registry import Registry
from rusb.server.vbox.settings import load_machine


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folders of our own, with names that are short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        for name in ("RUSB_STATE", "RUSB_RUNTIME", "RUSB_HOME"):
            monkeypatch.setenv(name, f"{folder}/{name[5:].lower()}")
        monkeypatch.setattr(serving_module, "LOOK_PERIOD", 0.05)
        yield Path(folder)


class Station:
    """A machine without settings of its own, served."""

    def __init__(self, place: Path) -> None:
        self.path = make_settings("My <Lab>", [parse_offer("0951:")], None)
        self.said: list[str] = []
        self.config = ServerConfig(
            load_machine(self.path),
            guest="loopback",
            ports=[0],
            address="127.0.0.1",
            log=str(place / "VBox.log"),
            is_bare=True,
        )
        self.serving = Serving(self.config, self.said.append)

    async def hears(self, text: str) -> None:
        async with asyncio.timeout(30):
            while not any(text in line for line in self.said):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@pytest.fixture
async def station(place: Path) -> AsyncIterator[Station]:
    found = Station(place)
    async with found.serving:
        yield found


async def test_a_renewed_certificate_counts_for_the_next_connection(
    station: Station, place: Path
) -> None:
    """At SIGHUP; who is connected stays, and what cannot be used changes nothing."""
    folder = place / "state"
    server, first = station.serving.server, station.serving.server.fingerprint
    backends = [EmulatedBackend(devices=[Loopback()])]

    def client(name: str) -> ClientConfig:
        return ClientConfig("127.0.0.1", server.port, known_servers=place / name)

    async with connect(client("first"), backends=backends) as session:
        renewed, key = make_self_signed(place)
        for path in (renewed, key):
            (folder / path.name).write_bytes(path.read_bytes())
        station.serving.reload()
        assert server.fingerprint != first
        assert station.said[-1].endswith(f"the certificate is {server.fingerprint}")
        with pytest.raises(CertificateError, match=f"was {first}, now it is"):
            async with connect(client("first"), backends=[]):
                pass
        (folder / key.name).write_text("junk")
        station.serving.reload()
        assert station.said[-1].endswith("clients get the previous certificate.")
        warned = station.serving._happened.after(None)[-1]
        assert warned["event"] == "server.warned"
        assert station.said[-1].endswith(warned["text"])
        assert session.is_connected
    async with connect(client("second"), backends=[]):
        assert server.fingerprint in (place / "second").read_text()


def test_t40_what_rules_ask_of_interfaces_is_in_the_settings() -> None:
    rule = parse_offer('product="A, <B>",interfaceClass=0x08|0x03', reads_devices=True)
    (found,) = load_machine(make_settings("Lab", [rule], None)).filters
    assert found == rule
    assert found.interface_class == "0x08|0x03"


def test_a_name_gives_the_same_settings_each_time() -> None:
    rules = [parse_offer("1209:0004"), parse_offer('vid=0951,product="A & <B>"')]
    machine = load_machine(make_settings("Lab", rules, "external"))
    again = load_machine(make_settings("Lab", rules, "external"))
    other = load_machine(make_settings("Other", rules, None))
    assert machine.uuid == again.uuid != other.uuid
    assert machine.name == "Lab"
    assert list(machine.filters) == rules
    assert machine.usb_controllers == ("XHCI",)
    assert machine.remote_display.auth_type == "External"
    assert other.remote_display.auth_type == "Null"
    with pytest.raises(UsageError, match="--name: .* it has a slash"):
        make_settings("../Lab", rules, None)


async def test_it_is_found_while_it_runs(station: Station) -> None:
    known = Registry()
    (entry,) = known.running_unlisted()
    assert entry.path == station.path
    assert known.find("My <Lab>").uuid == known.find(entry.uuid).uuid == entry.uuid
    state = await call(running_path(entry.uuid), "info")
    assert state["state"] == "running"
    assert state["display"]["port"] == station.serving.server.port
    with pytest.raises(
        ControlError, match="'pause', because another program runs the machine"
    ):
        await call(running_path(entry.uuid), "pause")
    with pytest.raises(ControlError, match="already running, in process"):
        Serving(station.config, station.said.append)
    await call(running_path(entry.uuid), "poweroff")
    async with asyncio.timeout(20):
        await station.serving.wait_ended()
    await station.serving.aclose()
    assert known.running_unlisted() == []
    with pytest.raises(SettingsError, match="could not find"):
        known.find("My <Lab>")


async def test_a_change_of_its_file_counts_at_once(
    station: Station, place: Path
) -> None:
    """A device that was refused comes in; a broken file changes nothing."""
    port = station.serving.server.port
    config = ClientConfig("127.0.0.1", port, known_servers=place / "known")
    backend = EmulatedBackend(devices=[Loopback()])
    async with asyncio.timeout(30), connect(config, backends=[backend]):
        await station.hears("refused: filter 0")
        good = station.path.read_text()
        station.path.write_text("<broken")
        await station.hears("the previous settings stay")
        assert station.serving.server.machine.filters == (parse_offer("0951:"),)
        station.path.write_text(good.replace('vendorId="0951"', 'vendorId="1209"'))
        await station.hears("in use by the guest")
    assert "settings read again, 1 USB filters" in (place / "VBox.log").read_text()


async def test_sound_and_clipboard_change_for_this_run(station: Station) -> None:
    (entry,) = Registry().running_unlisted()
    path = running_path(entry.uuid)
    media = station.serving.server._host.media
    await call(path, "clipboard", mode="guesttohost")
    await call(path, "audioout", enabled=False)
    state = MachineState.from_json(await call(path, "info"))
    assert (state.clipboard, state.has_sound) == ("guesttohost", False)
    assert media.clipboard.mode is ClipboardMode.TO_VIEWERS
    assert not media.sound.is_on
    with pytest.raises(ControlError, match="choose one of disabled, hosttoguest"):
        await call(path, "clipboard", mode="both")


async def test_it_moves_to_another_port_while_clients_stay(
    station: Station, tmp_path: Path
) -> None:
    server, uuid = station.serving.server, station.serving._machine.uuid
    before = server.port
    config = ClientConfig("127.0.0.1", before, known_servers=tmp_path / "known")
    async with asyncio.timeout(20), connect(config, backends=[]) as client:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            busy = str(taken.getsockname()[1])
            with pytest.raises(ControlError, match="all are in use"):
                await tell(uuid, name="TCP/Ports", value=busy)
        assert server.port == before
        await tell(uuid, name="TCP/Ports", value="43000-43999")
        assert 43000 <= server.port < 44000
        assert station.said[-1] == f"My <Lab>: listening on port {server.port}"
        state = await call(running_path(uuid), "info")
        assert state["display"]["port"] == server.port
        assert len(state["display"]["clients"]) == 1
        other = replace(config, port=server.port)
        async with connect(other, backends=[]):
            pass
        with pytest.raises(ConnectionLost, match="Connection refused"):
            async with connect(config, backends=[]):
                pass
        assert client.reason is None
        assert len(server.state().clients) == 1


async def tell(uuid: str, **arguments: str) -> None:
    await call(running_path(uuid), "vrdeproperty", **arguments)


async def test_a_switch_counts_at_once(station: Station) -> None:
    machine, server = station.serving._machine, station.serving.server
    port = server.port
    await tell(machine.uuid, name="Client/DisableInput", value="1")
    assert machine.feature_disabled("Input")
    await tell(machine.uuid, name="Client/DisableInput", value="")
    assert not machine.feature_disabled("Input")
    assert server.port == port


async def test_other_properties_need_a_new_start(station: Station) -> None:
    with pytest.raises(
        ControlError, match="can only change TCP/Ports, Client/Disable.* it runs, not x"
    ):
        await tell(station.serving._machine.uuid, name="x", value="1")


async def test_what_a_name_does_not_admit_is_allowed_for_good_by_an_option(
    station: Station, tmp_path: Path
) -> None:
    port = station.serving.server.port
    config = ClientConfig("127.0.0.1", port, known_servers=tmp_path / "known")
    backend = EmulatedBackend(devices=[Loopback()])
    async with asyncio.timeout(20), connect(config, backends=[backend]):
        await station.hears(
            "; to keep that, also start rusb serve with --allow 1209:0004"
        )
