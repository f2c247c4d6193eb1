"""Whom a server lets wait for a logon, and whom it lets stay after it."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusb.server import admission
from rusb.server.config import ServerConfig
from rusb.server.guests.loopback import LoopbackGuest
from rusb.server.server import Server
from tests.support.sessions import PlainSession
from tests.support.whole_path import machine


class Crowd:
    """A server, and those who connect."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "VBox.log"
        config = ServerConfig(machine(), log=str(self.path), state=folder)
        config.machine.remote_display.allow_multi_connection = True
        self.server = Server(config, guest=LoopbackGuest())
        self.visitors: list[PlainSession] = []

    @property
    def dropped(self) -> list[str]:
        """The addresses of those that had to make room."""
        return [one.address for one in self.visitors if one.told]

    def visitor(self, address: str, *, is_logged_on: bool = False) -> PlainSession:
        number = len(self.visitors) + 1
        found = PlainSession(number, address, is_logged_on=is_logged_on)
        self.visitors.append(found)
        return found

    def come(self, address: str) -> bool:
        """Connect; return whether the connection may stay."""
        return self.server._host.admission.welcome(self.visitor(address))

    def log_on(self, address: str) -> bool:
        """Pass the logon; return whether the client may stay."""
        client = self.visitor(address, is_logged_on=True)
        if self.server._host.admission.admit(client):
            return False
        self.server._sessions.add(client)
        return True


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Crowd]:
    found = Crowd(tmp_path)
    yield found
    found.server.log.close()


def test_a_network_that_has_many_waiting_gets_no_more(crowd: Crowd) -> None:
    most = admission.MAX_WAITING_PER_NETWORK
    assert all(crowd.come(f"2001:db8::{n:x}") for n in range(most))
    assert not crowd.come("2001:db8::ffff")
    assert crowd.come("192.0.2.1")
    assert crowd.dropped == []


def test_the_network_with_most_makes_room(crowd: Crowd) -> None:
    most = admission.MAX_WAITING_PER_NETWORK
    first = [f"192.0.2.{1 + n % 2}" for n in range(2 * (admission.MAX_WAITING - most))]
    rest = ["192.0.2.1"] * (admission.MAX_WAITING - len(first))
    assert all(crowd.come(address) for address in [*first, *rest])
    assert crowd.dropped == []
    for n in range(3):
        assert crowd.come(f"198.51.100.{n}")
    assert crowd.dropped == ["192.0.2.1"] * 3


def test_whoever_waits_longest_makes_room_if_all_have_the_same(crowd: Crowd) -> None:
    for n in range(admission.MAX_WAITING):
        assert crowd.come(f"2001:db8:0:{n:x}::1")
    assert crowd.come("192.0.2.1")
    assert crowd.dropped == ["2001:db8:0:0::1"]


def test_clients_of_one_network_do_not_take_all_the_places(crowd: Crowd) -> None:
    most = admission.MAX_CLIENTS_PER_NETWORK
    assert all(crowd.log_on(f"2001:db8::{n:x}") for n in range(most))
    assert not crowd.log_on("2001:db8::ffff")
    assert crowd.log_on("192.0.2.1")
    text = f"AUTH: {most} clients from 2001:db8::/64 are connected. Access denied."
    assert text in crowd.path.read_text()


def test_clients_in_all_are_limited(crowd: Crowd) -> None:
    for n in range(admission.MAX_CLIENTS):
        assert crowd.log_on(f"192.0.2.{n}")
    assert not crowd.log_on("198.51.100.1")


@pytest.mark.parametrize(
    ("in_use", "files", "reason"),
    [
        ([63], 1024, ""),
        ([64], 1024, "64 devices of the client are in use, the maximum"),
        ([0, 64, 64], 1 << 16, "128 devices of clients at 192.0.2.1 are in use"),
        ([0, 64, 63], 1 << 16, ""),
        (
            [0, 10],
            512 + 31,
            "10 devices are in use, the maximum for the limit of open files",
        ),
        ([0, 9], 512 + 31, ""),
    ],
)
def test_devices_leave_files_for_others(
    crowd: Crowd,
    monkeypatch: pytest.MonkeyPatch,
    in_use: list[int],
    files: int,
    reason: str,
) -> None:
    """One address took all 1024 files with sixteen clients of 64 devices."""
    monkeypatch.setattr(resource, "getrlimit", lambda what: (files, files))
    for number, count in enumerate(in_use):
        crowd.server._sessions.add(PlainSession(number, "192.0.2.1", in_use=count))
    why = crowd.server._host.lacks_room(0)
    assert why.startswith(reason)
    assert bool(why) == bool(reason)
