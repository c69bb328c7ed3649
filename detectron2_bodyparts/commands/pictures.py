"""Finding input images, videos and cameras."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

VIDEO_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
WEBCAM = "webcam"  # camera 0


def natural_order(path: Path) -> list:
    """Sort key that puts ``2.jpg`` before ``10.jpg``."""
    return [int(p) if p.isdigit() else p.lower() for p in re.split(r"(\d+)", str(path))]


def find_pictures(inputs: Iterable[Path]) -> Iterator[Path]:
    """Yield files as given, and for a folder the images in it, in natural order."""
    for path in inputs:
        if path.is_dir():
            found = (p for p in path.iterdir() if p.suffix.lower() in PICTURE_ENDINGS)
            yield from sorted(found, key=natural_order)
        else:
            yield path


def find_inputs(names: Iterable[str]) -> tuple[list[Path], list[Path | int]]:
    """Sort a user's inputs, which may be images, folders of images, videos and cameras.

    Returns:
        The images, and the videos and camera numbers, each in the order given. A folder without
        images is returned among the images, to be reported as unreadable.
    """
    pictures: list[Path] = []
    videos: list[Path | int] = []
    for name in names:
        path = Path(name)
        if (name == WEBCAM or name.isdecimal()) and not path.exists():
            videos.append(0 if name == WEBCAM else int(name))
        elif path.suffix.lower() in VIDEO_ENDINGS and not path.is_dir():
            videos.append(path)
        else:
            pictures += list(find_pictures([path])) or [path]
    return pictures, videos


def output_names(inputs: Iterable[Path | int], taken: Iterable[str] = ()) -> list[str]:
    """A unique output name without extension for each input.

    It is the input's own name; the second input of the same name gets ``name_2``, and so on.

    Args:
        inputs: files, and camera numbers, which are named ``camera0`` etc.
        taken: reserved names.
    """
    names, used = [], {name.casefold() for name in taken}  # some file systems ignore case
    for source in inputs:
        stem = f"camera{source}" if isinstance(source, int) else source.stem
        name, count = stem, 1
        while name.casefold() in used:
            count += 1
            name = f"{stem}_{count}"
        used.add(name.casefold())
        names.append(name)
    return names
