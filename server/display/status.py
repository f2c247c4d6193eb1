"""The status screen: the machine's name and the devices that are plugged in."""

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

from rusb.rdp.graphics.pixels import Frame, frame_of

from .base import Display

__all__ = ["StatusDisplay", "status_frame"]

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

    def frame(self, width: int, height: int) -> Frame:
        """Draw the screen."""
        return status_frame(width, height, self._machine, self._devices())


def status_frame(
    width: int, height: int, machine: str, devices: Sequence[str]
) -> Frame:
    """Draw the screen.

    Args:
        width, height: pixels, as the client's desktop.
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
    return frame_of(width, height, image.tobytes())
