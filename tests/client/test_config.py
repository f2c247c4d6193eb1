"""What a client is told that it cannot do: said at once, before a device is touched."""

from pathlib import Path
from typing import Any

import pytest

from rusb.client.backends.emulated import EmulatedBackend, Keyboard
from rusb.client.config import MAX_CHANNELS, ClientConfig
from rusb.client.session import connect
from rusb.errors import SettingsError
from tests.support.whole_path import Lab, machine


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"port": 0}, "port 0 is not from 1 to 65535"),
        ({"port": 70000}, "port 70000 is not from 1 to 65535"),
        ({"width": 100000}, "width 100000 is not from 1 to 65535"),
        ({"height": 0}, "height 0 is not from 1 to 65535"),
        ({"experience": 1 << 32}, "experience 4294967296 is not from 0"),
        ({"depth": 17}, "depth 17 is unknown; choose one of 8, 15, 16, 24, 32"),
        ({"version": 3}, "version 3 is unknown; choose one of 4, 5"),
        ({"security": ()}, "must be a tuple of some of tls, rdp, none"),
        ({"security": ("ssl",)}, "must be a tuple of some of tls, rdp, none"),
        ({"security": "tls"}, "must be a tuple of some of tls, rdp, none"),
        ({"wires": ()}, "wires is empty"),
        ({"wires": "vrdpusb"}, "wires must be a tuple of names, not a text"),
        ({"backends": "libusb"}, "backends must be a tuple of names, not a text"),
        ({"channels": "rdpsnd"}, "channels must be a tuple of names, not a text"),
        ({"channels": ("toolongname",)}, "names of 1 to 7 ASCII characters"),
        ({"channels": ("é",)}, "names of 1 to 7 ASCII characters"),
        ({"channels": ("",)}, "names of 1 to 7 ASCII characters"),
        ({"channels": ("a",) * (MAX_CHANNELS + 1)}, "at most 24 names"),
        ({"client_name": "\udcff"}, "the client name is not text in UTF-8"),
        ({"password": "geheim\udcff"}, "the password is not text in UTF-8"),
    ],
)
async def test_what_cannot_be_is_said_at_once(
    wrong: dict[str, Any], sentence: str
) -> None:
    backend = EmulatedBackend(devices=[Keyboard()])
    config = ClientConfig("127.0.0.1", **wrong)
    with pytest.raises(SettingsError) as caught:
        async with connect(config, backends=[backend]):
            pass
    assert sentence in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_the_limits_are_possible() -> None:
    ClientConfig(
        *("a", 65535),
        channels=("a", "bcdefgh") * (MAX_CHANNELS // 2),
        width=1,
        height=65535,
        experience=(1 << 32) - 1,
        security=("rdp", "none"),
    ).check()
    ClientConfig("a", usb=False, wires=()).check()


async def test_files_may_be_texts(tmp_path: Path) -> None:
    lab = Lab(tmp_path, machine())
    lab.server.config.state = str(tmp_path / "state")
    config = lab.config()
    config.known_servers = str(tmp_path / "pins")
    backend = EmulatedBackend(devices=[Keyboard()])
    async with lab.server:
        config.port = lab.server.port
        async with connect(config, backends=[backend]):
            await lab.guest.wait_for(1)
    assert (tmp_path / "pins").read_text().startswith("127.0.0.1:")
    assert (tmp_path / "state" / "server-cert.pem").exists()
