"""The status page: what a viewer sees while there is no screen of the guest."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial

from rusb.rdp.graphics.pixels import Frame, frame_of, new_frame

from .base import Paint, ScreenSource

__all__ = ["StatusPage", "status_frame"]

BACKGROUND = (24, 48, 80)
TITLE = (255, 255, 255)
TEXT = (200, 216, 232)
MARGIN = 24
LINE_HEIGHT = 26
MAX_LINE = 120
MAX_TEXT_WIDTH = 1600
"""Pixels of the part that has text: the rest is only filled."""

WRAPPED, MAX_PROBLEM = 70, 6
"""Characters of a line, and lines, that say why there is no picture."""

HELP = (
    "",
    "To plug in a USB device of your computer:",
    "rusb connect ADDRESS:PORT, where this viewer connected to, beside it",
    "FreeRDP: xfreerdp /usb:id:VVVV:PPPP",
    "Windows: Local Resources, More, Other supported RemoteFX USB devices",
)

_MAX_FRAMES = 4
"""Pictures that are kept, of several sizes."""

_Said = tuple[tuple[str, ...], str]
"""A line for each device, and why there is no screen of the guest."""


class StatusPage(ScreenSource):
    """Shows the machine's name, what is plugged in, and how to bring more.

    Args:
        machine: its name.
        devices: returns a line for each plugged device.
        problem: returns why there is no screen of the guest; empty: there is no more
            to be said.
    """

    def __init__(
        self,
        machine: str,
        devices: Callable[[], Sequence[str]],
        problem: Callable[[], str],
    ) -> None:
        self._machine = machine
        self._devices = devices
        self._problem = problem
        # of the thread that paints
        self._frames: dict[tuple[int, int, _Said], Frame] = {}

    def painter(self, width: int, height: int) -> Paint:
        said = tuple(self._devices()), self._problem()
        return partial(self._paint, width, height, said)

    def _paint(self, width: int, height: int, said: _Said) -> Frame:
        """Draw the page, unless that was done before."""
        found = self._frames.get((width, height, said))
        if found is None:
            if len(self._frames) >= _MAX_FRAMES:
                self._frames.clear()
            found = status_frame(width, height, self._machine, *said)
            self._frames[width, height, said] = found
        return found

    def watch(self, *, is_watched: bool) -> None:
        """Nothing: it is drawn when it is wanted."""

    def resize(self, width: int, height: int) -> None:
        """Nothing: it is as large as a viewer is."""

    def key(self, code: int, *, is_down: bool) -> None:
        """Nothing: nobody reads it."""

    def pointer(self, buttons: int, x: int, y: int) -> None:
        """Nothing."""

    def button(self, name: str, *, is_down: bool) -> None:
        """Nothing."""


def status_frame(
    width: int, height: int, machine: str, devices: Sequence[str], problem: str = ""
) -> Frame:
    """Draw the page.

    Args:
        width, height: pixels, as the client's desktop.
        machine: name of the virtual machine.
        devices: a line for each plugged device; what does not fit is counted.
        problem: why there is no screen of the guest.
    """
    from PIL import Image, ImageDraw, ImageFont  # most servers never show it

    below: tuple[str, ...] = HELP
    if problem:
        why = textwrap.wrap(f"There is no picture: {problem}", WRAPPED)
        below = ("", *why[:MAX_PROBLEM], *HELP)
    lines = [f"Remote USB devices: {len(devices) or 'none'}", *devices]
    room = max(1, (height - 3 * MARGIN - 28) // LINE_HEIGHT)
    if len(lines) + len(below) > room:
        below = ()
    if len(lines) > room:
        lines = [*lines[: room - 1], f"and {len(lines) - room + 1} more"]
    lines += below
    text_width = min(width, MAX_TEXT_WIDTH)
    text_height = min(height, 2 * MARGIN + 28 + (len(lines) + 1) * LINE_HEIGHT)
    image = Image.new("RGB", (text_width, text_height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    big, small = ImageFont.load_default(28), ImageFont.load_default(18)
    draw.text((MARGIN, MARGIN), machine[:MAX_LINE], TITLE, big)
    for number, line in enumerate(lines):
        y = 2 * MARGIN + 28 + number * LINE_HEIGHT
        draw.text((MARGIN, y), line[:MAX_LINE], TEXT, small)
    page = new_frame(width, height)
    page[:height, :width] = int.from_bytes(BACKGROUND)
    text = frame_of(text_width, text_height, image.tobytes())
    page[:text_height, :text_width] = text[:text_height, :text_width]
    return page
