"""How a client's connection ends, and what its user reads: no cut is a clean end."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.aio.tls import KnownServers
from rusb.cli._status import exit_status
from rusb.client import offers as offers_module
from rusb.client.backends.emulated import EmulatedBackend, Keyboard, Loopback
from rusb.client.config import ClientConfig
from rusb.client.events import DeviceNotOpened, SessionEvent
from rusb.client.session import connect
from rusb.errors import (
    CertificateError,
    ConnectionLost,
    NegotiationError,
    RusbError,
    ServerBusy,
    SettingsError,
)
from rusb.filters.model import Filter
from rusb.rdp.server import ServerConnection
from rusb.rdp.x224 import ConnectionConfirm, Failure
from rusb.server.auth import Decision, Request
from rusb.server.vbox.settings import RemoteDisplay
from tests.support.whole_path import Lab, machine, sessions_of


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    found = Lab(tmp_path, machine())
    async with asyncio.timeout(20), found.server:
        yield found


@contextlib.asynccontextmanager
async def proxy(
    port: int, *, resets: bool = False, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[int, asyncio.Event]]:
    """Stand between; when the event is set both ends see a FIN and nothing else, or
    the client a reset."""
    cut = asyncio.Event()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        pumps = [
            asyncio.ensure_future(pump(reader, far_writer)),
            asyncio.ensure_future(pump(far_reader, writer)),
        ]
        await cut.wait()
        for task in pumps:
            task.cancel()
        if resets:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        writer.close()
        far_writer.close()

    server = await asyncio.start_server(serve, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], cut
        cut.set()


@pytest.mark.parametrize("resets", [False, True])
async def test_a_cut_of_the_session_is_status_76_and_says_so(
    lab: Lab, resets: bool
) -> None:
    """C2: a server killed with -9 looks like this, too, or like this with a reset."""
    backend = EmulatedBackend(devices=[Loopback()])
    async with proxy(lab.server.port, resets=resets) as (port, cut):
        config = ClientConfig("127.0.0.1", port, known_servers=lab.folder / "known")
        async with connect(config, backends=[backend]) as session:
            await lab.guest.wait_for(1)
            cut.set()
            with pytest.raises(
                ConnectionLost, match="was lost: the server was killed"
            ) as e:
                await session.wait_closed()
            assert exit_status(e.value) == 76
            assert f"127.0.0.1:{port}" in str(e.value)


async def test_a_cut_before_usb_is_status_76_and_names_both_causes(
    tmp_path: Path,
) -> None:
    """C2: the connection works, and is cut before the server says a word about USB."""
    display = RemoteDisplay(properties={"Client/DisableUSB": "1"})
    lab = Lab(tmp_path, machine(remote_display=display))
    async with asyncio.timeout(20), lab.server, proxy(lab.server.port) as (port, cut):
        config = ClientConfig("127.0.0.1", port, known_servers=tmp_path / "known")
        async with connect(config, backends=[]) as session:
            cut.set()
            with pytest.raises(ConnectionLost, match="without a goodbye.*killed") as e:
                await session.wait_closed()
    assert "Remote USB needs" in str(e.value)
    assert exit_status(e.value) == 76


async def test_a_goodbye_is_a_clean_end(lab: Lab) -> None:
    async with lab.client(EmulatedBackend(devices=[Loopback()])) as session:
        await lab.guest.wait_for(1)
        await lab.server.aclose()
        await session.wait_closed()
        assert session.reason == 1


async def test_a_cut_between_logon_and_session_is_not_a_wrong_password(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C2: the server has taken the logon, and is killed before it goes on."""

    def die(self: ServerConnection) -> None:
        for one in sessions_of(lab.server):
            one.stream.send_now()
            one.drop("killed")

    monkeypatch.setattr(ServerConnection, "_demand_active", die)
    with pytest.raises(ConnectionLost, match="lost after the logon") as e:
        async with lab.client(EmulatedBackend(devices=[])):
            pass
    assert exit_status(e.value) == 76
    assert "password" not in str(e.value)


@pytest.mark.parametrize("goes_on", [False, True])
async def test_a_server_that_stops_after_the_logon_is_said_to(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    has_ended = asyncio.Event()

    async def check(request: Request) -> Decision:
        if not goes_on:
            await has_ended.wait()
        return Decision(granted=True, reason="")

    monkeypatch.setattr(lab.server.authenticator, "check", check)
    monkeypatch.setattr(ServerConnection, "_demand_active", lambda self: None)
    config = lab.config()
    config.timeout = 1.0
    what = "accepted the logon and" if goes_on else "did not answer the logon"
    with pytest.raises(ConnectionLost, match=f"within 1 s: it {what}"):
        async with connect(config, backends=[]):
            pass
    has_ended.set()


@pytest.mark.parametrize("how", ["is denied", "is denied without a word", "breaks"])
async def test_only_a_logon_that_is_denied_looks_like_a_wrong_password(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """C2: our server says so; VirtualBox just closes; a network breaks (76)."""
    authenticator = lab.server.authenticator

    async def check(request: Request) -> Decision:
        if how == "breaks":
            (session,) = sessions_of(lab.server)
            assert session.stream.transport is not None
            sock = session.stream.transport.get_extra_info("socket")
            linger = struct.pack("ii", 1, 0)  # who closes resets the connection
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            session.stream.abort()
        return Decision(granted=False, reason="")

    monkeypatch.setattr(authenticator, "check", check)
    if how == "is denied without a word":
        monkeypatch.setattr(ServerConnection, "_knows_reasons", False)
    config = lab.config()
    config.user = "anna"
    with pytest.raises(RusbError) as e:
        async with connect(config, backends=[EmulatedBackend(devices=[])]):
            pass
    status, text = {
        "is denied": (67, "password is wrong (no password was given), or the"),
        "is denied without a word": (67, "gave no reason"),
        "breaks": (76, "broke during the logon"),
    }[how]
    assert exit_status(e.value) == status
    assert text in str(e.value)


async def test_who_finds_the_slot_taken_is_told_exactly_that(lab: Lab) -> None:
    async with lab.client(EmulatedBackend(devices=[])):
        with pytest.raises(
            ServerBusy, match="as many clients as it accepts; try again"
        ):
            async with lab.client(EmulatedBackend(devices=[])):
                pass


async def test_clients_without_error_info_are_hung_up_on_as_before(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vrdp-server.md 3.7: rdesktop gets no PDU after its Client Info."""
    monkeypatch.setattr(ServerConnection, "_knows_reasons", False)
    async with lab.client(EmulatedBackend(devices=[])):
        with pytest.raises(RusbError, match="gave no reason.*only serves one client"):
            async with lab.client(EmulatedBackend(devices=[])):
                pass


async def test_what_the_server_does_not_open_is_named_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offers_module, "OPEN_SECONDS", 1.0)
    events: list[SessionEvent] = []
    lab = Lab(tmp_path, machine(filters=(Filter(name="l", product="Loopback"),)))
    backend = EmulatedBackend(devices=[Keyboard(), Loopback()])
    async with asyncio.timeout(20), lab.server:
        async with connect(lab.config(), backends=[backend], on_event=events.append):
            await lab.guest.wait_for(1)
            while not any(isinstance(e, DeviceNotOpened) for e in events):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)  # of another one nothing comes
    (line,) = [str(e) for e in events if isinstance(e, DeviceNotOpened)]
    assert "Keyboard yet: no filter of the machine admits it" in line
    assert "VBox.log" in line


# ----------------------------------------------------------------------- pins ----


async def test_pins_that_cannot_be_written_end_the_connection_at_once(
    lab: Lab,
) -> None:
    """C1: it hung 31 s, and the cause was lost."""
    config = lab.config()
    config.known_servers = Path("/proc/1/nowhere/known")
    async with asyncio.timeout(20):
        with pytest.raises(SettingsError, match="/proc/1/nowhere/known: "):
            async with connect(config, backends=[EmulatedBackend(devices=[])]):
                pass


async def test_a_certificate_for_another_name(lab: Lab, tmp_path: Path) -> None:
    config = lab.config()
    (config.ca,) = tmp_path.rglob("server-cert.pem")  # noqa: ASYNC240
    async with proxy(config.port, host="127.0.0.2") as (port, _):
        config.host, config.port = "127.0.0.2", port
        with pytest.raises(
            CertificateError, match=r"not valid for '127\.0\.0\.2'; connect with a"
        ) as e:
            async with connect(config, backends=[EmulatedBackend(devices=[])]):
                pass
    assert e.value.hint is None  # no authority would help


def test_a_known_server_needs_no_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = KnownServers(tmp_path / "known")
    assert known.check("a:1", b"certificate")

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("rusb.aio.tls.locked", refuse)
    assert not known.check("a:1", b"certificate")
    with pytest.raises(CertificateError):
        known.check("a:1", b"another")
    with pytest.raises(SettingsError, match="Permission denied"):
        known.check("b:1", b"certificate")


@contextlib.asynccontextmanager
async def no_tls(pin: Path | None) -> AsyncIterator[tuple[ClientConfig, list[bytes]]]:
    """A man in the middle who says that the server has no TLS."""
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got.append(await reader.read(4096))
        if len(got) == 1:
            refusal = ConnectionConfirm(failure=Failure.TLS_NOT_ALLOWED)
            writer.write(refusal.serialize())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        if pin is not None:
            pin.write_text(f"127.0.0.1:{port} sha256:{'0' * 64}\n")  # noqa: ASYNC240
        yield (
            ClientConfig("127.0.0.1", port, user="anna", password="secret", usb=False),
            got,
        )


@pytest.mark.parametrize("kinds", [("tls", "rdp"), ("tls", "none"), ("rdp",)])
async def test_a_pinned_server_is_never_asked_with_less_than_tls(
    kinds: tuple[str, ...], tmp_path: Path
) -> None:
    """A4: the password went to a man in the middle, through RC4."""
    async with no_tls(tmp_path / "known") as (config, got):
        config.security, config.known_servers = kinds, tmp_path / "known"
        events: list[SessionEvent] = []
        with pytest.raises(CertificateError, match="nothing weaker than TLS") as e:
            async with connect(config, backends=[], on_event=events.append):
                pass
        assert events == []  # nobody reads that RC4 is tried
        assert len(got) == (kinds[0] == "tls")
        assert str(tmp_path / "known") in str(e.value)
        assert exit_status(e.value) == 78


async def test_an_unknown_server_may_be_asked_with_less(tmp_path: Path) -> None:
    async with no_tls(None) as (config, got):
        config.security, config.known_servers = ("tls", "rdp"), tmp_path / "known"
        with pytest.raises(RusbError):
            async with connect(config, backends=[]):
                pass
        assert len(got) == 2


async def test_with_an_authority_nothing_weaker_is_tried(
    lab: Lab, tmp_path: Path
) -> None:
    async with no_tls(None) as (config, got):
        config.security, config.ca = ("tls", "rdp"), tmp_path / "server-cert.pem"
        with pytest.raises(NegotiationError, match="nothing weaker than TLS"):
            async with connect(config, backends=[]):
                pass
        assert len(got) == 1
