"""The guest usbredir: programs that speak it, at either end of a connection."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rusb.errors import GuestError
from rusb.server.guests import usbredir
from rusb.server.guests.base import AttachedDevice
from rusb.server.guests.usbredir import UsbredirGuest
from rusb.usb.urb import UrbStatus
from tests.support.guest_programs import IN, Device, Redirected, until
from tests.support.rusbserver import free_port
from tests.support.wire.redir import REJECT, hello, packet


@pytest.fixture
async def programs() -> AsyncIterator[list[Redirected]]:
    found: list[Redirected] = []
    yield found
    for program in found:
        await asyncio.to_thread(program.close)


async def test_a_device_goes_to_who_listens(
    tmp_path: Path, programs: list[Redirected]
) -> None:
    """As QEMU's chardev with server=on does; its end is a loss."""
    path = tmp_path / "chardev"
    lost: list[tuple[AttachedDevice, str]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        guest = UsbredirGuest(str(path))
        guest.watch_lost(lambda device, why: lost.append((device, why)))
        await guest.start()
        device = Device()
        assert await guest.attach(device) == str(path)
        programs.append(program := Redirected(listener.accept()[0]))
        await until(lambda: program.is_ready)
        program.start(IN, 8)
        await until(lambda: device.seen)
        await asyncio.to_thread(program.close)
        await until(lambda: lost)
        assert lost == [(device, "the other end hung up")]
        device.complete_all(UrbStatus.NO_DEVICE)
        await guest.aclose()


@pytest.mark.parametrize("place", ["127.0.0.1", "/nowhere/at/all"])
async def test_nobody_listens(place: str) -> None:
    guest = UsbredirGuest(place if "/" in place else f"{place}:{free_port()}")
    await guest.start()
    with pytest.raises(GuestError, match="cannot connect to"):
        await guest.attach(Device())
    await guest.aclose()


async def test_each_caller_gets_the_next_free_device(
    programs: list[Redirected],
) -> None:
    guest = UsbredirGuest("listen=127.0.0.1:0")
    await guest.start()
    first, second = Device(1), Device(2)
    await guest.attach(first)

    def call() -> Redirected:
        sock = socket.create_connection(("127.0.0.1", guest.port), 5)
        sock.settimeout(None)
        programs.append(program := Redirected(sock))
        return program

    one, two = call(), call()
    await until(lambda: one.is_ready)
    assert not two.is_ready  # it waits
    await guest.attach(second)
    await until(lambda: two.is_ready)
    two.start(IN, 8)
    await until(lambda: second.seen)
    assert not first.seen
    await asyncio.to_thread(two.close)
    await until(lambda: second.resets)  # as the next one expects it
    three = call()
    await until(lambda: three.is_ready)
    await guest.aclose()


REFUSAL = hello() + packet(REJECT)


async def test_what_one_caller_refuses_the_next_one_gets(
    programs: list[Redirected],
) -> None:
    """And keeps, when the first one's connection ends after that."""
    guest = UsbredirGuest("listen=127.0.0.1:0")
    await guest.start()
    device = Device()
    await guest.attach(device)
    loop = asyncio.get_running_loop()
    place = "127.0.0.1", guest.port
    with socket.create_connection(place) as one, socket.create_connection(place) as two:
        one.setblocking(False)
        async with asyncio.timeout(20):
            assert await loop.sock_recv(one, 1 << 16)
            assert not device.resets
            await loop.sock_sendall(one, REFUSAL)
            while await loop.sock_recv(one, 1 << 16):
                pass
        assert not device.resets  # nobody has used it
        two.settimeout(None)
        programs.append(program := Redirected(two))
        await until(lambda: program.is_ready)
        program.start(IN, 8)
        await until(lambda: device.seen)
        await guest.aclose()


async def test_a_refusal_is_one_loss(tmp_path: Path) -> None:
    path = tmp_path / "chardev"
    lost: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        guest = UsbredirGuest(str(path))
        guest.watch_lost(lambda device, why: lost.append(why))
        await guest.attach(Device())
        refusing, _ = listener.accept()
        with refusing:
            refusing.sendall(REFUSAL)
            refusing.setblocking(False)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(20):
                with contextlib.suppress(ConnectionError):
                    while await loop.sock_recv(refusing, 1 << 16):
                        pass
        await asyncio.sleep(0)
    assert lost == ["the other end refused the device"]
    await guest.aclose()


async def test_who_refuses_at_once_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop may hear of it before it says that there is a connection."""
    bugs: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: bugs.append(context))
    path = tmp_path / "chardev"
    guest = UsbredirGuest(str(path))
    guest.watch_lost(lambda device, why: pytest.fail(why))
    connect = guest._connect

    async def late(plug: usbredir._Plug) -> None:
        await connect(plug)
        listener.accept()[0].close()
        await until(lambda: plug.stream is None)

    monkeypatch.setattr(guest, "_connect", late)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(GuestError, match="refused the device or hung up"):
            await guest.attach(Device())
    await guest.aclose()
    assert not bugs


async def test_callers_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usbredir, "MAX_WAITING", 2)
    guest = UsbredirGuest("listen=127.0.0.1:0")
    await guest.start()
    loop = asyncio.get_running_loop()
    socks = [socket.create_connection(("127.0.0.1", guest.port)) for _ in range(3)]
    for sock in socks:
        sock.setblocking(False)
    async with asyncio.timeout(20):
        assert await loop.sock_recv(socks[2], 1) == b""
    await guest.aclose()
    for sock in socks:
        sock.close()


async def test_a_path_that_is_too_long_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="cannot listen at .*: File name too long"):
        await UsbredirGuest(f"listen={tmp_path / ('x' * 300)}").start()


async def test_what_is_made_while_a_socket_is_has_its_usual_mode(
    tmp_path: Path,
) -> None:
    usual, other = tmp_path / "usual", tmp_path / "other"
    usual.mkdir()
    asyncio.get_running_loop().call_soon(other.mkdir)
    guest = UsbredirGuest(f"listen={tmp_path / 'redir'}")
    await guest.start()
    await asyncio.sleep(0)
    assert other.stat().st_mode == usual.stat().st_mode
    await guest.aclose()


async def test_a_socket_of_ours_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "redir"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))  # what a killed server leaves
    guest = UsbredirGuest(f"listen={path}")
    await guest.start()
    with pytest.raises(GuestError, match="in use"):
        await UsbredirGuest(f"listen={path}").start()
    assert path.stat().st_mode & 0o777 == 0o600
    await guest.aclose()
    assert not path.exists()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("", r"needs HOST:PORT or PATH"),
        ("listen=", r"needs HOST:PORT or PATH"),
        ("listen=host", "host"),
        ("host:port", "port"),
    ],
)
def test_an_address_that_makes_no_sense(address: str, why: str) -> None:
    with pytest.raises(GuestError, match=why):
        UsbredirGuest(address)
