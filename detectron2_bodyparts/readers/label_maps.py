"""Folders of label maps: people and their parts as in CIHP, MHP and PASCAL-Person-Part.

For the parsing metrics only: the readers return `metrics.instances.TruePicture` and `FoundPerson`,
not records, because the classes are garments more often than body parts.

* Two PNGs per image, one of classes and one of people (0 = nobody): CIHP's
  ``Category_ids/<image>.png`` and ``Human_ids/<image>.png``, PASCAL-Person-Part in the same layout,
  MHP's submissions ``global_seg`` and ``global_tag``. `read_truth`, `read_people`.
* One PNG per person: MHP v2's ``parsing_annos/<image>_<count>_<number>.png``, the classes in the
  red channel (as its own evaluation reads it). `read_person_maps`.

A PNG is grey with 8 or 16 bits, has a palette (the indices count, not the colours), or is RGB (the
red channel counts). Class 255, and person 255 of an 8-bit PNG, are pixels to ignore.

To evaluate predictions in the same layout as the ground truth::

    for image_id in image_ids(root / "Human_ids"):
        picture = read_truth(root, image_id, len(CIHP_CLASSES))
        scores = read_scores(found / "Human_ids" / f"{image_id}.txt")
        metrics.add(picture, read_people(found, image_id, len(CIHP_CLASSES), scores))
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from ..metrics.instances import UNKNOWN, FoundPerson, TruePerson, TruePicture
from ..people import Crop
from ..schema import PASCAL_PERSON_PART
from .prepare import BadInput

# Class c of a label map is the c-th name here, from 1; 0 is the background.
PASCAL_PERSON_PART_CLASSES = PASCAL_PERSON_PART.parts
CIHP_CLASSES = (
    "hat",
    "hair",
    "glove",
    "sunglasses",
    "upper-clothes",
    "dress",
    "coat",
    "socks",
    "pants",
    "torso-skin",
    "scarf",
    "skirt",
    "face",
    "left-arm",
    "right-arm",
    "left-leg",
    "right-leg",
    "left-shoe",
    "right-shoe",
)
MHP_V2_CLASSES = (
    "cap/hat",
    "helmet",
    "face",
    "hair",
    "left-arm",
    "right-arm",
    "left-hand",
    "right-hand",
    "protector",
    "bikini/bra",
    "jacket/windbreaker/hoodie",
    "tee-shirt",
    "polo-shirt",
    "sweater",
    "singlet",
    "torso-skin",
    "pants",
    "shorts/swim-shorts",
    "skirt",
    "stockings",
    "socks",
    "left-boot",
    "right-boot",
    "left-shoe",
    "right-shoe",
    "left-highheel",
    "right-highheel",
    "left-sandal",
    "right-sandal",
    "left-leg",
    "right-leg",
    "left-foot",
    "right-foot",
    "coat",
    "dress",
    "robe",
    "jumpsuit",
    "other-full-body-clothes",
    "headwear",
    "backpack",
    "ball",
    "bats",
    "belt",
    "bottle",
    "carrybag",
    "cases",
    "sunglasses",
    "eyewear",
    "glove",
    "scarf",
    "umbrella",
    "wallet/purse",
    "watch",
    "wristband",
    "tie",
    "other-accessory",
    "other-upper-body-clothes",
    "other-lower-body-clothes",
)

_A_PNG = "a whole PNG"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # PNG's colour types


def image_ids(folder: str | os.PathLike) -> list[str]:
    """The sorted names of the PNGs in a folder, without ``.png``.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder of .png files, found none")
    return sorted(path.stem for path in folder.glob("*.png"))


def person_maps(folder: str | os.PathLike) -> dict[str, list[Path]]:
    """The images of a folder with one PNG per person, sorted -> PNGs, for `read_person_maps`.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    maps: dict[str, list[Path]] = {}
    for name in image_ids(folder):
        maps.setdefault(name.rsplit("_", 2)[0], []).append(Path(folder) / f"{name}.png")
    return dict(sorted(maps.items()))


def read_truth(
    root: str | os.PathLike,
    image_id: str,
    num_classes: int,
    *,
    category_folder: str = "Category_ids",
    human_folder: str = "Human_ids",
) -> TruePicture:
    """Read an image's label maps as ground truth.

    Labelled pixels that belong to nobody count for mIoU, as published, but are in nobody's parts.

    Args:
        root: the folder of the two folders.
        image_id: the name of the files without ``.png``.
        num_classes: K, without background.
        category_folder, human_folder: the folders of the classes and of the people.

    Raises:
        BadInput: a PNG is missing or cannot be read, their sizes differ, or a class is above K.
    """
    categories, humans, ignore = _planes(
        Path(root) / category_folder / f"{image_id}.png",
        Path(root) / human_folder / f"{image_id}.png",
        num_classes,
    )
    return TruePicture(
        image_id,
        categories.shape,
        [_true_person(crop, num_classes) for _, crop in _crops(categories, humans)],
        ignore=ignore if ignore.any() else None,
        label_map=categories,
    )


def read_people(
    root: str | os.PathLike,
    image_id: str,
    num_classes: int,
    scores: Mapping[int, float],
    *,
    category_folder: str = "Category_ids",
    human_folder: str = "Human_ids",
) -> list[FoundPerson]:
    """Read an image's label maps as predictions, in the order of the people's numbers.

    Args:
        root, image_id, num_classes, category_folder, human_folder: as for `read_truth`.
        scores: number of a person in the PNG -> score; see `read_scores`, `read_mhp_scores`.

    Raises:
        BadInput: as `read_truth`, or a person has no score.
    """
    path = Path(root) / human_folder / f"{image_id}.png"
    categories, humans, _ = _planes(
        Path(root) / category_folder / f"{image_id}.png", path, num_classes
    )
    people = []
    for number, crop in _crops(categories, humans):
        if number not in scores:
            raise BadInput(path, "a score of every person", f"none of person {number}")
        people.append(FoundPerson(crop, scores[number]))
    return people


def read_person_maps(image_id: str, paths: Iterable[Path], num_classes: int) -> TruePicture:
    """Read an image's people from one PNG each; those without pixels are left out, as published.

    Args:
        image_id: the image's.
        paths: its PNGs, as returned by `person_maps`.
        num_classes: K.

    Raises:
        BadInput: a PNG cannot be read, their sizes differ, or a class is above K.
    """
    people, shape = [], None
    for path in paths:
        labels = _labels(path, num_classes)
        shape = shape or labels.shape
        if labels.shape != shape:
            raise BadInput(path, "one size of all people's PNGs", f"{labels.shape}, not {shape}")
        is_person = (labels > 0) & (labels != UNKNOWN)
        if is_person.any():
            (box,) = ndimage.find_objects((labels > 0).astype(np.uint8))
            rows, columns = box
            crop = Crop(columns.start, rows.start, labels[box].copy(), is_person[box].copy())
            people.append(_true_person(crop, num_classes))
    return TruePicture(image_id, shape, people)


def read_scores(path: str | os.PathLike) -> dict[int, float]:
    """Read people's scores from a text file: person n's is the last word of non-empty line n.

    Raises:
        BadInput: the file is missing, or a line does not end in a number.
    """
    return dict(enumerate((_number(path, line[-1:]) for line in _lines(path)), start=1))


def read_mhp_scores(path: str | os.PathLike) -> dict[str, dict[int, float]]:
    """Read the scores of an MHP submission: lines of an image name and pairs of person and score.

    Raises:
        BadInput: the file is missing, or a line has another form.
    """
    scores = {}
    for line in _lines(path):
        if len(line) % 2 == 0:
            raise BadInput(path, "an image's name and pairs of numbers", " ".join(line))
        numbers = [int(_number(path, [text])) for text in line[1::2]]
        scores[line[0]] = {
            number: _number(path, [text]) for number, text in zip(numbers, line[2::2], strict=True)
        }
    return scores


def _lines(path: str | os.PathLike) -> list[list[str]]:
    path = Path(path)
    if not path.is_file():
        raise BadInput(path, "a text of scores", "no file")
    return [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]


def _number(path: str | os.PathLike, words: list[str]) -> float:
    try:
        (word,) = words
        return float(word)
    except ValueError as e:
        raise BadInput(path, "a number", f"{words}") from e


def _planes(
    category_path: Path, human_path: Path, num_classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(H, W) each: classes (uint8), people (int32) and pixels to ignore (bool)."""
    categories = _labels(category_path, num_classes)
    humans = read_indices(human_path)
    if humans.shape != categories.shape:
        found = f"{humans.shape}, not {categories.shape}"
        raise BadInput(human_path, "people in the size of the classes", found)
    ignore = categories == UNKNOWN
    if humans.dtype == np.uint8:
        ignore |= humans == UNKNOWN
    return categories, np.where(ignore, 0, humans).astype(np.int32), ignore


def _labels(path: Path, num_classes: int) -> np.ndarray:
    labels = read_indices(path)
    strange = labels[(labels > num_classes) & (labels != UNKNOWN)]
    if strange.size:
        expected = f"classes 0 to {num_classes} or {UNKNOWN}"
        raise BadInput(path, expected, f"class {strange[0]}")
    return labels.astype(np.uint8)


def _crops(categories: np.ndarray, humans: np.ndarray) -> Iterator[tuple[int, Crop]]:
    """Each person's number and crop, in the order of the numbers."""
    for number, box in enumerate(ndimage.find_objects(humans), start=1):
        if box is not None:
            rows, columns = box
            body = humans[box] == number
            labels = np.where(body, categories[box], 0).astype(np.uint8)
            yield number, Crop(columns.start, rows.start, labels, body)


def _true_person(crop: Crop, num_classes: int) -> TruePerson:
    rows, columns = crop.slices
    box = np.array([columns.start, rows.start, columns.stop, rows.stop], dtype=float)
    return TruePerson(crop, np.ones(num_classes + 1, dtype=bool), box)


def read_indices(path: str | os.PathLike) -> np.ndarray:
    """The (H, W) uint8 or uint16 values of a PNG: grey, palette indices or the red channel.

    Raises:
        BadInput: the file is missing, cut off, or cannot be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(path, _A_PNG, "no file")
    data = path.read_bytes()
    if not data.startswith(_SIGNATURE):
        raise BadInput(path, _A_PNG, "another kind of file")
    try:
        chunks = list(_chunks(data))
        header = chunks[0][1]
        depth, color_type = struct.unpack_from("BB", header, 8)
    except struct.error as e:
        raise BadInput(path, _A_PNG, "a file that is cut off") from e
    if color_type == _PALETTE:
        # OpenCV decodes to colours, which may repeat, instead of indices. With the palette removed
        # and the header changed to grey, the same file decodes to the indices.
        header = header[:9] + bytes([_GREY]) + header[10:]
        kept = [chunk for chunk in chunks[1:] if chunk[0] in (b"IDAT", b"IEND")]
        data = _SIGNATURE + b"".join(_packed(*chunk) for chunk in [(b"IHDR", header), *kept])
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise BadInput(path, _A_PNG, "a file that cannot be decoded")
    if image.ndim == 3:
        return image[..., 2]
    if color_type == _PALETTE and depth < 8:
        # OpenCV scales grey of fewer bits to 0..255.
        return (image // (255 // (2**depth - 1))).astype(np.uint8)
    return image


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(name, content) of a PNG's chunks. Raises ``struct.error`` if the file ends before IEND."""
    position, name = len(_SIGNATURE), b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, position)
        content, _ = struct.unpack_from(f">{length}sI", data, position + 8)
        yield name, content
        position += 12 + length


def _packed(name: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )
