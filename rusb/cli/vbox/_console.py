"""``controlvm``: keyboard, screen and network of a running machine."""

import io
import tempfile
from collections.abc import Callable, Sequence
from functools import partial

from rusb.cli._files import file_to_write, replace_file
from rusb.cli._vbox_options import UsageError, on_off, unsigned
from rusb.errors import ParseError, SettingsError
from rusb.server.display.keys import MAX_KEYS, parse_scancodes, typed
from rusb.server.machine.control import runtime_folder
from rusb.server.vbox.forwards import Forward

from ._common import ask_running
from ._refused import ADAPTERS

__all__ = ["VERBS"]

MAX_TEXT = 64 << 10
"""Characters of a text that is typed."""

MAX_SCREEN = 63
"""The last screen that VirtualBox machines can have."""

MAX_PICTURE = 64 << 20
"""Bytes of a picture as QEMU writes it; its video memory has 16 MiB."""


def _forward(number: int, uuid: str, values: Sequence[str]) -> None:
    """``natpf1 RULE``, ``natpf1 delete NAME``."""
    match values:
        case [rule]:
            try:
                Forward.parse(rule)
            except SettingsError as error:
                raise UsageError(f"natpf{number}: {error}") from None
            ask_running(uuid, "natpf", number=number, add=rule)
        case [word, name] if word.lower() == "delete":
            ask_running(uuid, "natpf", number=number, delete=name)
        case _:
            raise UsageError(f"natpf{number} needs a rule, or: delete NAME")


def _link(number: int, uuid: str, values: Sequence[str]) -> None:
    """``setlinkstate1 on|off``."""
    verb = f"setlinkstate{number}"
    if len(values) != 1:
        raise UsageError(f"{verb} needs one value: on or off")
    is_on = on_off(verb, values[0])
    ask_running(uuid, "setlinkstate", number=number, enabled=is_on)


def _scancodes(uuid: str, values: Sequence[str]) -> None:
    """``keyboardputscancode HEX…``."""
    try:
        codes = b"".join(bytes((int(value, 16),)) for value in values)
        keys = parse_scancodes(codes)
    except ParseError as error:
        raise UsageError(f"keyboardputscancode: {error}") from None
    except ValueError:
        raise UsageError(
            "keyboardputscancode needs hexadecimal bytes, such as 1c 9c for Enter"
        ) from None
    if not 0 < len(keys) <= MAX_KEYS:
        raise UsageError(f"keyboardputscancode accepts 1 to {MAX_KEYS} keys at once")
    ask_running(uuid, "keys", codes=codes.hex())


def _text(uuid: str, values: Sequence[str]) -> None:
    """``keyboardputstring TEXT…``."""
    text = "".join(values)
    if not 0 < len(text) <= MAX_TEXT:
        raise UsageError(f"only a text of 1 to {MAX_TEXT} characters can be typed")
    try:
        keys = typed(text)
    except ParseError as error:
        raise UsageError(str(error)) from None
    step = MAX_KEYS // 4  # a shifted character takes four
    for first in range(0, len(keys), step):
        codes = b"".join(keys[first : first + step])
        ask_running(uuid, "keys", codes=codes.hex())


def _file(uuid: str, values: Sequence[str]) -> None:
    """``keyboardputfile FILE``."""
    if len(values) != 1:
        raise UsageError("keyboardputfile needs the name of one file")
    with open(values[0], encoding="utf-8", errors="replace") as file:
        _text(uuid, [file.read(MAX_TEXT + 1)])


def _screenshot(uuid: str, values: Sequence[str]) -> None:
    """``screenshotpng FILE [SCREEN]``: the file is complete or as it was."""
    from PIL import Image  # takes time

    if len(values) not in (1, 2):
        raise UsageError("screenshotpng needs the name of a file")
    screen = unsigned("screenshotpng", values[1], MAX_SCREEN) if values[1:] else 0
    path = file_to_write(values[0])
    with tempfile.NamedTemporaryFile(dir=runtime_folder(), suffix=".ppm") as picture:
        ask_running(uuid, "screenshot", file=picture.name, screen=screen)
        with open(picture.name, "rb") as file:
            data = file.read(MAX_PICTURE)
    result = io.BytesIO()
    Image.open(io.BytesIO(data), formats=["PPM"]).save(result, "PNG")
    replace_file(path, result.getvalue())


def _sleep(uuid: str, values: Sequence[str]) -> None:
    """``acpisleepbutton``."""
    if values:
        raise UsageError(f"acpisleepbutton accepts no value; unexpected {values[0]!r}")
    ask_running(uuid, "acpisleepbutton")


VERBS: dict[str, Callable[[str, Sequence[str]], None]] = {
    "acpisleepbutton": _sleep,
    "keyboardputfile": _file,
    "keyboardputscancode": _scancodes,
    "keyboardputstring": _text,
    "screenshotpng": _screenshot,
    **{f"natpf{n}": partial(_forward, n) for n in ADAPTERS},
    **{f"setlinkstate{n}": partial(_link, n) for n in ADAPTERS},
}
"""What follows ``controlvm VM``, and what runs it with the words after it."""
