"""Pictures as screens have them, made from a seed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rusb.rdp.graphics.pixels import Frame, frame_of, new_frame

__all__ = ["VECTORS", "desktop", "kinds", "noise", "vector_picture"]

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "graphics.json").read_text("utf-8")
)


def vector_picture() -> Frame:
    """Return the picture of the vectors, (6, 16)."""
    rows = VECTORS["picture"]["rows"]
    return np.array([[int(p, 16) for p in row.split()] for row in rows], np.uint32)


def desktop(width: int, height: int, seed: int = 1) -> Frame:
    """Return a frame with two windows full of text."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), (24, 48, 80))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    letters = np.array(list("abcdefghij klmnopqrst uvwxyz "))
    for left, top in ((width // 64, height // 40), (width // 3, height // 3)):
        right, bottom = left + width * 3 // 5, top + height * 3 // 5
        draw.rectangle((left, top, right, bottom), fill=(250, 250, 250))
        for y in range(top + 10, bottom - 20, 18):
            line = "".join(random.choice(letters, (right - left) // 9))
            draw.text((left + 10, y), line, (20, 20, 20), font)
    return frame_of(width, height, image.tobytes())


def noise(width: int, height: int, seed: int = 1) -> Frame:
    """Return a frame whose pixels have nothing in common."""
    frame = new_frame(width, height)
    random = np.random.default_rng(seed)
    frame[:height, :width] = random.integers(0, 1 << 24, (height, width))
    return frame


def kinds(width: int, height: int, seed: int) -> Frame:
    """Return pictures of one size, (7, height, width), each of a kind of its own."""
    random = np.random.default_rng(seed)
    shape = height, width
    colours = random.integers(0, 1 << 24, shape, np.uint32)
    few = random.choice(colours.reshape(-1), 3)
    return np.stack(
        [
            colours,
            few[random.integers(0, 3, shape)],
            np.where(random.random(shape) < 0.05, few[0], few[1]),  # a few dots
            np.broadcast_to(colours[:, :1], shape),
            np.broadcast_to(colours[:1], shape),
            np.zeros(shape, np.uint32),
            np.full(shape, few[2]),
        ]
    )
