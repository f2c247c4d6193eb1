"""Homes for the commands of VBoxManage."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rusb.cli import main
from tests.support.vbox import Vbox, fake_qemu_img, vbox_home
from tests.support.vboxmanage_guide import GUIDE, words


@pytest.fixture
def empty(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Vbox]:
    """No machine."""
    with vbox_home(tmp_path, monkeypatch):
        yield Vbox(tmp_path, capsys)


@pytest.fixture(scope="session")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that createvm made a machine in."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch, vbox_home(folder, patch):
        assert main(["createvm", "--name", "Lab", "--register"]) == 0
    return folder


@pytest.fixture
def vbox(one_machine: Path, empty: Vbox) -> Vbox:
    """The machine ``Lab``, as it comes out of createvm."""
    shutil.copytree(one_machine, empty.folder, dirs_exist_ok=True)
    for name, text in empty.files().items():
        Path(name).write_text(text.replace(str(one_machine), str(empty.folder)))
    return empty


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home where the guide's first commands were run, and a copy of it."""
    folder = tmp_path_factory.mktemp("home")
    block = GUIDE.read_text().partition("```sh\n")[2].partition("```")[0]
    with pytest.MonkeyPatch.context() as patch, vbox_home(folder, patch):
        fake_qemu_img(folder / "bin", patch)
        (folder / "cd.iso").touch()
        (folder / "secret.txt").write_text("secret\n")
        for line in block.splitlines():
            assert main(words(line)) == 0, line
        shutil.copytree(folder, f"{folder}.copy")
        yield folder


@pytest.fixture
def home(prepared: Path, capsys: pytest.CaptureFixture[str]) -> Vbox:
    """The home as it was prepared."""
    for path in prepared.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(f"{prepared}.copy", prepared, dirs_exist_ok=True)
    return Vbox(prepared, capsys)
