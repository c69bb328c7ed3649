#!/usr/bin/env python3
"""How well parts derived from body masks and keypoints agree with ground-truth parts.

    python datasets/measure_derived_parts.py --root $DETECTRON2_DATASETS/voc_part
    python datasets/measure_derived_parts.py --records synthetic_val.bodyparts-7.json

VOC-Part has no keypoints. They are taken from its masks: elbow, wrist, knee and ankle from where
two of its 24 parts touch, shoulder and hip from the end of the upper limb, the face's from the
centres of nose, eyes and ears. They agree with the masks better than an annotator's would, so the
results are a kind of upper bound. With ``--records`` the keypoints are those of the file.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import scipy.io

from detectron2_bodyparts.readers import voc_part
from detectron2_bodyparts.readers.derive import derive_parts
from detectron2_bodyparts.readers.prepare import datasets_root
from detectron2_bodyparts.records import decode_mask, read_records
from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    COCO_17,
    PASCAL_PERSON_PART,
    KeypointSchema,
    PartSchema,
    get_part_schema,
)

TOUCH = 2  # pixels by which two parts are dilated to find where they touch
MIN_TOUCHING = 4  # pixels; fewer may be chance
LIMB_END = 0.88  # quantile of the distance from the other end, beyond which is the limb's end

Person = tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]  # body, known parts, keypoints


@dataclass
class Agreement:
    """Pixel counts of one part, summed over people for whom it is known and was derived.

    Args:
        people: the number of these people.
        true: ground-truth pixels of the part.
        trusted: those of them that the derivation does not ignore.
        both, either: intersection and union of ground truth and derived part, without ignored
            pixels.
    """

    people: int = 0
    true: int = 0
    trusted: int = 0
    both: int = 0
    either: int = 0

    @property
    def iou(self) -> float:
        """Intersection over union on the pixels that are not ignored; nan if there are none."""
        return self.both / self.either if self.either else float("nan")


@dataclass
class Result:
    """The result of `measure`; ``str()`` is a table.

    Args:
        people, derived_people: all people, and those for whom any part was derived.
        body, trusted, right: pixels of the latter's bodies; those not ignored; those of them whose
            derived part is correct.
        parts: part -> its agreement.
    """

    people: int = 0
    derived_people: int = 0
    body: int = 0
    trusted: int = 0
    right: int = 0
    parts: dict[str, Agreement] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{'part':<18}{'people':>8}{'IoU':>8}{'trusted':>9}"]
        for name, part in self.parts.items():
            share = part.trusted / part.true if part.true else float("nan")
            lines.append(f"{name:<18}{part.people:8d}{part.iou:8.3f}{share:9.2f}")
        lines.append(
            f"{self.derived_people} of {self.people} people; of their pixels"
            f" {self.trusted / max(self.body, 1):.2f} are trusted, of these"
            f" {self.right / max(self.trusted, 1):.3f} right"
        )
        return "\n".join(lines)


def measure(
    people: Iterable[Person], keypoint_schema: KeypointSchema, part_schema: PartSchema
) -> Result:
    """Derive the parts of people whose parts are known, and compare.

    Args:
        people: body (H, W), part -> mask (H, W) of all known parts, keypoints (K, 3).
        keypoint_schema, part_schema: the schemas of keypoints and parts.
    """
    result = Result(parts={part: Agreement() for part in part_schema.parts})
    for body, parts, joints in people:
        derived = derive_parts(body, joints, keypoint_schema, part_schema)
        result.people += 1
        if not derived.parts:
            continue
        trusted = body & ~derived.ignore
        result.derived_people += 1
        result.body += np.count_nonzero(body)
        result.trusted += np.count_nonzero(trusted)
        for name, mask in derived.parts.items():
            if name not in parts:
                continue
            true = parts[name]
            agreement = result.parts[name]
            agreement.people += 1
            agreement.true += np.count_nonzero(true)
            agreement.trusted += np.count_nonzero(true & trusted)
            agreement.both += np.count_nonzero(true & mask)
            agreement.either += np.count_nonzero((true | mask) & trusted)
            result.right += np.count_nonzero(true & mask)
    return result


def people_of_records(path: Path) -> tuple[list[Person], KeypointSchema, PartSchema]:
    """The people with known body and keypoints in a file of records."""
    records = read_records(path)
    people = []
    for annotation in records.annotations:
        if annotation["num_keypoints"] and "segmentation" in annotation:
            joints = np.array(annotation["keypoints"], dtype=float).reshape(-1, 3)
            people.append((decode_mask(annotation["segmentation"]), _parts(annotation), joints))
    return people, records.keypoint_schema, records.part_schema


def people_of_voc_part(root: Path, part_schema: PartSchema) -> Iterator[Person]:
    """VOC-Part's people, in all images under ``root``, with keypoints from their masks."""
    for image_id in voc_part.read_split(root, voc_part.ALL):
        (picture,) = voc_part.read_image(image_id, root, part_schema).pictures
        content = scipy.io.loadmat(root / "Annotations_Part" / f"{image_id}.mat")
        people = [
            {str(part["part_name"][0]): part["mask"] > 0 for part in entry["parts"].ravel()}
            for entry in content["anno"][0, 0]["objects"].ravel()
            if entry["class"][0] == "person" and entry["mask"].any()
        ]
        for annotation, pieces in zip(picture.annotations, people, strict=True):
            body = decode_mask(annotation["segmentation"])
            yield body, _parts(annotation), joints_of_pieces(pieces)


def _parts(annotation: Mapping) -> dict[str, np.ndarray]:
    """Part -> mask of all known parts, including empty ones."""
    empty = np.zeros(annotation["segmentation"]["size"], dtype=bool)
    masks = {name: decode_mask(rle) for name, rle in annotation["part_segmentation"].items()}
    known = (name for name, state in annotation["part_state"].items() if state == "known")
    return {name: masks.get(name, empty) for name in known}


def joints_of_pieces(pieces: Mapping[str, np.ndarray]) -> np.ndarray:
    """COCO keypoints of a person of VOC-Part, as far as the masks tell.

    Args:
        pieces: VOC-Part's part name -> boolean (H, W).

    Returns:
        (17, 3), x, y in pixel indices and v: 2, or 0 if the masks do not tell.
    """
    points = {"nose": _middle(pieces.get("nose"))}
    for letter, side in (("r", "right"), ("l", "left")):
        for place in ("eye", "ear"):
            points[f"{side}_{place}"] = _middle(pieces.get(letter + place))
        for limb, end, names in (
            ("arm", "hand", ("shoulder", "elbow", "wrist")),
            ("leg", "foot", ("hip", "knee", "ankle")),
        ):
            upper, lower = (pieces.get(f"{letter}{half}{limb}") for half in "ul")
            middle = _touching(upper, lower)
            if middle is None:
                beginning = _touching(upper, pieces.get("torso"))
            else:
                beginning = _far_end(upper, middle)
            ends = (beginning, middle, _touching(lower, pieces.get(letter + end)))
            points.update({f"{side}_{name}": at for name, at in zip(names, ends, strict=True)})
    joints = np.zeros((len(COCO_17), 3))
    for name, point in points.items():
        if point is not None:
            joints[COCO_17.keypoints.index(name)] = (*point, 2)
    return joints


def _pixels(mask: np.ndarray) -> np.ndarray:
    """(P, 2), x and y."""
    rows, columns = np.nonzero(mask)
    return np.stack([columns, rows], axis=1).astype(float)


def _middle(mask: np.ndarray | None) -> np.ndarray | None:
    return None if mask is None or not mask.any() else _pixels(mask).mean(axis=0)


def _touching(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    """(2,) centre of where two masks touch or overlap, or None."""
    if a is None or b is None:
        return None
    kernel = np.ones((2 * TOUCH + 1, 2 * TOUCH + 1), dtype=np.uint8)
    grown = [cv2.dilate(mask.astype(np.uint8), kernel) > 0 for mask in (a, b)]
    both = grown[0] & grown[1]
    return _middle(both) if np.count_nonzero(both) >= MIN_TOUCHING else None


def _far_end(mask: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """(2,) centre of the mask's pixels that are furthest from the origin."""
    pixels = _pixels(mask)
    distances = np.hypot(*(pixels - origin).T)
    return pixels[distances >= np.quantile(distances, LIMB_END)].mean(axis=0)


def main() -> None:
    """The command: measure and print a table for each schema or file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root",
        type=Path,
        default=datasets_root() / voc_part.DATASET,
        help="VOC-Part's folder (default: %(default)s)",
    )
    parser.add_argument(
        "--schema",
        nargs="+",
        choices=(BODYPARTS_7.name, PASCAL_PERSON_PART.name),
        default=[BODYPARTS_7.name, PASCAL_PERSON_PART.name],
        help="part schemas, one table each (default: both)",
    )
    parser.add_argument(
        "--records",
        type=Path,
        nargs="+",
        help="annotation files with parts and keypoints, instead of VOC-Part",
    )
    args = parser.parse_args()
    try:
        for path in args.records or ():
            print(f"{path}\n{measure(*people_of_records(path))}")
        for name in () if args.records else args.schema:
            schema = get_part_schema(name)
            people = people_of_voc_part(args.root, schema)
            print(f"VOC-Part, {name}\n{measure(people, COCO_17, schema)}")
    except FileNotFoundError as e:
        raise SystemExit(f"error: {e}") from e


if __name__ == "__main__":
    main()
