"""Logons over real connections: what a client sees, what VBox.log says (3.6, 3.7)."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from rusb.errors import ConnectionLost
from rusb.rdp.share import DataType
from tests.support.logon import SLOW, TELLING, Place, Told, wait_text
from tests.support.whole_path import rdp_of, stream_of


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_a_bug_in_a_logon_refuses_it(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def check(request: object) -> object:
        raise ZeroDivisionError("a bug")

    async with place.serve() as server:
        server.authenticator.check = check  # type: ignore[method-assign, assignment]
        async with asyncio.timeout(20):
            with pytest.raises(ConnectionLost, match="server initiated disconnect"):
                async with place.visit():
                    pass
        await place.wait_log("Connection closed: 1")
    assert "a bug in the logon" in caplog.text


async def test_the_right_password(place: Place) -> None:
    async with place.serve(), place.visit(domain="WORK@1"):
        await place.guest.wait_for(1)
    log = place.log()
    assert "AUTH: User: [vera]. Domain: [WORK]. Authentication type: [External]" in log
    assert "AUTH: Access granted." in log
    assert "secret" not in log


async def test_a_wrong_password(place: Place) -> None:
    async with place.serve():
        await place.is_refused(password="Secret")
        await place.is_refused(user="nobody")
    log = place.log()
    assert log.count("AUTH: Access denied.") == 2
    assert "Secret" not in log


async def test_ten_wrong_passwords_close_the_door(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rusb.server.auth.limits.FIRST_DELAY", 0.0)
    async with place.serve():
        for _ in range(10):
            await place.is_refused(password="wrong")
        await place.is_refused()  # the right one comes too late
    assert "AUTH: too many failed attempts from 127.0.0.1" in place.log()
    assert "Access granted" not in place.log()


async def test_type_guest_says_what_to_do(place: Place) -> None:
    async with place.serve(auth_type="Guest"):
        await place.is_refused()
    assert "use the authentication type external" in place.log()


@pytest.mark.parametrize(("domain", "monitors"), [("@2", 1), ("@3", 2), ("@65", 64)])
async def test_a_screen_that_is_not_there(
    place: Place, domain: str, monitors: int
) -> None:
    async with place.serve(monitors=monitors):
        await place.is_refused(domain=domain)
    assert "VRDP: There is no screen" in place.log()
    assert "AUTH:" not in place.log()


async def test_the_second_screen(place: Place) -> None:
    async with place.serve(monitors=2), place.visit(domain="@2"):
        assert "Screen: 1" in place.log()


# ----------------------------------------------------- what a library sees ----


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setenv("TELLING_LIBRARY", str(tmp_path / "told"))
    return Told(tmp_path / "told")


async def test_the_library_hears_of_logon_and_end(place: Place, told: Told) -> None:
    async with place.serve(auth_library=TELLING):
        async with place.visit():
            await place.guest.wait_for(1)
            assert str(told) == "on 1\n"
        await wait_text(told, "off")
        await place.is_refused(password="wrong")
        await place.wait_log("Connection closed: 2")
    assert str(told) == "on 1\noff 1\non 2\n"
    log = place.log()
    library = f"AUTH: Library: [{TELLING}, entry point vrdp_auth3]."
    assert log.count(library) == 2
    assert log.index("Authentication type: [External]") < log.index(library)
    assert log.index(library) < log.index("AUTH: external authentication: granted")


async def test_the_library_hears_of_the_end_of_one_not_admitted(
    place: Place, told: Told
) -> None:
    async with place.serve(auth_library=TELLING), place.visit():
        await place.is_busy()
        await wait_text(told, "off")
        assert str(told) == "on 1\non 2\noff 2\n"


@pytest.mark.parametrize("password", ["secret", "wrong"])
async def test_whoever_hangs_up_during_the_check_is_decided_on_all_the_same(
    place: Place, told: Told, password: str
) -> None:
    async with place.serve(auth_library=TELLING):
        task = asyncio.ensure_future(place.is_refused(user="slow", password=password))
        await wait_text(told, "on 1")
        task.cancel()
        await asyncio.wait([task])
        await place.wait_log("Connection closed: 1")
        assert "Access" not in place.log()
        is_right = password == "secret"
        answer = "granted" if is_right else "denied"
        await place.wait_log(f"AUTH: Access {answer}.")
        if is_right:
            await wait_text(told, "off 1")
    assert ("off 1" in str(told)) == is_right


# ------------------------------------------------------ several clients ----


async def test_a_second_client_is_refused(place: Place) -> None:
    async with place.serve(), place.visit() as first:
        await place.guest.wait_for(1)
        await place.is_busy()
        assert (
            "AUTH: Multiple connections are not enabled. Access denied." in place.log()
        )
        assert len(place.guest.devices) == 1
        assert first.reason is None


async def test_a_second_client_takes_over(place: Place) -> None:
    async with place.serve(reuse_single_connection=True), place.visit() as first:
        await place.guest.wait_for(1)
        async with place.visit():
            with contextlib.suppress(ConnectionLost):
                await first.wait_closed()
            assert first.reason == 1
            assert "Disconnecting" in place.log()


async def test_whoever_waits_for_a_decision_counts_for_nothing(place: Place) -> None:
    async with place.serve(auth_library=SLOW):
        slow = asyncio.ensure_future(place.is_refused(user="slow"))
        while "User: [slow]" not in place.log():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        async with place.visit(user="quick"):
            await place.guest.wait_for(1)
        await slow


async def test_two_clients_where_several_may(place: Place) -> None:
    async with place.serve(allow_multi_connection=True), place.visit(), place.visit():
        await place.guest.wait_for(2)


async def test_a_logoff_is_logged_if_the_server_ends_it(place: Place) -> None:
    """vrdp-server.md 7.4; a client that leaves is none."""
    async with place.serve():
        async with place.visit():
            await place.guest.wait_for(1)
        await place.wait_log("Connection closed: 1")
        assert "Logoff" not in place.log()
        async with place.visit() as client:
            await place.guest.wait_for(1)
            (session,) = place.server._sessions
            session.disconnect(1)
            session.disconnect(1)
            with contextlib.suppress(ConnectionLost):
                await client.wait_closed()
    (line,) = (s for s in place.log().splitlines() if "Logoff" in s)
    assert line.endswith("build 2600. Reason 0x0001.")


async def test_a_logoff_is_logged_if_the_client_asks_for_the_end(place: Place) -> None:
    async with place.serve(), place.visit() as client:
        await place.guest.wait_for(1)
        rdp_of(client)._send_data(DataType.SHUTDOWN_REQUEST, b"")
        stream_of(client).flush()
        await place.wait_log("Connection closed: 1")
    assert place.log().count("build 2600. Reason 0x0000.") == 1


# ------------------------------------------------------------- switches ----


SWITCHES = [
    ({"properties": {"Client/DisableUSB": "1"}}, {}),
    ({}, {"VRDE/Feature/Client/DisableUSB": "1"}),
    ({}, {"VRDP/Feature/Client/DisableUSB": "1"}),
]


@pytest.mark.parametrize(("display", "extra"), SWITCHES)
async def test_usb_is_switched_off(
    place: Place, display: dict[str, Any], extra: dict[str, str]
) -> None:
    async with place.serve(extra=extra, **display), place.visit():
        assert "VRDP: feature: Client/DisableUSB" in place.log()
        assert place.guest.devices == {}


async def test_a_property_hides_the_extra_data(place: Place) -> None:
    extra = {"VRDE/Feature/Client/DisableUSB": "1"}
    properties = {"Client/DisableUSB": "0"}
    async with place.serve(extra=extra, properties=properties), place.visit():
        await place.guest.wait_for(1)
