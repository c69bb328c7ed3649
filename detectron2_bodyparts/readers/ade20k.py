"""ADE20K: people in scenes, some of them with parts. Reads both full releases.

* 2016 (``ADE20K_2016_07_26``): ``index_ade20k.mat`` and
  ``images/{training,validation}/<letter>/<scene>/ADE_*``: ``.jpg``, ``_atr.txt`` (the list of
  objects), ``_seg.png`` (objects), ``_parts_1.png``, ... (parts, parts of parts). The class of a
  pixel is ``R // 10 * 256 + G``, a 1-based row of the index; B tells apart the objects of a class.
  Whose part a part is, the files do not say: it goes to the person it overlaps most, provided that
  at least half of it lies on that person.
* 2021 (``ADE20K_2021_17_01``): ``images/ADE/{training,validation}/<topic>/<scene>/ADE_*``:
  ``.jpg``, ``.json`` and a folder with a mask for every object (255 visible, 128 hidden; only
  visible pixels are used). The JSON says whose part a part is. The maps repeat the masks and are
  not read.

What is known: the body, and channels whose main piece (head, torso, left arm, ...) is labelled:
parts were drawn for few people, and seldom all of them. Other labelled pieces of such a channel
(hand, hair) are added to it; without the main piece they make nothing known. A right arm says
nothing about the left one. Two arms without sides make the union ``arm`` known; a single one does
not, since the other may not have been drawn; next to a sided arm they may belong to either side
and are ignored. Legs likewise. Arms are not divided into upper and lower, so in schemas that divide
them only body, head and torso can be known.

An image with labelled people is not exhaustive: in crowds ADE often labels only a few people, the
others as road or building. An image without labelled people is assumed to contain none.

Cleaning: each step is a function of its own and can be switched off, see `Cleaning`:

* `is_small`: people too small to be drawn accurately become ignore regions;
* `outline_band`: outlines are drawn roughly, so the pixels along them are ignored;
* `subtracted_torso`: derives the torso, seldom labelled, as the body without head, arms and legs.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import scipy.io

from ..records import RecordError, ignore_annotation, mask_box, person_annotation
from ..schema import BODY, BODYPARTS_7, COCO_17, PartSchema
from .prepare import (
    BadInput,
    LeftOut,
    Picture,
    Shard,
    Summary,
    argument_parser,
    picture_size,
    prepare,
    records_path,
    run_splits,
)

DATASET = "ade20k"
RELEASES = ("2016", "2021")
SPLITS = {"train": "training", "val": "validation"}  # split -> its folder
INDEX = "index_ade20k.mat"

PERSON = "person, individual, someone, somebody, mortal, soul"

# ADE's part name -> channel or union of bodyparts-7. The main piece of a channel has its name.
# That ADE's sides are the person's own was checked on one image and is otherwise unverified.
_PARTS = {
    **dict.fromkeys(("head", "hair", "face", "eye", "eyebrow", "ear", "nose", "mouth"), "head"),
    **dict.fromkeys(("torso", "neck", "back", "buttocks"), "torso"),
    **dict.fromkeys(("right arm", "right hand", "right shoulder"), "right_arm"),
    **dict.fromkeys(("left arm", "left hand", "left shoulder"), "left_arm"),
    **dict.fromkeys(("right leg", "right foot"), "right_leg"),
    **dict.fromkeys(("left leg", "left foot"), "left_leg"),
    **dict.fromkeys(("arm", "hand"), "arm"),
    **dict.fromkeys(("leg", "foot"), "leg"),
}
_NECK_IS_HEAD = {**_PARTS, "neck": "head"}
_CHANNELS = {
    "bodyparts-7": _PARTS,
    "bodyparts-11": _NECK_IS_HEAD,
    "pascal-person-part": _NECK_IS_HEAD,
}

# The schema's paint order including the unions, each below its sided channels. A person's label map
# is 0 outside the person, 1 where the person has no part, and a channel's code elsewhere.
_PAINTED = ("torso", "head", "leg", "right_leg", "left_leg", "arm", "right_arm", "left_arm")
_CODES = {name: code for code, name in enumerate(_PAINTED, start=2)}
_NO_PART = 1

_VISIBLE = 255  # in an object's mask of 2021; occluded pixels are 128
_MAX_OBJECTS = 255  # of 2016: B is 255 * k / N, so more objects than that would share values

_NOTHING_VISIBLE = "a person of whom nothing is visible"


@dataclass(frozen=True)
class Cleaning:
    """How faults of the dataset are handled.

    Args:
        min_size: people whose box is shorter than this on both sides, in pixels, become ignore
            regions; 0 keeps everybody.
        outline_band: the number of pixels ignored on either side of an outline.
        derive_torso: whether to derive an unlabelled torso where head, arms and legs are labelled.

    Raises:
        ValueError: a number is negative.
    """

    min_size: int = 30
    outline_band: int = 1
    derive_torso: bool = True

    def __post_init__(self) -> None:
        if self.min_size < 0 or self.outline_band < 0:
            raise ValueError(f"expected numbers of pixels, found {self}")


DEFAULT_CLEANING = Cleaning()


def is_small(body: np.ndarray, min_size: int) -> bool:
    """Whether both sides of the box of a non-empty (H, W) mask are shorter than ``min_size``."""
    x0, y0, x1, y1 = mask_box(body)
    return max(x1 - x0, y1 - y0) < min_size


def outline_band(labels: np.ndarray, width: int) -> np.ndarray:
    """The pixels near an outline, whose labels in a rough drawing are unreliable.

    They are to be ignored on both sides of the outline. Eroding the masks instead would move the
    outline inwards, no less uncertain than before, and teach the model that people are thin.

    Args:
        labels: (H, W) uint8, one value per region.
        width: in pixels; 0 gives no band.

    Returns:
        boolean (H, W): true where another label is at most ``width`` rows and columns away. The
        image border is not an outline.
    """
    kernel = np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8)
    return cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)


def subtracted_torso(rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The torso of a person whose head, arms and legs are all labelled.

    Args:
        rest: boolean (H, W), the body without these.

    Returns:
        torso: boolean (H, W), the largest 4-connected component; empty if ``rest`` is.
        scraps: boolean (H, W), the other components: gaps between rough outlines, or pieces cut off
            by an arm across the body. What they are is unknown.
    """
    count, components, stats, _ = cv2.connectedComponentsWithStats(
        rest.astype(np.uint8), connectivity=4
    )
    if count == 1:
        return rest, np.zeros_like(rest)
    largest = 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
    torso = components == largest
    return torso, rest & ~torso


def find_release(root: str | os.PathLike) -> str:
    """Detect which release the folder contains.

    Raises:
        FileNotFoundError: it contains none.
        RecordError: it contains both.
    """
    images = Path(root) / "images"
    found = [
        release
        for release, folder in zip(RELEASES, (images, images / "ADE"), strict=True)
        if any((folder / split).is_dir() for split in SPLITS.values())
    ]
    if not found:
        raise FileNotFoundError(
            f"{images}: expected training or validation (release 2016) or ADE (2021) in it, found"
            " neither; datasets/README.md says where to get ADE20K and how it must lie"
        )
    if len(found) > 1:
        raise RecordError(f"{images}: expected one release, found {found}; --release says which")
    return found[0]


def read_split(root: str | os.PathLike, split: str, release: str) -> list[str]:
    """The images of a split, sorted, as paths relative to the dataset's folder without ``.jpg``.

    Raises:
        FileNotFoundError: the split's folder is missing or contains no image.
    """
    root = Path(root)
    folder = root / "images" / ("ADE" if release == "2021" else "") / SPLITS[split]
    pictures = []
    for path, folders, files in os.walk(folder):
        # The mask folders, one per image, hold hundreds of thousands of files.
        folders[:] = [name for name in folders if not name.startswith("ADE_")]
        where = Path(path).relative_to(root).as_posix()
        pictures += [f"{where}/{name[:-4]}" for name in files if name.endswith(".jpg")]
    if not pictures:
        raise FileNotFoundError(
            f"{folder}: expected folders with pictures, found none;"
            " datasets/README.md says where to get ADE20K and how it must lie"
        )
    return sorted(pictures)


def read_class_numbers(root: str | os.PathLike) -> dict[str, int]:
    """The class numbers of person and of the parts, from the index of the 2016 release.

    Names are compared in full: there is another ``person``, and a ``head, caput``. Reading the
    index takes some 700 MB of memory.

    Raises:
        FileNotFoundError: there is no index.
        RecordError: it cannot be read, or lacks a name.
    """
    path = Path(root) / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the index of the 2016 release, found no file")
    try:
        names = scipy.io.loadmat(path)["index"]["objectnames"].item().ravel()
    except Exception as e:
        # Whatever scipy raises on damaged bytes: zlib.error, TypeError, MatReadError, ...
        raise RecordError(f"{path}: expected ADE20K's index, found {type(e).__name__}: {e}") from e
    wanted = {PERSON, *_PARTS}
    rows = {"".join(name): row for row, name in enumerate(names, start=1)}
    if missing := sorted(wanted - rows.keys()):
        raise RecordError(f"{path}: expected the objects {missing}, found none of these names")
    return {name: rows[name] for name in sorted(wanted)}


@dataclass
class _Person:
    """A person as labelled: boolean (H, W) masks of the body and of named parts."""

    body: np.ndarray
    pieces: list[tuple[str, np.ndarray]]


def read_image_2016(
    item: str,
    root: str | os.PathLike,
    part_schema: PartSchema,
    class_numbers: Mapping[str, int],
    cleaning: Cleaning = DEFAULT_CLEANING,
) -> Shard:
    """Read one image of the 2016 release and its people.

    Args:
        item: as returned by `read_split`.
        root: the dataset's folder.
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        class_numbers: as returned by `read_class_numbers`.
        cleaning: how faults of the dataset are handled.

    Raises:
        BadInput: a file is missing or cannot be read, sizes differ, or there are too many objects
            to tell them apart.
    """
    stem = Path(root) / item
    shape = picture_size(f"{stem}.jpg")
    listed = _read_listed(Path(f"{stem}_atr.txt"))
    objects = [name for level, name in listed if level == 0]
    if PERSON not in objects:
        return _shard(item, shape, [], part_schema, cleaning)
    if len(objects) > _MAX_OBJECTS:
        expected = f"at most {_MAX_OBJECTS} objects, which B can tell apart"
        raise BadInput(f"{stem}_atr.txt", expected, str(len(objects)))

    numbers, instances = _read_map(Path(f"{stem}_seg.png"), shape)
    is_person = numbers == class_numbers[PERSON]
    people = [_Person(is_person & (instances == b), []) for b in np.unique(instances[is_person])]
    owners = np.zeros(shape, dtype=np.int64)  # 0 = nobody, else the person's 1-based index
    for number, person in enumerate(people, start=1):
        owners[person.body] = number
    for level in sorted({level for level, name in listed if level > 0 and name in _PARTS}):
        numbers, instances = _read_map(Path(f"{stem}_parts_{level}.png"), shape)
        for name in _PARTS:
            is_part = numbers == class_numbers[name]
            for b in np.unique(instances[is_part]):
                piece = is_part & (instances == b)
                shares = np.bincount(owners[piece], minlength=len(people) + 1)
                owner = int(np.argmax(shares[1:]))
                if 2 * shares[1:][owner] >= shares.sum():
                    people[owner].pieces.append((name, piece))

    shard = _shard(item, shape, people, part_schema, cleaning)
    hidden = objects.count(PERSON) - len(people)
    shard.left_out += [LeftOut(f"{stem}_seg.png", _NOTHING_VISIBLE)] * hidden
    return shard


def _read_listed(path: Path) -> list[tuple[int, str]]:
    """(part level, name) of every line; level 0 is a whole object."""
    if not path.is_file():
        raise BadInput(path, "a list of objects", "no file")
    listed = []
    for line in path.read_text(encoding="latin-1").splitlines():
        if not line.strip():
            continue
        fields = [text.strip() for text in line.split("#")]
        if len(fields) < 4 or not fields[1].isdecimal():
            expected = "lines of instance # part level # occluded # names"
            raise BadInput(path, expected, repr(line))
        listed.append((int(fields[1]), fields[3]))
    return listed


def _read_map(path: Path, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The class numbers and the B values of a map, (H, W) each."""
    blue, green, red = cv2.split(_read_png(path, (*shape, 3)))
    return red // 10 * np.uint16(256) + green, blue


def _read_png(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    expected = "a whole PNG as large as the picture"
    if not path.is_file():
        raise BadInput(path, expected, "no file")
    data = path.read_bytes()
    # OpenCV would allocate whatever memory a damaged header or chunk asks for.
    if not _is_whole_png(data):
        raise BadInput(path, expected, f"{len(data)} bytes that are none")
    width, height = struct.unpack_from(">2I", data, 16)
    if (height, width) != shape[:2]:
        raise BadInput(path, expected, f"{(height, width)}, not {shape[:2]}")
    image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise BadInput(path, expected, "a file that cannot be decoded")
    if image.shape != shape or image.dtype != np.uint8:
        raise BadInput(path, expected, f"{image.dtype} {image.shape}, not uint8 {shape}")
    return image


def _is_whole_png(data: bytes) -> bool:
    """Whether all chunks (length, name, content, checksum) up to the last lie within the file."""
    if data[12:16] != b"IHDR":
        return False
    start = 8
    while start + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        start += 12 + length
        if name == b"IEND":
            break
    else:
        return False
    return start <= len(data)


def read_image_2021(
    item: str,
    root: str | os.PathLike,
    part_schema: PartSchema,
    cleaning: Cleaning = DEFAULT_CLEANING,
) -> Shard:
    """Read one image of the 2021 release and its people.

    Args:
        item: as returned by `read_split`.
        root: the dataset's folder.
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        cleaning: how faults of the dataset are handled.

    Raises:
        BadInput: a file is missing or cannot be read, or sizes differ.
    """
    stem = Path(root) / item
    annotation_file = Path(f"{stem}.json")
    shape = picture_size(f"{stem}.jpg")
    objects = _read_objects(annotation_file)

    def visible(entry: _Object) -> np.ndarray:
        return _read_png(stem.parent / entry.mask, shape) == _VISIBLE

    people = {i: _Person(visible(o), []) for i, o in objects.items() if o.name == PERSON}
    for entry in objects.values():
        owner = _owner(entry, objects, people) if entry.name in _PARTS else None
        if owner is not None:
            people[owner].pieces.append((entry.name, visible(entry)))

    seen = {i: person for i, person in people.items() if person.body.any()}
    shard = _shard(item, shape, list(seen.values()), part_schema, cleaning)
    hidden = [f"{annotation_file}, object {i}" for i in people if i not in seen]
    shard.left_out += [LeftOut(where, _NOTHING_VISIBLE) for where in hidden]
    return shard


@dataclass(frozen=True)
class _Object:
    name: str
    whole: int | None  # the id of the object it is a part of
    mask: str  # relative to the image's folder


def _read_objects(path: Path) -> dict[int, _Object]:
    """The objects and parts by their id, in file order."""
    if not path.is_file():
        raise BadInput(path, "an annotation", "no file")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    try:
        # Not strict: attributes typed by annotators may contain control characters.
        entries = json.loads(text, strict=False)["annotation"]["object"]
        return {
            int(entry["id"]): _Object(
                str(entry["name"]), _whole(entry["parts"]["ispartof"]), str(entry["instance_mask"])
            )
            for entry in _as_list(entries)
        }
    except (ValueError, KeyError, TypeError, OverflowError) as e:
        expected = "JSON with annotation.object of id, name, parts.ispartof and instance_mask"
        raise BadInput(path, expected, f"{type(e).__name__}: {e}") from e


def _as_list(value: Any) -> list:
    """The value as a list: MATLAB writes a list of one element as the element."""
    return value if isinstance(value, list) else [value]


def _whole(is_part_of: Any) -> int | None:
    wholes = _as_list(is_part_of)
    return int(wholes[0]) if wholes else None


def _owner(
    entry: _Object, objects: Mapping[int, _Object], people: Mapping[int, _Person]
) -> int | None:
    """The id of the person it is a part (or a part of a part) of; None if it is nobody's."""
    whole = entry.whole
    for _ in range(len(objects)):  # a damaged file may contain a cycle
        if whole is None or whole in people:
            return whole
        whole = objects[whole].whole if whole in objects else None
    return None


def _shard(
    item: str,
    shape: tuple[int, int],
    people: Sequence[_Person],
    schema: PartSchema,
    cleaning: Cleaning,
) -> Shard:
    annotations = [
        ignore_annotation(COCO_17, shape, person.body)
        if is_small(person.body, cleaning.min_size)
        else _annotation(person, schema, cleaning)
        for person in people
    ]
    return Shard([Picture(f"{item}.jpg", *shape, annotations, exhaustive=not people)])


def _annotation(person: _Person, schema: PartSchema, cleaning: Cleaning) -> dict[str, Any]:
    body = person.body
    mains: Counter[str] = Counter()
    masks: dict[str, np.ndarray] = {}
    for name, mask in person.pieces:
        channel = _CHANNELS[schema.name][name]
        mains[channel] += name == channel.replace("_", " ")
        masks[channel] = masks.get(channel, False) | mask
    # Pieces of unknown channels are painted too: a hand without its arm is still not torso.
    labels = body.astype(np.uint8)
    for name in _PAINTED:
        if name in masks:
            labels[masks[name] & body] = _CODES[name]

    ignore = np.zeros_like(body)
    states = {BODY: "known", **{name: "known" for name in _PAINTED if mains[name]}}
    complete = ["head" in states]
    for limb, pair in BODYPARTS_7.unions.items():
        sides = [BODYPARTS_7.channels[c] in states for c in pair]
        if any(sides):
            ignore |= labels == _CODES[limb]
        if any(sides) or mains[limb] < 2:
            states.pop(limb, None)
        complete.append(all(sides) or limb in states)
    if cleaning.derive_torso and all(complete) and "torso" not in states:
        torso, scraps = subtracted_torso((labels == _NO_PART) | (labels == _CODES["torso"]))
        labels[torso] = _CODES["torso"]
        ignore |= scraps
        if torso.any():
            states["torso"] = "derived"
    ignore |= outline_band(labels, cleaning.outline_band)

    def known(names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: labels == _CODES[name] for name in names if name in states}

    names = {*schema.channels, *schema.unions}
    return person_annotation(
        schema,
        COCO_17,
        body.shape,
        body=body,
        parts=known(schema.parts),
        states={name: state for name, state in states.items() if name in names},
        unsided=known(tuple(schema.unions)),
        ignore=ignore,
    )


def prepare_ade20k(
    root: str | os.PathLike,
    split: str,
    part_schema: PartSchema,
    *,
    release: str | None = None,
    cleaning: Cleaning = DEFAULT_CLEANING,
    workers: int = 1,
    limit: int | None = None,
) -> Summary:
    """Write ``<root>/ade20k_<split>.<schema>.json``.

    Args:
        root: the dataset's folder.
        split: "train" (the folder ``training``) or "val" (``validation``).
        part_schema: "bodyparts-7", "bodyparts-11" or "pascal-person-part".
        release: "2016" or "2021"; detected from the folder if not given.
        cleaning: how faults of the dataset are handled.
        workers: number of processes.
        limit: use only the first ``limit`` images.

    Raises:
        FileNotFoundError: the dataset is missing.
        RecordError: the index, or all images, cannot be read, or both releases are in the folder.
        ValueError: ADE20K's parts have no mapping to the schema.
    """
    if part_schema.name not in _CHANNELS:
        raise ValueError(f"ADE20K is read as one of {sorted(_CHANNELS)}, not {part_schema.name}")
    release = release or find_release(root)
    items = read_split(root, split, release)[:limit]
    settings = {"root": Path(root), "part_schema": part_schema, "cleaning": cleaning}
    if release == "2016":
        convert = partial(read_image_2016, **settings, class_numbers=read_class_numbers(root))
    else:
        convert = partial(read_image_2021, **settings)
    return prepare(
        items,
        convert,
        records_path(root, DATASET, split, part_schema),
        part_schema,
        COCO_17,
        workers=workers,
        info={
            "description": f"ADE20K, release {release}, people",
            "split": split,
            "cleaning": asdict(cleaning),
        },
    )


def _pixels(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a number of pixels, found {value}")
    return value


def main(argv: Sequence[str] | None = None) -> None:
    """The command: prepare the splits in the schemas and print a summary of each."""
    parser = argument_parser(
        "Prepare ADE20K; see datasets/README.md for its layout on disk.", DATASET, _CHANNELS
    )
    parser.add_argument(
        "--split",
        nargs="+",
        choices=tuple(SPLITS),
        default=list(SPLITS),
        help="train: ADE20K's training set, val: its validation set (default: train val)",
    )
    parser.add_argument(
        "--release",
        choices=RELEASES,
        help="(default: detected from the folder's content)",
    )
    parser.add_argument(
        "--min-size",
        type=_pixels,
        default=Cleaning.min_size,
        help="people whose box is shorter on both sides become ignore regions; 0 keeps"
        " everybody (default: %(default)s pixels)",
    )
    parser.add_argument(
        "--outline-band",
        type=_pixels,
        default=Cleaning.outline_band,
        help="pixels ignored on either side of an outline (default: %(default)s)",
    )
    parser.add_argument(
        "--derive-torso",
        action=argparse.BooleanOptionalAction,
        default=Cleaning.derive_torso,
        help="where head, arms and legs are labelled, the rest is torso (default: yes)",
    )
    args = parser.parse_args(argv)
    cleaning = Cleaning(args.min_size, args.outline_band, args.derive_torso)
    run_splits(prepare_ade20k, args, release=args.release, cleaning=cleaning)
