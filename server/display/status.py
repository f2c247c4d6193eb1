"""The status screen: the machine's name and the devices that are plugged in."""

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

from rusb.rdp.bitmaps import Picture

from .base import Display

__all__ = ["StatusDisplay", "status_picture"]

BACKGROUND = (24, 48, 80)
TITLE = (255, 255, 255)
TEXT = (200, 216, 232)
MARGIN = 24
LINE_HEIGHT = 26
MAX_LINE = 120


class StatusDisplay(Display):
    """Shows the machine's name and what is plugged in.

    Args:
        machine: its name.
        devices: returns a line for each plugged device.
    """

    def __init__(self, machine: str, devices: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._machine = machine
        self._devices = devices

    def picture(self, width: int, height: int, depth: int) -> Picture:
        """Draw the screen."""
        return status_picture(width, height, depth, self._machine, self._devices())


def status_picture(
    width: int, height: int, depth: int, machine: str, devices: Sequence[str]
) -> Picture:
    """Draw the screen.

    Args:
        width, height: pixels, as the client's desktop.
        depth: bits per pixel of the session: 8, 15, 16, 24 or 32.
        machine: name of the virtual machine.
        devices: a line for each plugged device; what does not fit is counted.
    """
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    big, small = ImageFont.load_default(28), ImageFont.load_default(18)
    draw.text((MARGIN, MARGIN), machine[:MAX_LINE], TITLE, big)
    lines = [f"Remote USB devices: {len(devices) or 'none'}", *devices]
    room = max(1, (height - 3 * MARGIN - 28) // LINE_HEIGHT)
    if len(lines) > room:
        lines = [*lines[: room - 1], f"and {len(lines) - room + 1} more"]
    for number, line in enumerate(lines):
        y = 2 * MARGIN + 28 + number * LINE_HEIGHT
        draw.text((MARGIN, y), line[:MAX_LINE], TEXT, small)
    return Picture.from_rgb(width, height, depth, image.tobytes())
