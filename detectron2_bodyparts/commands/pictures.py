"""Finding pictures, videos and cameras."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

VIDEO_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
WEBCAM = "webcam"  # camera 0


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


def find_inputs(names: Iterable[str]) -> tuple[list[Path], list[Path | int]]:
    """What a user names: pictures, folders of pictures, videos and cameras.

    Returns:
        The pictures, and the videos and cameras' numbers, each in the order given. A folder without
        pictures is among the pictures, as something that cannot be read.
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
    """A name without ending for what is written of each input; none comes twice.

    It is the input's own; the second input of a name gets ``name_2``, and so on.

    Args:
        inputs: files, and numbers of cameras, which are called ``camera0``.
        taken: names that nobody gets.
    """
    names, used = [], {name.casefold() for name in taken}  # some file systems see no case
    for source in inputs:
        stem = f"camera{source}" if isinstance(source, int) else source.stem
        name, count = stem, 1
        while name.casefold() in used:
            count += 1
            name = f"{stem}_{count}"
        used.add(name.casefold())
        names.append(name)
    return names
