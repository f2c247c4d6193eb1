"""The status screen: the machine's name and the devices that are plugged in."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from rusb.rdp.bitmaps import Picture

__all__ = ["Picture", "status_picture"]

BACKGROUND = (24, 48, 80)
TITLE = (255, 255, 255)
TEXT = (200, 216, 232)
MARGIN = 24
LINE_HEIGHT = 26
MAX_LINE = 120


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
    return Picture(width, height, depth, _pixels(image, depth))


def _pixels(image: Image.Image, depth: int) -> bytes:
    """Return the rows in the format of a session, a few operations for all pixels."""
    if depth == 24:
        return image.tobytes("raw", "BGR")
    if depth == 32:
        return image.tobytes("raw", "BGRX")
    red, green, blue = (band.tobytes() for band in image.split())
    if depth == 8:  # the indices of a palette of 3-3-2 bits
        return _either(_map(red, 0xE0, 0), _map(green, 0xE0, 3), _map(blue, 0xC0, 6))
    if depth == 15:
        high = _either(_map(red, 0xF8, 1), _map(green, 0xC0, 6))
        low = _either(_map(green, 0x38, -2), _map(blue, 0xF8, 3))
    else:
        high = _either(_map(red, 0xF8, 0), _map(green, 0xE0, 5))
        low = _either(_map(green, 0x1C, -3), _map(blue, 0xF8, 3))
    found = bytearray(2 * len(low))
    found[0::2], found[1::2] = low, high
    return bytes(found)


def _map(band: bytes, mask: int, shift: int) -> bytes:
    """Mask every byte, then shift it right (left if *shift* is negative)."""
    masked = [value & mask for value in range(256)]
    table = [v >> shift if shift >= 0 else v << -shift for v in masked]
    return band.translate(bytes(table))


def _either(*bands: bytes) -> bytes:
    """OR the bands byte by byte."""
    total = 0
    for band in bands:
        total |= int.from_bytes(band, "little")
    return total.to_bytes(len(bands[0]), "little")
