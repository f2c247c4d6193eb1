"""Media as VirtualBox wants to find them again, and places that do not exist."""

import re
import subprocess
import uuid
from pathlib import Path

import pytest

from rusb.errors import SettingsError
from rusb.server.vbox.document import Document
from rusb.server.vbox.editor import Editor, new_machine


@pytest.fixture
def editor(tmp_path: Path) -> Editor:
    _, data = new_machine("M")
    return Editor(Document(data), tmp_path)


def test_a_vdi_is_registered_with_its_own_uuid(editor: Editor, tmp_path: Path) -> None:
    image = tmp_path / "a.vdi"
    command = ["qemu-img", "create", "-q", "-f", "vdi", str(image), "4M"]
    subprocess.run(command, check=True, timeout=20)
    editor.add_controller("SATA", "sata")
    editor.attach("SATA", 0, 0, "hdd", image)
    number = uuid.UUID(bytes_le=image.read_bytes()[392:408])
    assert number.version == 4
    entry = rf'<HardDisk uuid="{{{number}}}" location="{re.escape(str(image))}"'
    assert re.search(entry, editor.document.data.decode())


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"x" * 500])
def test_what_is_no_vdi_gets_a_uuid(
    editor: Editor, tmp_path: Path, data: bytes
) -> None:
    image = tmp_path / "a.vdi"
    image.write_bytes(data)
    editor.add_controller("SATA", "sata")
    editor.attach("SATA", 0, 0, "hdd", image)
    assert f'location="{image}"' in editor.document.data.decode()


@pytest.mark.parametrize(
    ("bus", "port", "device"),
    [("ide", 2, 0), ("ide", 0, 2), ("sata", 6, 0), ("sata", 0, 1), ("floppy", 2, 0)],
)
def test_a_place_that_a_controller_lacks(
    editor: Editor, bus: str, port: int, device: int
) -> None:
    editor.add_controller("C", bus)
    before = editor.document.data
    kind = "floppy" if bus == "floppy" else "dvd"
    with pytest.raises(SettingsError, match=f"no port {port}, device {device}"):
        editor.attach("C", port, device, kind, None)
    assert editor.document.data == before
