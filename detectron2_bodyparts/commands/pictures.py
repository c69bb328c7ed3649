"""Finding and reading pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def natural_order(path: Path) -> list:
    """Sort key under which ``2.jpg`` comes before ``10.jpg``."""
    return [int(p) if p.isdigit() else p.lower() for p in re.split(r"(\d+)", str(path))]


def find_pictures(inputs: Iterable[Path]) -> Iterator[Path]:
    """Files as they are given; of a folder, the pictures in it, in natural order."""
    for path in inputs:
        if path.is_dir():
            found = (p for p in path.iterdir() if p.suffix.lower() in PICTURE_ENDINGS)
            yield from sorted(found, key=natural_order)
        else:
            yield path


def read_picture(path: Path) -> np.ndarray | None:
    """(H, W, 3) BGR uint8, or None where the file cannot be read."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
