"""Videos and cameras: frames in by OpenCV, H.264 out by PyAV, as browsers play it.

Pictures are BGR uint8 (H, W, 3), times in seconds from the first frame.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

# Frames a second where a file or a camera does not say.
DEFAULT_RATE = 25.0

# A written video's unit of time. The frames of all standard rates, 24000/1001 to 60 a second, lie
# on whole numbers of it.
TICK = Fraction(1, 240_000)


class VideoReader:
    """The frames of a video file, turned upright, or of a camera. Close it, or use ``with``.

    Attributes:
        size: (H, W) in pixels.
        rate: frames a second: the mean; of a camera, what it aims at.
        num_frames: as far as the file knows; often ``rate`` times its seconds, and only about
            right. None where nothing is known.
    """

    def __init__(self, source: str | Path | int) -> None:
        """
        Args:
            source: a file, or the number of a camera.

        Raises:
            OSError: not even one frame can be read.
        """
        self._is_camera = isinstance(source, int)
        self._capture = cv2.VideoCapture(source if self._is_camera else str(source))
        is_read, self._first = self._capture.read()
        if not is_read:
            self._capture.release()
            raise OSError(f"no readable {'camera' if self._is_camera else 'video'}: {source}")
        self.size: tuple[int, int] = self._first.shape[:2]
        rate = self._capture.get(cv2.CAP_PROP_FPS)  # 0, -1 or NaN where nobody knows
        self.rate = rate if 0 < rate < float("inf") else DEFAULT_RATE
        count = 0 if self._is_camera else int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = count if count > 0 else None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file or the camera."""
        self._capture.release()

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        """Time and picture of each frame, once; of a camera, the time that has really passed."""
        start, last = time.monotonic(), -1 / self.rate
        is_read, image = True, self._first
        while is_read:
            if self._is_camera:
                now = time.monotonic() - start
            else:
                now = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            # Not all files have times, and some repeat them.
            last = now if now > last else last + 1 / self.rate
            yield last, image
            is_read, image = self._capture.read()


class VideoWriter:
    """Writes an mp4 file. Close it, or use ``with``: without, the file cannot be played."""

    def __init__(self, path: str | Path, size: tuple[int, int], rate: float) -> None:
        """
        Args:
            path: the file; what is there is replaced.
            size: (H, W) in pixels. Few programs but ours play odd ones.
            rate: frames a second.

        Raises:
            OSError: the file cannot be written.
        """
        self._container = av.open(str(path), "w", format="mp4")
        # Exactly 30000/1001 for 29.97.
        exact = Fraction(rate).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=exact)
        self._stream.codec_context.time_base = TICK
        self._stream.height, self._stream.width = size
        # H.264's usual form has one colour for 2x2 pixels, so none of odd size.
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
            time: when it is shown, in seconds; later than the last one.
        """
        frame = av.VideoFrame.from_ndarray(image, format="bgr24")
        frame.time_base, frame.pts = TICK, round(time / TICK)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is left, and finish the file."""
        self._container.mux(self._stream.encode())
        self._container.close()
