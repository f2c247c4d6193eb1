"""What a server says at the terminal, and how much of it (C3 of a user's day)."""

import asyncio
import contextlib
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.aio.tls import fingerprint, read_certificate
from rusb.cli import main
from rusb.cli.serve import make_settings
from rusb.client.backends._emulated.flash_drive import FlashDrive
from rusb.client.backends._emulated.keyboard import Keyboard
from rusb.client.backends.emulated import EmulatedBackend, Loopback
from rusb.client.config import ClientConfig
from rusb.client.session import ClientSession, connect
from rusb.errors import AuthenticationError, ServerBusy
from rusb.filters.model import Filter
from rusb.server import server as server_module
from rusb.server.auth.hashes import hash_legacy
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.server import Server
from rusb.server.vbox.settings import Machine, RemoteDisplay, load_machine
from tests.support.whole_path import transport_of

OURS = (Filter("ours", vendor_id="1209", product_id="0004"),)
OTHERS = (Filter("others", vendor_id="0951"),)


class Desk:
    """A server, and what its terminal shows."""

    def __init__(
        self,
        folder: Path,
        filters: tuple[Filter, ...] = OURS,
        address: str = "127.0.0.1",
        **display: object,
    ) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.guest = LoopbackGuest()
        machine = Machine(
            name="My Lab",
            filters=filters,
            usb_controllers=("XHCI",),
            remote_display=RemoteDisplay(**display),  # type: ignore[arg-type]
            extra_data={"VBoxAuthSimple/users/vera": hash_legacy("secret")},
        )
        log = str(folder / "VBox.log")
        config = ServerConfig(
            machine, ports=[0], address=address, log=log, state=folder
        )
        self.server = Server(config, guest=self.guest, report=self.said.append)

    def log(self) -> str:
        return (self.folder / "VBox.log").read_text()

    @contextlib.asynccontextmanager
    async def visit(
        self, password: str = "", product: str = "Loopback"
    ) -> AsyncIterator[ClientSession]:
        known, user = self.folder / "known", "vera" if password else ""
        config = ClientConfig(
            "127.0.0.1",
            self.server.port,
            user=user,
            password=password,
            known_servers=known,
        )
        backend = EmulatedBackend(devices=[Loopback()])
        async with connect(config, backends=[backend]) as session:
            yield session

    async def hears(self, pattern: str) -> str:
        """Wait for a line; return it."""
        while True:
            for line in self.said:
                if re.search(pattern, line):
                    return line
            await asyncio.sleep(0.01)


async def test_a_client_and_its_device_from_the_first_to_the_last(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path)
    async with desk.server, asyncio.timeout(30):
        async with desk.visit():
            await desk.hears("in use by the guest")
        await desk.hears("disconnected")
        await desk.hears("detached")
    (note,) = (line for line in desk.said if "isochronous" in line)
    said = [line for line in desk.said if line != note]
    who = r"client 1: someone at 127\.0\.0\.1 \(.+\) connected"
    assert re.fullmatch(who, said[0])
    assert said[1] == (
        "1209:0004 rusb Loopback: in use by the guest,"
        ' admitted by filter 0 "ours" (vendorId 1209, productId 0004)'
    )
    assert "client 1: disconnected" in said
    assert "1209:0004 rusb Loopback: detached: the client's connection ended" in said
    assert len(said) == 4


async def test_a_refused_device_comes_with_the_command_that_admits_it(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path, OTHERS)
    command = (
        "to admit 1209:0004 rusb Loopback: rusb usbfilter add 1 --target 'My Lab'"
        " --name Loopback --vendorid 1209 --productid 0004 --remote yes"
    )
    async with desk.server, asyncio.timeout(30), desk.visit():
        assert await desk.hears("to admit") == command
        assert (
            await desk.hears("refused") == "1209:0004 rusb Loopback: refused: filter 0"
            ' "others": vendorId wanted 0951, found 1209'
        )
        assert f"Remote USB: {command}" in desk.log()


async def test_a_machine_without_a_controller(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.server.machine.usb_controllers = ()
    async with desk.server, asyncio.timeout(30), desk.visit():
        line = await desk.hears("to admit")
        assert line.endswith("rusb modifyvm 'My Lab' --usb-xhci on")


async def test_refused_clients_are_named_with_the_reason(tmp_path: Path) -> None:
    desk = Desk(tmp_path, auth_type="External", auth_library="VBoxAuthSimple")
    async with desk.server, asyncio.timeout(30):
        with pytest.raises(AuthenticationError):
            async with desk.visit("wrong"):
                pass
        line = await desk.hears("refused")
        assert re.fullmatch(
            r"client 1: vera at 127\.0\.0\.1 \(.+\) refused: .*denied.*", line
        )
        async with desk.visit("secret"):
            await desk.hears("client 2: vera at .* connected")
            with pytest.raises(ServerBusy):
                async with desk.visit("secret"):
                    pass
            await desk.hears(r"client 3: .* refused: Multiple connections are not")
    assert not any("wrong" in line or "secret" in line for line in desk.said)


async def test_who_comes_and_says_nothing_sensible(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with desk.server, asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", desk.server.port)
        writer.write(b"\x03\0\0\0")
        await reader.read()
        writer.close()
        await desk.hears(r"client 1 at 127\.0\.0\.1: .+")


async def test_the_terminal_is_not_flooded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "MAX_TOLD", 5)
    desk = Desk(tmp_path)
    async with desk.server, asyncio.timeout(30):
        for _ in range(40):
            _, writer = await asyncio.open_connection("127.0.0.1", desk.server.port)
            writer.write(b"junk")
            writer.write_eof()
            writer.close()
        while desk.log().count("Connection closed") < 40:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    lines = [line for line in desk.said if "127.0.0.1: " in line]
    assert 5 <= len(lines) <= 10


async def test_the_fingerprint_is_the_one_that_clients_show(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with desk.server, asyncio.timeout(30), desk.visit() as client:
        tls = transport_of(client).get_extra_info("ssl_object")
        shown = fingerprint(tls.getpeercert(binary_form=True))
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", shown)
    assert desk.server.fingerprint == shown
    assert f"VRDP: the certificate is {shown}" in desk.log()
    assert read_certificate(tmp_path / "server-cert.pem")[2] == shown
    assert f" {shown}\n" in (tmp_path / "known").read_text()


@pytest.mark.parametrize(
    ("address", "display", "is_warned"),
    [
        ("0.0.0.0", {}, True),
        ("::", {"auth_type": "External", "auth_library": "null"}, True),
        ("127.0.0.1", {}, False),
        ("0.0.0.0", {"auth_type": "External"}, False),
    ],
)
async def test_an_open_door_is_warned_of_once(
    tmp_path: Path, address: str, display: dict[str, str], *, is_warned: bool
) -> None:
    desk = Desk(tmp_path, OURS, address, **display)
    async with desk.server:
        text = "nobody is asked for a password"
        warnings = [line for line in desk.said if text in line]
        assert len(warnings) == desk.log().count(text) == is_warned
        if is_warned:
            assert warnings[0].startswith("WARNING: ")
            assert f"({address})" in warnings[0]
            assert "modifyvm 'My Lab' --vrdeauthtype external" in warnings[0]
            assert "with rusb serve --name: --auth external" in warnings[0]


async def test_what_a_machine_lacks_can_be_had_if_it_is_not_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands name its file: modifyvm wants it off, and then knows no name."""
    for name in ("RUSB_HOME", "RUSB_STATE", "RUSB_RUNTIME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    path = make_settings("Lab", [], None).rename(tmp_path / "My Lab.vbox")
    path.write_text(re.sub("<Controller .*/>", "", path.read_text()))
    assert load_machine(path).usb_controllers == ()
    desk = Desk(tmp_path, address="0.0.0.0")
    desk.server.machine.path = path
    desk.server.machine.usb_controllers = ()
    async with desk.server, asyncio.timeout(30), desk.visit():
        cure = (await desk.hears("to admit")).partition(": rusb ")[2]
    (command,) = re.findall(r"once the machine is off: ([^;]*);", desk.said[0])
    for words in (cure, command):
        assert await asyncio.to_thread(main, shlex.split(words)) == 0
    changed = load_machine(path)
    assert changed.remote_display.auth_type == "External"
    assert "XHCI" in changed.usb_controllers


async def test_what_the_quick_start_shows(tmp_path: Path) -> None:
    """The guide's block about devices, word for word."""
    text = (Path(__file__).parents[2] / "docs/guide/quick-start.md").read_text("utf-8")
    block = text.partition("```text\nLab: listening")[2].partition("```")[0]
    wanted = [line for line in block.splitlines() if " rusb " in line]
    desk = Desk(tmp_path, (Filter("Sticks", product="*Flash*", remote="yes"),))
    desk.server.machine.name = "Lab"
    devices = [FlashDrive(), Keyboard()]
    async with desk.server, asyncio.timeout(30):
        known = tmp_path / "known"
        config = ClientConfig("127.0.0.1", desk.server.port, known_servers=known)
        async with connect(config, backends=[EmulatedBackend(devices=devices)]):
            await desk.hears("in use by the guest")
            await desk.hears("to admit")
        await desk.hears("detached")
    said = [line for line in desk.said if " rusb " in line]
    assert sorted(said) == sorted(wanted)
