"""``controlvm``: what goes to a running machine's keyboard, screen and network."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rusb.cli.vbox import _console
from rusb.errors import ControlError
from tests.support.vbox import Vbox

RULE = "ssh,tcp,127.0.0.1,2222,,22"


@pytest.fixture
def asked(vbox: Vbox, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a running machine is asked; it draws a picture of two points."""
    found: list[Any] = []

    def ask(uuid: str, command: str, **arguments: Any) -> None:
        found.append((command, arguments))
        if command == "screenshot":
            Path(arguments["file"]).write_bytes(b"P6\n2 1\n255\n\xff\0\0\0\0\xff")

    monkeypatch.setattr(_console, "ask_running", ask)
    return found


@pytest.mark.parametrize(
    ("line", "command", "arguments"),
    [
        (f"natpf1 {RULE}", "natpf", {"number": 1, "add": RULE}),
        ("natpf8 delete ssh", "natpf", {"number": 8, "delete": "ssh"}),
        ("setlinkstate2 OFF", "setlinkstate", {"number": 2, "enabled": False}),
        ("keyboardputscancode 1c 9C e0 4b e0 cb", "keys", {"codes": "1c9ce04be0cb"}),
        ("keyboardputstring -l a", "keys", {"codes": "0c8c26a61e9e"}),
        ("acpisleepbutton", "acpisleepbutton", {}),
    ],
)
def test_words_are_asked(
    vbox: Vbox, asked: list[Any], line: str, command: str, arguments: dict[str, Any]
) -> None:
    vbox(f"controlvm Lab {line}")
    assert asked == [(command, arguments)]


@pytest.mark.parametrize(
    ("line", "sentence", "status"),
    [
        ("natpf1 ssh", "natpf1: 'ssh' is not NAME,tcp|udp,HOSTIP", 2),
        ("natpf1 delete", "natpf1: 'delete' is not NAME", 2),
        ("natpf1", "natpf1 needs a rule, or: delete NAME", 2),
        ("setlinkstate1", "setlinkstate1 needs one value: on or off", 2),
        ("setlinkstate1 up", "invalid value 'up'", 2),
        ("keyboardputscancode", "accepts 1 to 256 keys at once", 2),
        ("keyboardputscancode 100", "hexadecimal bytes, such as 1c 9c for Enter", 2),
        ("keyboardputscancode x", "hexadecimal bytes", 2),
        ("keyboardputscancode e0", "the code after e0 is missing", 2),
        (f"keyboardputscancode{' 1c' * 257}", "accepts 1 to 256 keys at once", 2),
        ("keyboardputstring", "1 to 65536 characters", 2),
        ("keyboardputstring ä", "a US keyboard has no key for 'ä'; keyboardputscan", 2),
        ("keyboardputfile", "needs the name of one file", 2),
        ("keyboardputfile nowhere", "nowhere: No such file or directory", 1),
        ("acpisleepbutton 1", "accepts no value; unexpected '1'", 2),
        ("screenshotpng", "needs the name of a file", 2),
        (
            "screenshotpng a.png left",
            "invalid value 'left' for screenshotpng",
            2,
        ),
        ("screenshotpng /dev/null", "/dev/null is not a regular file", 1),
        ("screenshotpng nowhere/a.png", "nowhere/a.png: No such file", 1),
    ],
)
def test_what_is_wrong_is_said(
    vbox: Vbox, asked: list[Any], line: str, sentence: str, status: int
) -> None:
    vbox.fails(f"controlvm Lab {line}", sentence, status)
    assert [command for command, _ in asked if command != "screenshot"] == []


def test_long_texts_go_in_pieces(vbox: Vbox, asked: list[Any]) -> None:
    (vbox.folder / "text").write_text("Ab\n" * 100)
    vbox("controlvm Lab keyboardputfile text")
    codes = [arguments["codes"] for _, arguments in asked]
    assert "".join(codes) == "2a1e9eaa30b01c9c" * 100
    assert all(0 < len(bytes.fromhex(piece)) <= 256 for piece in codes)


def test_a_picture_is_complete_or_not_there(
    vbox: Vbox, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = vbox.folder / "screen.png"
    path.write_bytes(b"old")
    path.chmod(0o644)
    vbox(f"controlvm Lab screenshotpng {path} 0")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (0, 0, 255)]
    before = path.read_bytes()

    def refuse(uuid: str, command: str, **arguments: Any) -> None:
        raise ControlError("the machine is powering off")

    monkeypatch.setattr(_console, "ask_running", refuse)
    vbox.fails(f"controlvm Lab screenshotpng {path}", "is powering off", 1)
    assert path.read_bytes() == before
    assert [p.name for p in vbox.folder.glob("*screen*")] == ["screen.png"]
    assert list(vbox.folder.glob(".screen*")) == []
