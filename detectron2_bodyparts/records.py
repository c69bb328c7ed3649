"""The annotation format: COCO's JSON with parts.

A file holds one split in one part schema (``voc_part_train.bodyparts-7.json``). pycocotools and
Detectron2's own loader read it unchanged, as people with boxes, body masks and keypoints. In
addition to COCO's keys an annotation has

* ``part_segmentation``: {channel: compressed RLE} of the parts (the body's is ``segmentation``),
* ``part_state``: {channel: "known" | "derived"}, ``body`` and unions listed like any channel. A
  channel without an entry is unknown: not labelled, which is not the same as absent. A known
  channel without a mask is known to be empty,
* ``unsided`` (optional): {union: RLE} where only the union of two sided channels is known, e.g.
  ``arm``,
* ``ignore_segmentation`` (optional): RLE of the pixels at which nothing is known of this person,
* ``score`` (optional): 0..1, the confidence of a person labelled by a model.

Images have ``exhaustive``: false if there may be unlabelled people. Ignore regions are marked
``iscrowd: 1``; part labels in them say what is there, not whose it is. ``info`` names the schemas.

Masks are boolean (H, W) arrays over the whole image. Coordinates are COCO's: boxes XYWH in pixels,
keypoints as pixel indices (the centre of the first pixel is 0).
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from pycocotools import mask as mask_util

from .schema import (
    BODY,
    KeypointSchema,
    PartSchema,
    get_keypoint_schema,
    get_part_schema,
)

FORMAT_VERSION = 1
PERSON_CATEGORY_ID = 1
STATES = ("known", "derived")

# Where only keypoints are known, the box is their hull, enlarged on each side by this fraction of
# its longer side: keypoints lie inside the limbs, not on the silhouette.
JOINT_HULL_MARGIN = 0.1


class RecordError(ValueError):
    """A record or a file of records is invalid; the message names the file and the fault."""


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Encode a boolean (H, W) mask as compressed RLE with ``counts`` as ``str``, for JSON."""
    if mask.ndim != 2:
        raise ValueError(f"expected a mask of shape (H, W), found {mask.shape}")
    return _with_text(mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)))


def decode_mask(rle: Mapping[str, Any]) -> np.ndarray:
    """Decode an RLE, compressed or not, to a boolean (H, W) mask."""
    return decode_segmentation(rle, *rle["size"])


def decode_segmentation(segmentation, height: int, width: int) -> np.ndarray:
    """Decode a COCO ``segmentation``, RLE or polygons in pixels, to a boolean (H, W) mask.

    Raises:
        ValueError: it is neither. Malformed RLE may raise other errors.
    """
    rle = compress_segmentation(segmentation, height, width)
    return mask_util.decode(rle).astype(bool)


def compress_segmentation(segmentation, height: int, width: int) -> dict[str, Any]:
    """Convert a COCO ``segmentation``, RLE or polygons in pixels, to the form of `encode_mask`.

    Raises:
        ValueError: it is neither. Malformed uncompressed RLE may raise other errors.
    """
    if not isinstance(segmentation, Mapping):
        try:
            polygons = mask_util.frPyObjects(list(segmentation), height, width)
        except Exception as e:  # pycocotools raises nothing narrower
            raise ValueError(f"no polygons: {e}") from e
        segmentation = mask_util.merge(polygons)
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(dict(segmentation), *segmentation["size"])
    return _with_text(segmentation)


def _with_text(rle: Mapping[str, Any]) -> dict[str, Any]:
    """Compressed RLE with ``counts`` as ``str``, for JSON."""
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(n) for n in rle["size"]], "counts": text}


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """The tight XYXY box of a boolean (H, W) mask, ends exclusive; None if the mask is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def label_map(
    parts: Mapping[str, np.ndarray], schema: PartSchema, shape: tuple[int, int]
) -> np.ndarray:
    """Merge part masks into a label map, resolving overlaps by the schema's paint order.

    Args:
        parts: part name -> boolean (H, W) mask; absent parts are left out.
        schema: part names and paint order.
        shape: (H, W).

    Returns:
        (H, W) uint8: 0 = no part, else the channel index in the schema.

    Raises:
        ValueError: a name is not a part of the schema, or a mask has another shape.
    """
    unknown = set(parts) - set(schema.parts)
    if unknown:
        raise ValueError(f"{sorted(unknown)} are no parts of schema {schema.name}: {schema.parts}")
    labels = np.zeros(shape, dtype=np.uint8)
    for name in schema.paint_order:
        if name in parts:
            if parts[name].shape != tuple(shape):
                raise ValueError(f"mask of {name}: expected {shape}, found {parts[name].shape}")
            labels[parts[name].astype(bool)] = schema.index(name)
    return labels


def person_annotation(
    part_schema: PartSchema,
    keypoint_schema: KeypointSchema,
    image_shape: tuple[int, int],
    *,
    body: np.ndarray | None = None,
    parts: Mapping[str, np.ndarray] | None = None,
    states: Mapping[str, str] | None = None,
    unsided: Mapping[str, np.ndarray] | None = None,
    ignore: np.ndarray | None = None,
    keypoints: np.ndarray | None = None,
    bbox: Iterable[float] | None = None,
) -> dict[str, Any]:
    """One person's annotation, without ``id`` and ``image_id``.

    Overlaps between parts are resolved by the paint order; parts are clipped by the body if it is
    known. The box is the body's tight box, else ``bbox``, else the hull of the labelled keypoints
    enlarged by ``JOINT_HULL_MARGIN``.

    Args:
        part_schema, keypoint_schema: the schemas of the names and keypoints.
        image_shape: (H, W) of the image.
        body: boolean (H, W), or None if the silhouette is unknown.
        parts: part name -> boolean (H, W).
        states: channel -> "known" or "derived". Default: channels with a mask are known. A channel
            listed here without a mask is known to be empty.
        unsided: union name (``arm``) -> boolean (H, W), where sides are unknown.
        ignore: boolean (H, W), pixels at which nothing is known of this person.
        keypoints: (K, 3), x, y in pixel indices and v in {0, 1, 2}.
        bbox: XYWH, used if the body is unknown.

    Raises:
        ValueError: the body is known but empty, or there is nothing to derive a box from; also as
            `label_map`.
    """
    height, width = image_shape
    parts = dict(parts or {})
    unsided = dict(unsided or {})
    if states is None:
        states = dict.fromkeys([*([BODY] if body is not None else []), *parts, *unsided], "known")
    if keypoints is None:
        keypoints = np.zeros((len(keypoint_schema), 3))
    keypoints = np.asarray(keypoints, dtype=float)
    labelled = keypoints[:, 2] > 0

    annotation: dict[str, Any] = {"category_id": PERSON_CATEGORY_ID, "iscrowd": 0}
    if body is not None:
        box = mask_box(body)
        if box is None:
            raise ValueError("the body mask is empty")
        annotation["bbox"] = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
        annotation["area"] = int(np.count_nonzero(body))
        annotation["segmentation"] = encode_mask(body)
    else:
        if bbox is None:
            bbox = _joint_hull(keypoints[labelled, :2], height, width)
        annotation["bbox"] = [round(float(v), 2) for v in bbox]
        annotation["area"] = round(annotation["bbox"][2] * annotation["bbox"][3], 2)

    labels = label_map(parts, part_schema, image_shape)
    if body is not None:
        labels[~body] = 0
    annotation["part_segmentation"] = {
        name: encode_mask(labels == part_schema.index(name))
        for name in part_schema.parts
        if name in parts and (labels == part_schema.index(name)).any()
    }
    annotation["part_state"] = dict(states)
    if unsided:
        free = labels == 0 if body is None else (labels == 0) & body
        annotation["unsided"] = {k: encode_mask(m & free) for k, m in unsided.items()}
    if ignore is not None and ignore.any():
        annotation["ignore_segmentation"] = encode_mask(ignore)

    keypoints = np.where(labelled[:, None], keypoints, 0.0)
    annotation["keypoints"] = [round(float(v), 2) for v in keypoints.ravel()]
    annotation["num_keypoints"] = int(labelled.sum())
    return annotation


def ignore_annotation(
    keypoint_schema: KeypointSchema, image_shape: tuple[int, int], mask: np.ndarray
) -> dict[str, Any]:
    """The annotation of an ignore region (``iscrowd: 1``), from a non-empty (H, W) mask."""
    body_only = person_annotation(
        PartSchema("body", (BODY,)), keypoint_schema, image_shape, body=mask, states={}
    )
    return {**body_only, "iscrowd": 1}


def _joint_hull(points: np.ndarray, height: int, width: int) -> list[float]:
    if len(points) == 0:
        raise ValueError("nothing gives a box: no body, no box, no labelled joint")
    low, high = points.min(axis=0), points.max(axis=0) + 1
    margin = JOINT_HULL_MARGIN * (high - low).max()
    x0, y0 = np.maximum(low - margin, 0)
    x1, y1 = np.minimum(high + margin, (width, height))
    return [x0, y0, x1 - x0, y1 - y0]


@dataclass
class Records:
    """A file of records in memory: COCO's images, annotations and info, and their schemas."""

    part_schema: PartSchema
    keypoint_schema: KeypointSchema
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)

    def add_image(
        self,
        file_name: str,
        height: int,
        width: int,
        annotations: Iterable[dict[str, Any]],
        *,
        exhaustive: bool = True,
        **extra: Any,
    ) -> int:
        """Append an image and its annotations, with ids counted from 1. Returns the image id."""
        image, people = _numbered(
            len(self.images),
            len(self.annotations),
            file_name,
            height,
            width,
            annotations,
            exhaustive=exhaustive,
            **extra,
        )
        self.images.append(image)
        self.annotations.extend(people)
        return image["id"]

    def by_image(self) -> dict[int, list[dict[str, Any]]]:
        """Image id -> its annotations, in file order; every image has an entry."""
        groups: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for annotation in self.annotations:
            groups[annotation["image_id"]].append(annotation)
        return groups

    def to_dict(self) -> dict[str, Any]:
        """The file's content: COCO's ``info``, ``images``, ``annotations``, ``categories``."""
        keypoints = self.keypoint_schema
        return {
            "info": {
                **self.info,
                "format": "detectron2_bodyparts",
                "version": FORMAT_VERSION,
                "part_schema": self.part_schema.name,
                "channels": list(self.part_schema.channels),
                "keypoint_schema": keypoints.name,
                "keypoint_sigmas": list(keypoints.sigmas),
            },
            "images": self.images,
            "annotations": self.annotations,
            "categories": [
                {
                    "id": PERSON_CATEGORY_ID,
                    "name": "person",
                    "supercategory": "person",
                    "keypoints": list(keypoints.keypoints),
                    "skeleton": [[a + 1, b + 1] for a, b in keypoints.bones],
                }
            ],
        }


def write_records(path: str | os.PathLike, records: Records) -> None:
    """Write a file of records, atomically."""
    write_json(path, records.to_dict())


def stream_records(
    path: str | os.PathLike,
    part_schema: PartSchema,
    keypoint_schema: KeypointSchema,
    pictures: Iterable[Mapping[str, Any]],
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write a file of records, atomically, without holding all annotations in memory.

    Args:
        path: the file; an existing one is replaced once ``pictures`` is exhausted.
        part_schema, keypoint_schema, info: as in `Records`.
        pictures: arguments of `Records.add_image`, one mapping per image.
    """
    header = Records(part_schema, keypoint_schema, info=dict(info or {})).to_dict()
    del header["images"], header["annotations"]
    images: list[str] = []
    num_annotations = 0
    with whole_file(path) as f:
        f.write(_dumps(header)[:-1] + ',"annotations":[')
        for picture in pictures:
            image, annotations = _numbered(len(images), num_annotations, **picture)
            images.append(_dumps(image))
            for annotation in annotations:
                f.write("," * (num_annotations > 0) + _dumps(annotation))
                num_annotations += 1
        f.write('],"images":[' + ",".join(images) + "]}")


def _numbered(
    images_before: int,
    annotations_before: int,
    file_name: str,
    height: int,
    width: int,
    annotations: Iterable[dict[str, Any]],
    *,
    exhaustive: bool = True,
    **extra: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The image's record and its annotations, with ids counted from 1."""
    image_id = images_before + 1
    image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
    return {**image, "exhaustive": exhaustive, **extra}, [
        {"id": i, "image_id": image_id, **annotation}
        for i, annotation in enumerate(annotations, start=annotations_before + 1)
    ]


def write_json(path: str | os.PathLike, content: Any) -> None:
    """Write JSON, atomically."""
    with whole_file(path) as f:
        f.write(_dumps(content))


def _dumps(content: Any) -> str:
    # Not json.dump, which does not use the C encoder.
    return json.dumps(content, separators=(",", ":"))


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """A temporary file next to ``path`` that replaces it on exit, unless there is an exception.

    Args:
        path: the file; its folder is created if missing.
        mode: "w" for text, "wb" for bytes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as f:
            yield f
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Required keys of a file's images and annotations.
_KEYS = {
    "images": ("id", "file_name", "height", "width", "exhaustive"),
    "annotations": (
        "id",
        "image_id",
        "bbox",
        "iscrowd",
        "keypoints",
        "num_keypoints",
        "part_segmentation",
        "part_state",
    ),
}


def read_records(path: str | os.PathLike) -> Records:
    """Read a file of records.

    Schemas whose names are not registered are taken from the file.

    Raises:
        FileNotFoundError: there is no such file.
        RecordError: it is not JSON or not this format or version, its channels or keypoints differ
            from the schema registered under the same name, or a key is missing.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as e:
        raise RecordError(f"{path}: not JSON ({e})") from e
    if not isinstance(content, dict) or content.get("info", {}).get("format") != (
        "detectron2_bodyparts"
    ):
        raise RecordError(f"{path}: expected a file of body part records, found other JSON")
    info = content["info"]
    if info["version"] != FORMAT_VERSION:
        raise RecordError(f"{path}: expected version {FORMAT_VERSION}, found {info['version']}")
    if missing := {"images", "annotations", "categories"} - content.keys():
        raise RecordError(f"{path}: no {min(missing)!r}")
    try:
        part_schema, keypoint_schema = _part_schema(info), _keypoint_schema(content)
    except ValueError as e:
        raise RecordError(f"{path}: {e}") from e
    if list(part_schema.channels) != info["channels"]:
        raise RecordError(
            f"{path}: schema {part_schema.name} has channels {list(part_schema.channels)},"
            f" the file was written with {info['channels']}"
        )
    joints = content["categories"][0]["keypoints"]
    if list(keypoint_schema.keypoints) != joints:
        raise RecordError(
            f"{path}: schema {keypoint_schema.name} has joints {list(keypoint_schema.keypoints)},"
            f" the file was written with {joints}"
        )
    for kind, keys in _KEYS.items():
        for i, one in enumerate(content[kind]):
            if missing := [key for key in keys if key not in one]:
                raise RecordError(f"{path}: {kind}[{i}] has no {missing[0]!r}")
    records = Records(
        part_schema, keypoint_schema, content["images"], content["annotations"], dict(info)
    )
    _compress_masks(records)
    return records


def _part_schema(info: Mapping[str, Any]) -> PartSchema:
    try:
        return get_part_schema(info["part_schema"])
    except KeyError:
        return PartSchema(info["part_schema"], tuple(info["channels"]))


def _keypoint_schema(content: Mapping[str, Any]) -> KeypointSchema:
    name = content["info"]["keypoint_schema"]
    try:
        return get_keypoint_schema(name)
    except KeyError:
        (category,) = content["categories"]
        names = tuple(category["keypoints"])
        return KeypointSchema(
            name,
            names,
            tuple((names[a - 1], names[b - 1]) for a, b in category["skeleton"]),
            tuple(content["info"].get("keypoint_sigmas", ())),  # missing in files before 2026-11
        )


def _compress_masks(records: Records) -> None:
    """Convert COCO's polygons and uncompressed RLE to compressed RLE, in place."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in records.images}
    for annotation in records.annotations:
        places = [(annotation, name) for name in _WHOLE_MASKS if name in annotation]
        for key in ("part_segmentation", "unsided"):
            places += [(annotation[key], name) for name in annotation.get(key) or ()]
        for masks, name in places:
            # Unreadable masks are kept, for `validate_records` to report.
            with contextlib.suppress(*_BAD_MASK):
                masks[name] = compress_segmentation(masks[name], *sizes[annotation["image_id"]])


def validate_records(records: Records, image_root: str | os.PathLike | None = None) -> list[str]:
    """All faults of the records, one line each; empty if they are valid.

    Args:
        records: the records to check.
        image_root: the folder that ``file_name`` is relative to; if omitted, image files are not
            checked.
    """
    faults = []
    images = {image["id"]: image for image in records.images}
    if len(images) != len(records.images):
        faults.append("image ids repeat")
    if len({a["id"] for a in records.annotations}) != len(records.annotations):
        faults.append("annotation ids repeat")
    if image_root is not None:
        for image in records.images:
            if not (Path(image_root) / image["file_name"]).is_file():
                faults.append(f"image {image['id']}: no file {image['file_name']}")
    for annotation in records.annotations:
        where = f"annotation {annotation['id']}"
        image = images.get(annotation["image_id"])
        if image is None:
            faults.append(f"{where}: no image {annotation['image_id']}")
            continue
        where = f"{image['file_name']}, {where}"
        faults.extend(f"{where}: {fault}" for fault in _faults_of(annotation, image, records))
    return faults


# Masks of an annotation that do not belong to a part.
_WHOLE_MASKS = ("segmentation", "ignore_segmentation")
# Raised when a malformed mask is decoded.
_BAD_MASK = (ValueError, TypeError, KeyError, IndexError, OverflowError)


def _faults_of(annotation: dict, image: dict, records: Records) -> list[str]:
    faults = []
    schema = records.part_schema
    size = [image["height"], image["width"]]
    names = {*schema.channels, *schema.unions}

    x, y, w, h = annotation["bbox"]
    if w <= 0 or h <= 0 or x < 0 or y < 0 or x + w > size[1] + 1 or y + h > size[0] + 1:
        faults.append(f"box {annotation['bbox']} is empty or outside {size[1]}x{size[0]}")
    if not 0 <= annotation.get("score", 1) <= 1:
        faults.append(f"score {annotation['score']} is outside 0..1")
    if len(annotation["keypoints"]) != 3 * len(records.keypoint_schema):
        faults.append(
            f"expected {3 * len(records.keypoint_schema)} numbers of joints,"
            f" found {len(annotation['keypoints'])}"
        )
    elif annotation["num_keypoints"] != sum(v > 0 for v in annotation["keypoints"][2::3]):
        faults.append(f"num_keypoints is {annotation['num_keypoints']}, the joints say otherwise")
    parts = {**annotation["part_segmentation"], **annotation.get("unsided", {})}
    masks = {name: annotation[name] for name in _WHOLE_MASKS if name in annotation} | parts
    decoded: dict[str, np.ndarray] = {}
    for name, segmentation in masks.items():
        try:
            mask = decode_segmentation(segmentation, *size)
        except _BAD_MASK as e:
            faults.append(f"mask of {name!r} cannot be decoded: {e}")
            continue
        if list(mask.shape) != size:
            faults.append(f"mask of {name!r} is {list(mask.shape)}, the picture is {size}")
        decoded[name] = mask
    if annotation["iscrowd"] and "segmentation" not in annotation:
        faults.append("a region to ignore has no mask")
    if annotation["iscrowd"] and not annotation["part_state"]:
        return faults

    states = annotation["part_state"]
    for channel, state in states.items():
        if channel not in names:
            faults.append(f"{channel!r} is no channel of {schema.name}")
        if state not in STATES:
            faults.append(f"state of {channel!r} is {state!r}, expected one of {STATES}")
    if (BODY in states) != ("segmentation" in annotation):
        faults.append("the body is known and has no mask, or has one and is not known")
    faults += [f"{channel!r} has a mask but no state" for channel in parts if channel not in states]
    if faults:
        return faults
    body = decoded.get("segmentation")
    taken = np.zeros(size, dtype=bool)
    for channel in parts:
        mask = decoded[channel]
        if body is not None and (mask & ~body).any():
            faults.append(f"{channel!r} reaches outside the body")
        if (mask & taken).any():
            faults.append(f"{channel!r} overlaps another part")
        taken |= mask
    return faults
