"""A home for the commands of VBoxManage, with one machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.vbox import Vbox, vbox_home


@pytest.fixture
def empty(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Vbox]:
    """No machine."""
    with vbox_home(tmp_path, monkeypatch):
        yield Vbox(tmp_path, capsys)


@pytest.fixture
def vbox(empty: Vbox) -> Vbox:
    """The machine ``Lab``, as it comes out of createvm."""
    empty("createvm --name Lab --register")
    return empty
