"""Pictures as screens have them, made from a seed."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from rusb.rdp.graphics.pixels import Frame, frame_of, new_frame

__all__ = [
    "VECTORS",
    "desktop",
    "film",
    "kinds",
    "noise",
    "quality",
    "vector_picture",
]

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


@functools.cache
def _scene(width: int, height: int) -> Frame:
    """A soft picture of which a film shows a part that moves; mostly grey."""
    random = np.random.default_rng(7)
    noise = random.integers(0, 256, (height, width, 3), np.uint8)
    soft = Image.fromarray(noise, "RGB").filter(ImageFilter.GaussianBlur(3))
    grey = np.asarray(soft.convert("L")).astype(float)
    grey = (grey - grey.mean()) * 8 + 128
    tint = np.linspace(-20, 20, width)
    red, green, blue = (
        (grey + shift).clip(0, 255).astype(np.uint32) for shift in (tint, 0, -tint)
    )
    pixels: Frame = red << 16 | green << 8 | blue
    return pixels


def film(width: int, height: int, number: int) -> Frame:
    """Return a picture of a film, (height, width)."""
    scene = _scene(width + 64, height + 64)
    x, y = abs(number % 128 - 64), abs(number * 2 % 128 - 64)
    return scene[y : y + height, x : x + width]


def quality(seen: Frame, shown: Frame) -> float:
    """How near one picture is to another: PSNR, in dB."""
    both = (
        np.ascontiguousarray(frame, "<u4").view(np.uint8).reshape(-1, 4)[:, :3]
        for frame in (seen, shown)
    )
    first, second = (channels.astype(float) for channels in both)
    error = float(((first - second) ** 2).mean())
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
