"""The folder in which pyusb programs find devices (T44): ours alone, at both ends."""

from pathlib import Path

import pytest
import usb.core

from rusb.errors import GuestError
from rusb.server.guests._pyusb_backend import Backend
from rusb.server.guests.pyusb import PyusbGuest


@pytest.fixture(params=["link", "open"])
def foreign(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder that somebody else could put sockets into."""
    folder = tmp_path / "real"
    folder.mkdir(mode=0o700)
    if request.param == "open":
        folder.chmod(0o777)
        return folder
    (tmp_path / "link").symlink_to(folder)
    return tmp_path / "link"


async def test_t44_a_server_refuses_it(foreign: Path) -> None:
    with pytest.raises(GuestError, match="belongs to another user, can be written"):
        await PyusbGuest(str(foreign)).start()


def test_t44_a_program_refuses_it(foreign: Path) -> None:
    with pytest.raises(usb.core.USBError, match="not trusted as devices of rusb serve"):
        list(usb.core.find(find_all=True, backend=Backend(foreign)))


def test_a_folder_that_is_not_there_has_no_devices(tmp_path: Path) -> None:
    assert usb.core.find(backend=Backend(tmp_path / "nowhere")) is None
