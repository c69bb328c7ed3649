"""Derive parts from silhouette and skeleton: a guess, for datasets that have both but no parts.

Every pixel of the body is assigned to the nearest bone, in units of the half width of the bone's
limb. What the keypoints do not tell is not guessed:

* a part none of whose bones has both keypoints labelled is unknown, not empty; so is one that gets
  no pixels although it should be visible;
* if any piece of the skeleton is missing, only pixels near a bone are trusted; the others may
  belong to what is not labelled and are to be ignored;
* a limb with both keypoints labelled as hidden (v = 1) is behind an object or the body itself.
  Whether the pixels there are its own is unknown, so they are ignored, too.

Distances are Euclidean. Geodesic distances inside the silhouette were tried: they changed the
agreement with VOC-Part's and PASCAL-Person-Part's masks by less than half a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from ..schema import SIDES, KeypointSchema, PartSchema, unsided_name

LIMBS = {
    "upper_arm": ("shoulder", "elbow"),
    "lower_arm": ("elbow", "wrist"),
    "upper_leg": ("hip", "knee"),
    "lower_leg": ("knee", "ankle"),
}
_PIECES = ("head", "torso", *(f"{side}_{limb}" for limb in LIMBS for side in SIDES))
_EARS = ("left_ear", "right_ear")
_FACE = ("nose", "left_eye", "right_eye", "face")

# All lengths are in trunk lengths: from the middle of the shoulders to the middle of the hips.
#
# Distances between keypoints, after the segment lengths of Drillis and Contini (1966) as given in
# Winter, "Biomechanics and Motor Control of Human Movement", figure 4.1; ears and eyes from head
# breadth and pupillary distance (0.09 and 0.036 of a person's height).
_BETWEEN_JOINTS = {
    **{(f"{side}_shoulder", f"{side}_elbow"): 0.65 for side in SIDES},
    **{(f"{side}_elbow", f"{side}_wrist"): 0.51 for side in SIDES},
    **{(f"{side}_hip", f"{side}_knee"): 0.85 for side in SIDES},
    **{(f"{side}_knee", f"{side}_ankle"): 0.85 for side in SIDES},
    ("right_shoulder", "left_shoulder"): 0.75,
    ("right_ear", "left_ear"): 0.31,
    ("right_eye", "left_eye"): 0.125,
}
_NECK_TO_HEAD = 0.45

# The rest was fitted jointly to ground-truth masks: VOC-Part, PASCAL-Person-Part (with keypoints
# taken from the masks) and synthetic people. Changing any of them by a fifth changes the mean IoU
# by at most two points.
_HALF_WIDTHS = {
    "head": 0.12,
    "torso": 0.16,
    "upper_arm": 0.10,
    "lower_arm": 0.10,
    "upper_leg": 0.12,
    "lower_leg": 0.12,
}
# The torso's distance at pixels inside it, in half widths: limbs in front of it win up to this
# distance from their bone.
_INSIDE_TORSO = 0.65
# How far a limb extends beyond its last keypoint, relative to its length: the hand and the foot.
_BEYOND = {"lower_arm": 0.2, "lower_leg": 0.25}
# From the neck (0) to the middle of the head (1): where the head's bone begins, without and with
# the neck (so high because the torso's part of the neck follows from the widths), and the crown.
_HEAD_BEGINS, _NECK_BEGINS, _HEAD_ENDS = 0.8, 0.67, 1.7
_HEAD_IN_NECK_TO_TOP = 0.6  # position of the head's middle between neck (0) and head top (1)
# The fraction of the trunk, from the shoulders, that is certainly torso if no hip is labelled.
_UPPER_TRUNK = 0.6
# How far from a piece its pixels are trusted while any piece is missing or hidden, in half widths.
# Next to the torso there may be an arm; next to the head there is hair.
_TRUSTED_LIMB = 1.5
_TRUSTED = {"head": 2.5, "torso": 1.0}


@dataclass(frozen=True)
class DerivedParts:
    """The result of `derive_parts`.

    Attributes:
        parts: part -> boolean (H, W) mask inside the body, never empty; parts do not overlap. A
            part that is not listed is unknown.
        ignore: boolean (H, W), pixels of the body that may belong to any part. Empty if no part is
            listed.
    """

    parts: dict[str, np.ndarray]
    ignore: np.ndarray


def derive_parts(
    body: np.ndarray,
    joints: np.ndarray,
    keypoint_schema: KeypointSchema,
    part_schema: PartSchema,
) -> DerivedParts:
    """Derive a person's parts from silhouette and skeleton.

    Args:
        body: boolean (H, W).
        joints: (K, 3), x, y in pixel indices and v: 0 not labelled, 1 hidden, 2 visible.
        keypoint_schema: names the K keypoints. COCO's, LSP's and J-HMDB's names are understood.
        part_schema: its parts must be head, torso, and limbs: sided or not, whole or upper and
            lower. If limbs are divided, the neck belongs to the head, as in PASCAL-Person-Part.

    Raises:
        ValueError: the schema has other parts, or ``joints`` does not have the shape above.
    """
    schema_pieces = _pieces_or_raise(part_schema)
    points = _labelled(joints, keypoint_schema)
    hidden = {keypoint_schema.keypoints[i] for i in np.flatnonzero(joints[:, 2] == 1)}
    rows, columns = np.nonzero(body)
    pixels = np.stack([columns, rows], axis=1).astype(np.float32)
    distances = _distances(pixels, points, neck_is_head=_neck_is_head(part_schema))
    visible = {piece for piece in distances if not _is_hidden(piece, hidden)}

    ignore = np.zeros(body.shape, dtype=bool)
    if not visible:
        return DerivedParts({}, ignore)
    names = list(distances)
    stacked = np.stack(list(distances.values()))
    nearest = stacked.argmin(axis=0)
    trusted = np.isin(nearest, [names.index(piece) for piece in visible])
    if len(visible) < len(_PIECES):
        reach = np.array([_TRUSTED.get(piece, _TRUSTED_LIMB) for piece in names])
        trusted &= stacked.min(axis=0) <= reach[nearest]

    parts = {}
    for part, pieces in schema_pieces.items():
        own = trusted & np.isin(nearest, [names.index(p) for p in pieces if p in visible])
        # Visible keypoints without a pixel are a contradiction: unknown, not absent.
        if own.any():
            parts[part] = np.zeros(body.shape, dtype=bool)
            parts[part][rows, columns] = own
    if parts:
        ignore[rows, columns] = ~trusted
    return DerivedParts(parts, ignore)


# Without a silhouette, in half widths: a pixel within _CORE of a bone belongs to its part if the
# bones of all other parts are more than _OTHERS_AWAY away.
_CORE, _OTHERS_AWAY = 0.5, 1.0


def derive_cores(
    joints: np.ndarray,
    keypoint_schema: KeypointSchema,
    part_schema: PartSchema,
    shape: tuple[int, int],
) -> DerivedParts:
    """Derive the certain pixels of parts from a skeleton alone.

    A strip along every bone belongs to its part; pixels near the bones of two parts, and the rest
    of the image, are to be ignored. Strips tell little about shapes, but all that keypoints tell
    about sides.

    Args:
        joints, keypoint_schema, part_schema: as for `derive_parts`.
        shape: (H, W) of the image.

    Returns:
        As `derive_parts`, but ``ignore`` covers the whole image outside the strips. At the other
        pixels every part is known; those not listed are absent.

    Raises:
        ValueError: as `derive_parts`.
    """
    schema_pieces = _pieces_or_raise(part_schema)
    points = _labelled(joints, keypoint_schema)
    rows, columns = np.mgrid[: shape[0], : shape[1]].reshape(2, -1)
    pixels = np.stack([columns, rows], axis=1).astype(np.float32)
    distances = _distances(pixels, points, neck_is_head=_neck_is_head(part_schema))
    of_part = {
        part: np.min([distances[p] for p in pieces if p in distances], axis=0)
        for part, pieces in schema_pieces.items()
        if any(p in distances for p in pieces)
    }
    parts = {}
    for part, distance in of_part.items():
        # The torso's distance is at least _INSIDE_TORSO, and other parts may be in front of it.
        core = distance <= (_INSIDE_TORSO if part == "torso" else _CORE)
        for other, away in of_part.items():
            if other not in (part, "torso"):
                core &= away > _OTHERS_AWAY
        if core.any():
            parts[part] = core.reshape(shape)
    anywhere = np.any([*parts.values(), np.zeros(shape, dtype=bool)], axis=0)
    return DerivedParts(parts, ~anywhere)


def pieces_of(schema: PartSchema, pieces: Iterable[str]) -> dict[str, list[str]]:
    """Part of the schema -> the pieces whose union it is; an empty list if there are none.

    Pieces are named as in bodyparts-11, plus ``neck``: part of the head if the schema divides
    limbs, as in PASCAL-Person-Part, else of the torso.
    """
    parts: dict[str, list[str]] = {part: [] for part in schema.parts}
    for piece in pieces:
        limb = piece.replace("upper_", "").replace("lower_", "")
        names = [piece, f"{unsided_name(piece)}s", limb, f"{unsided_name(limb)}s"]
        if piece == "neck":
            names.append("head" if _neck_is_head(schema) else "torso")
        part = next((name for name in names if name in parts), None)
        if part is not None:
            parts[part].append(piece)
    return parts


def pieces_of_all(schema: PartSchema, pieces: Iterable[str], reason: str) -> dict[str, list[str]]:
    """As `pieces_of`. Raises ``ValueError`` with the reason if a part has no piece."""
    found = pieces_of(schema, pieces)
    without = [part for part, of_part in found.items() if not of_part]
    if without:
        raise ValueError(f"schema {schema.name}: {reason} {without}")
    return found


def _pieces_or_raise(schema: PartSchema) -> dict[str, list[str]]:
    return pieces_of_all(schema, _PIECES, "a skeleton does not tell of")


def _labelled(joints: np.ndarray, schema: KeypointSchema) -> dict[str, np.ndarray]:
    """Name -> (2,) x, y of the labelled keypoints."""
    if joints.shape != (len(schema), 3):
        raise ValueError(
            f"expected joints ({len(schema)}, 3) of {schema.name}, found {joints.shape}"
        )
    return {
        name: joint[:2].astype(float)
        for name, joint in zip(schema.keypoints, joints, strict=True)
        if joint[2] > 0
    }


def _neck_is_head(schema: PartSchema) -> bool:
    return any("upper_" in part for part in schema.parts)


def _is_hidden(piece: str, hidden: set[str]) -> bool:
    """Whether both keypoints of a limb are hidden. Head and torso never are: theirs lie inside."""
    ends = LIMBS.get(unsided_name(piece))
    if ends is None:
        return False
    side = piece.split("_")[0]
    return all(f"{side}_{end}" in hidden for end in ends)


def _distances(
    pixels: np.ndarray, points: Mapping[str, np.ndarray], *, neck_is_head: bool
) -> dict[str, np.ndarray]:
    """Distances of the pixels to the pieces whose keypoints are labelled.

    Args:
        pixels: (P, 2), x, y.
        points: keypoint -> (2,) x, y.
        neck_is_head: whether the neck belongs to the head.

    Returns:
        piece -> (P,), in half widths of the piece.
    """
    shoulders, hips = (_both(points, joint) for joint in ("shoulder", "hip"))
    neck = points.get("neck", np.mean(shoulders, axis=0) if len(shoulders) == 2 else None)
    head = _head_middle(points)
    trunk = _trunk_length(points, neck, head)
    if trunk == 0:
        return {}

    distances = {}
    if head is not None:
        begin = end = head
        if neck is not None:
            begin = neck + (_NECK_BEGINS if neck_is_head else _HEAD_BEGINS) * (head - neck)
            end = neck + _HEAD_ENDS * (head - neck)
        distances["head"] = distance_to_bone(pixels, begin, end)

    if len(shoulders) == 2 and not hips and head is not None:
        down = (neck - head) / max(_distance(neck, head), 1e-6)
        hips = [shoulder + _UPPER_TRUNK * trunk * down for shoulder in shoulders]
    if shoulders and hips:
        distances["torso"] = _distance_to_hull(pixels, [*shoulders, *hips])

    for limb, joints in LIMBS.items():
        for side in SIDES:
            begin, end = (points.get(f"{side}_{joint}") for joint in joints)
            if begin is not None and end is not None:
                end = end + _BEYOND.get(limb, 0) * (end - begin)
                distances[f"{side}_{limb}"] = distance_to_bone(pixels, begin, end)

    for piece in distances:
        width = _HALF_WIDTHS.get(piece) or _HALF_WIDTHS[unsided_name(piece)]
        distances[piece] /= width * trunk
    if "torso" in distances:
        distances["torso"] += _INSIDE_TORSO
    return distances


def _both(points: Mapping[str, np.ndarray], joint: str) -> list[np.ndarray]:
    """The right and the left keypoint, as far as they are labelled."""
    names = (f"{side}_{joint}" for side in SIDES)
    return [points[name] for name in names if name in points]


def _head_middle(points: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """(2,) middle of the head, or None if nothing of the head is labelled."""
    # In profile one ear counts as much as nose and eye together: the middle is between them.
    groups = [[points[name] for name in names if name in points] for names in (_EARS, _FACE)]
    if any(groups):
        return np.mean([np.mean(group, axis=0) for group in groups if group], axis=0)
    if "head_top" in points and "neck" in points:
        return points["neck"] + _HEAD_IN_NECK_TO_TOP * (points["head_top"] - points["neck"])
    return None


def _trunk_length(
    points: Mapping[str, np.ndarray], neck: np.ndarray | None, head: np.ndarray | None
) -> float:
    """The trunk length according to the least foreshortened distance; 0 if there is none."""
    lengths = [
        _distance(points[a], points[b]) / share
        for (a, b), share in _BETWEEN_JOINTS.items()
        if a in points and b in points
    ]
    shoulders, hips = (_both(points, joint) for joint in ("shoulder", "hip"))
    if shoulders and hips:
        lengths.append(_distance(np.mean(shoulders, axis=0), np.mean(hips, axis=0)))
    if neck is not None and head is not None:
        lengths.append(_distance(neck, head) / _NECK_TO_HEAD)
    return max(lengths, default=0.0)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.hypot(*(a - b)))


def distance_to_bone(pixels: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(P,) distances in pixels of (P, 2) points to the segment from begin to end."""
    along = (end - begin).astype(np.float32)
    offset = pixels - begin.astype(np.float32)
    squared = float(along @ along)
    place = np.clip(offset @ along / squared, 0, 1) if squared > 0 else np.zeros(len(pixels))
    return np.hypot(offset[:, 0] - place * along[0], offset[:, 1] - place * along[1])


def _distance_to_hull(pixels: np.ndarray, corners: Sequence[np.ndarray]) -> np.ndarray:
    """(P,) distances in pixels of (P, 2) points to the corners' convex hull; 0 inside it."""
    hull = cv2.convexHull(np.array(corners, dtype=np.float32))[:, 0]
    following = np.roll(hull, -1, axis=0)
    edges = [distance_to_bone(pixels, a, b) for a, b in zip(hull, following, strict=True)]
    distances = np.min(edges, axis=0)
    if len(hull) > 2:
        # A point is inside if it lies on the same side of every edge.
        turns = [
            (b[0] - a[0]) * (pixels[:, 1] - a[1]) - (b[1] - a[1]) * (pixels[:, 0] - a[0])
            for a, b in zip(hull, following, strict=True)
        ]
        distances[np.min(turns, axis=0) >= 0] = 0
        distances[np.max(turns, axis=0) <= 0] = 0
    return distances
