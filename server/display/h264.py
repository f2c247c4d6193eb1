"""H.264 for the graphics pipeline, by PyAV: the extra ``video`` (display.md 10.3)."""

import importlib.util
from fractions import Fraction
from typing import Any

import numpy as np

from rusb.rdp.graphics.pixels import Frame

__all__ = ["H264Encoder", "missing"]

KEY_PERIOD = 250
"""Pictures from one that stands alone to the next."""

_CLOCK = Fraction(1, 1000)


def missing() -> str:
    """Say what there is to install before video can be encoded; empty: nothing."""
    if importlib.util.find_spec("av") is None:
        return "PyAV is not installed (pip install 'rusb[video]')"
    return ""


class H264Encoder:
    """Encodes the pictures of one video, each as soon as it comes.

    Args:
        width, height: of the pictures, even.
        quality: 10 to 100.

    Raises:
        ImportError, ValueError: PyAV, or what it brings, cannot do it.
    """

    def __init__(self, width: int, height: int, quality: int) -> None:
        import av  # 100 ms, and 100 MB that most installations do without

        self._av = av
        try:
            context: Any = av.CodecContext.create("libx264", "w")
        except av.FFmpegError as error:
            raise ValueError(f"libx264: {error}") from error
        context.width, context.height = width, height
        context.pix_fmt = "yuvj420p"  # full range: viewers take it for that
        context.time_base = _CLOCK
        context.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "profile": "baseline",
            "crf": str(round(41 - 0.24 * quality)),
            "x264-params": f"repeat-headers=1:threads=1:keyint={KEY_PERIOD}",
        }
        self._context = context
        self._number = 0

    def encode(self, pixels: Frame, *, is_key: bool) -> bytes:
        """Return a picture, Annex B.

        Args:
            pixels: (height, width) of 0x00RRGGBB.
            is_key: it needs none before it.

        Raises:
            ValueError: the encoder failed.
        """
        height, width = pixels.shape
        bgr = np.ascontiguousarray(pixels, "<u4").view(np.uint8)
        frame: Any = self._av.VideoFrame.from_ndarray(
            bgr.reshape(height, width, 4), format="bgra"
        )
        frame = frame.reformat(
            format="yuvj420p", dst_colorspace="ITU709", dst_color_range="JPEG"
        )
        frame.pts, frame.time_base = self._number, _CLOCK
        kinds = self._av.video.frame.PictureType
        frame.pict_type = kinds.I if is_key else kinds.NONE
        self._number += 1
        try:
            return b"".join(bytes(packet) for packet in self._context.encode(frame))
        except self._av.FFmpegError as error:
            raise ValueError(f"libx264: {error}") from error
