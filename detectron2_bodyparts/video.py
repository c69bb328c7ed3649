"""Read videos and cameras with OpenCV, write H.264 that browsers play with PyAV.

Images are BGR uint8 (H, W, 3), times in seconds from the first frame.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

# Frames per second if a file or a camera does not report them.
DEFAULT_RATE = 25.0

# Time base of written videos: at all standard rates, 24000/1001 to 60 frames per second, frames lie
# on whole multiples of it.
TICK = Fraction(1, 240_000)


class VideoReader:
    """The frames of a video file, rotated upright, or of a camera. Close it, or use ``with``.

    Attributes:
        size: (H, W) in pixels.
        rate: frames per second: a file's mean rate, a camera's nominal rate.
        num_frames: according to the file; often ``rate`` times its duration, so only approximate.
            None if unknown.
    """

    def __init__(self, source: str | Path | int) -> None:
        """
        Args:
            source: path of a file, or the number of a camera.

        Raises:
            OSError: not even the first frame can be read.
        """
        self._is_camera = isinstance(source, int)
        self._capture = cv2.VideoCapture(source if self._is_camera else str(source))
        is_read, self._first = self._capture.read()
        if not is_read:
            self._capture.release()
            raise OSError(f"no readable {'camera' if self._is_camera else 'video'}: {source}")
        self.size: tuple[int, int] = self._first.shape[:2]
        rate = self._capture.get(cv2.CAP_PROP_FPS)  # 0, -1 or NaN if unknown
        self.rate = rate if 0 < rate < float("inf") else DEFAULT_RATE
        count = 0 if self._is_camera else int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = count if count > 0 else None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file or the camera."""
        self._capture.release()

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Yield time and image of each frame, once only; of a camera, the time really elapsed."""
        start, last = time.monotonic(), -1 / self.rate
        is_read, image = True, self._first
        while is_read:
            if self._is_camera:
                now = time.monotonic() - start
            else:
                now = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # Some files have no timestamps, and some repeat them.
            last = now if now > last else last + 1 / self.rate
            yield last, image
            is_read, image = self._capture.read()


class VideoWriter:
    """Writes an mp4 file. Close it, or use ``with``: an unclosed file cannot be played."""

    def __init__(self, path: str | Path, size: tuple[int, int], rate: float) -> None:
        """
        Args:
            path: the file; an existing one is replaced.
            size: (H, W) in pixels. Few players support odd sizes.
            rate: frames per second.

        Raises:
            OSError: the file cannot be written.
        """
        self._container = av.open(str(path), "w", format="mp4")
        # Exactly 30000/1001 for 29.97.
        exact = Fraction(rate).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=exact)
        self._stream.codec_context.time_base = TICK
        self._stream.height, self._stream.width = size
        # H.264's usual yuv420p has one colour per 2x2 pixels, so it needs even sizes.
        is_even = size[0] % 2 == size[1] % 2 == 0
        self._stream.pix_fmt = "yuv420p" if is_even else "yuv444p"

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, image: np.ndarray, time: float) -> None:
        """Append a frame.

        Args:
            image: (H, W, 3) BGR uint8 of the video's size.
            time: presentation time in seconds; later than the last frame's.
        """
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame.time_base, frame.pts = TICK, round(time / TICK)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Flush the remaining frames and finish the file."""
        self._container.mux(self._stream.encode())
        self._container.close()
