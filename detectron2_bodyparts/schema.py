"""Names of part channels and keypoints, and everything derived from them.

Part and keypoint names are defined in schemas only. Sides, flips, paint order and the matching of
keypoints between datasets are derived from the names, so a schema of your own takes a few lines:

    >>> from detectron2_bodyparts.schema import PartSchema, register_part_schema
    >>> hands = PartSchema("hands", ("body", "right_hand", "left_hand"))
    >>> hands.flip_permutation
    (0, 2, 1)
    >>> register_part_schema(hands)

Sides are always the person's own, never the viewer's.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

BODY = "body"
SIDES = ("right", "left")

# Unsided part names, from the innermost outwards: where two masks overlap, the later one wins, so
# that an arm in front of the chest is arm.
_PAINT_ORDER = (
    ("torso",),
    ("head",),
    ("upper_leg", "upper_legs"),
    ("leg", "legs", "lower_leg", "lower_legs", "foot", "feet"),
    ("upper_arm", "upper_arms"),
    ("arm", "arms", "lower_arm", "lower_arms", "hand", "hands"),
)


def mirrored_name(name: str) -> str:
    """The name with its side swapped: ``right_arm`` -> ``left_arm``; unsided names are kept."""
    for side, other in (SIDES, SIDES[::-1]):
        if name.startswith(side + "_"):
            return other + name[len(side) :]
    return name


def unsided_name(name: str) -> str:
    """The name without its side: ``right_arm`` -> ``arm``; unsided names are kept."""
    for side in SIDES:
        if name.startswith(side + "_"):
            return name[len(side) + 1 :]
    return name


def _flip_permutation(kind: str, owner: str, names: tuple[str, ...]) -> tuple[int, ...]:
    if len(set(names)) != len(names):
        raise ValueError(f"{owner}: {kind} names repeat: {names}")
    permutation = []
    for name in names:
        if unsided_name(name) == name and {"r", "l", *SIDES} & set(name.lower().split("_")):
            raise ValueError(f"{owner}: {kind} {name!r}: sides are written right_ and left_ first")
        mirrored = mirrored_name(name)
        if mirrored not in names:
            raise ValueError(f"{owner}: {kind} {name!r} has no counterpart {mirrored!r}")
        permutation.append(names.index(mirrored))
    return tuple(permutation)


def _sided_pairs(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    return tuple(
        (i, names.index(mirrored_name(name)))
        for i, name in enumerate(names)
        if name.startswith("right_")
    )


def _distinct_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    colors = []
    for i in range(count):
        rgb = colorsys.hsv_to_rgb(i / max(count, 1), 0.75, 0.95 if i % 2 == 0 else 0.7)
        colors.append(tuple(round(255 * c) for c in rgb))
    return tuple(colors)


@dataclass(frozen=True)
class PartSchema:
    """The channels of a part model.

    Args:
        name: the schema's name, as used in configs and record files.
        channels: channel names. The first is ``body``, the whole silhouette, which contains the
            others; the others ("parts") are mutually exclusive. At most 63 parts and unions in
            total, because a pixel's part is stored in six bits.
        colors: RGB in 0..255, one per channel; generated if omitted.

    Raises:
        ValueError: ``body`` is not first, names repeat, a sided name has no counterpart, a side is
            not written as the prefix ``right_`` or ``left_``, there are too many names, or the
            number of colors is wrong.
    """

    name: str
    channels: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not self.channels or self.channels[0] != BODY:
            raise ValueError(f"{self.name}: the first channel must be {BODY!r}: {self.channels}")
        if not self.colors:
            object.__setattr__(self, "colors", _distinct_colors(len(self.channels)))
        if len(self.colors) != len(self.channels):
            raise ValueError(
                f"{self.name}: {len(self.channels)} channels but {len(self.colors)} colors"
            )
        _ = self.flip_permutation  # checks that counterparts exist, which unions rely on
        if len(self.parts) + len(self.all_unions) > 63:
            raise ValueError(f"{self.name}: at most 63 parts and unions, six bits hold no more")

    @property
    def parts(self) -> tuple[str, ...]:
        """The channels without ``body``. Part ``i`` of a label map is ``channels[i]``, 1-based."""
        return self.channels[1:]

    def index(self, channel: str) -> int:
        """The channel's index. Raises ``KeyError``, listing the channels, if there is none."""
        if channel not in self.channels:
            raise KeyError(f"schema {self.name} has no channel {channel!r}, only {self.channels}")
        return self.channels.index(channel)

    @cached_property
    def flip_permutation(self) -> tuple[int, ...]:
        """``flipped[c] = channels[flip_permutation[c]]``; its own inverse."""
        return _flip_permutation("channel", self.name, self.channels)

    @cached_property
    def sided_pairs(self) -> tuple[tuple[int, int], ...]:
        """(right, left) channel indices of every sided pair."""
        return _sided_pairs(self.channels)

    @cached_property
    def kinds(self) -> tuple[tuple[int, int], ...]:
        """(right, left) channel indices of every kind of part; both are equal if it is unsided."""
        parts = list(enumerate(self.flip_permutation))[1:]
        return tuple((i, j) for i, j in parts if i == j or (i, j) in self.sided_pairs)

    @cached_property
    def unions(self) -> dict[str, tuple[int, int]]:
        """Unsided name, e.g. ``arm`` -> the (right, left) channel indices that it unites."""
        return {unsided_name(self.channels[r]): (r, left) for r, left in self.sided_pairs}

    @cached_property
    def limb_unions(self) -> dict[str, tuple[int, ...]]:
        """Limb, e.g. ``right_arm`` or ``arm`` -> indices of its upper and lower channels."""
        limbs: dict[str, list[int]] = {}
        for i, name in enumerate(self.channels):
            whole = name.replace("upper_", "").replace("lower_", "")
            if whole != name:
                for limb in dict.fromkeys((whole, unsided_name(whole))):
                    limbs.setdefault(limb, []).append(i)
        return {limb: tuple(m) for limb, m in limbs.items() if limb not in self.channels}

    @cached_property
    def all_unions(self) -> dict[str, tuple[int, ...]]:
        """`unions` and `limb_unions`: what labels in a coarser schema can supervise here."""
        return {**self.unions, **self.limb_unions}

    @cached_property
    def members(self) -> dict[str, tuple[int, ...]]:
        """Channel or one of `all_unions` -> indices of its member channels."""
        return {name: (i,) for i, name in enumerate(self.channels)} | self.all_unions

    def names_in(self, finer: PartSchema) -> dict[str, str]:
        """The names of this schema's channels and unions in a finer schema.

        Returns:
            Name here -> a channel or union of ``finer``. A plural is the union over sides, such as
            pascal-person-part's ``upper_arms``.

        Raises:
            ValueError: a channel or union has no counterpart in ``finer``.
        """
        names = {}
        for name in self.members:
            names[name] = name if name in finer.members else name.removesuffix("s")
            if names[name] not in finer.members:
                raise ValueError(f"{self.name} is no view of {finer.name}, which has no {name!r}")
        return names

    def is_view_of(self, finer: PartSchema) -> bool:
        """Whether every channel and union here is a channel or union of ``finer``."""
        try:
            return bool(self.names_in(finer))
        except ValueError:
            return False

    @cached_property
    def paint_order(self) -> tuple[str, ...]:
        """The parts in the order they are painted: where masks overlap, the later one wins."""

        def rank(part: str) -> int:
            for i, names in enumerate(_PAINT_ORDER):
                if unsided_name(part) in names:
                    return i
            return len(_PAINT_ORDER)

        return tuple(sorted(self.parts, key=rank))


@dataclass(frozen=True)
class KeypointSchema:
    """The keypoints of a skeleton.

    Args:
        name: the schema's name.
        keypoints: keypoint names, in the order of the data.
        skeleton: bones as pairs of keypoint names; if omitted, common bones between them.
        sigmas: per-keypoint constants of object keypoint similarity (COCO's ``k / 2``); if omitted,
            the known ones by name, or a default.

    Raises:
        ValueError: names repeat, a bone refers to an unknown keypoint, there are not as many sigmas
            as keypoints, or a side is not written as `PartSchema` requires.
    """

    name: str
    keypoints: tuple[str, ...]
    skeleton: tuple[tuple[str, str], ...] = ()
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.sigmas:
            sigmas = tuple(_SIGMAS.get(unsided_name(k), _DEFAULT_SIGMA) for k in self.keypoints)
            object.__setattr__(self, "sigmas", sigmas)
        if not self.skeleton:
            names = set(self.keypoints)
            bones = tuple(bone for bone in _BONES if names.issuperset(bone))
            object.__setattr__(self, "skeleton", bones)
        if len(self.sigmas) != len(self.keypoints):
            raise ValueError(
                f"{self.name}: {len(self.keypoints)} joints but {len(self.sigmas)} sigmas"
            )
        for bone in self.skeleton:
            if not set(bone) <= set(self.keypoints):
                raise ValueError(f"{self.name}: bone {bone} names no joint of {self.keypoints}")
        _ = self.flip_permutation

    def __len__(self) -> int:
        return len(self.keypoints)

    @cached_property
    def flip_permutation(self) -> tuple[int, ...]:
        """``flipped[k] = keypoints[flip_permutation[k]]``; its own inverse."""
        return _flip_permutation("joint", self.name, self.keypoints)

    @cached_property
    def flip_map(self) -> tuple[tuple[str, str], ...]:
        """(right, left) names: Detectron2's ``keypoint_flip_map``."""
        return tuple((self.keypoints[r], self.keypoints[left]) for r, left in self.sided_pairs)

    @cached_property
    def sided_pairs(self) -> tuple[tuple[int, int], ...]:
        """(right, left) keypoint indices of every sided pair."""
        return _sided_pairs(self.keypoints)

    @cached_property
    def bones(self) -> tuple[tuple[int, int], ...]:
        """The skeleton as pairs of 0-based keypoint indices."""
        return tuple((self.keypoints.index(a), self.keypoints.index(b)) for a, b in self.skeleton)

    def match(self, other: KeypointSchema) -> tuple[int, ...]:
        """For each keypoint here, the index of the one with the same name in ``other``, or -1."""
        return tuple(
            other.keypoints.index(k) if k in other.keypoints else -1 for k in self.keypoints
        )

    def take(self, joints: np.ndarray, other: KeypointSchema) -> np.ndarray:
        """Reorder keypoints of another schema to this one, matched by name.

        Args:
            joints: (..., K', 3), x, y and visibility or score.
            other: the schema of the K' keypoints.

        Returns:
            (..., K, 3), with zeros for the keypoints that ``other`` lacks.

        Raises:
            ValueError: the number of keypoints is not that of ``other``.
        """
        if joints.shape[-2] != len(other):
            raise ValueError(
                f"expected {len(other)} joints of {other.name}, found {joints.shape[-2]}"
            )
        source = np.array(self.match(other))
        return np.where((source >= 0)[:, None], joints[..., source, :], 0)


# COCO's sigmas (cocodataset.org, keypoint evaluation). J-HMDB's own list agrees with them for
# shared names and has .025 for neck and face, .107 for belly. LSP's head top has no published
# sigma: the nose's is used.
_SIGMAS = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
    "neck": 0.025,
    "face": 0.025,
    "belly": 0.107,
    "head_top": 0.026,
}
_DEFAULT_SIGMA = 0.079  # a shoulder's: neither the tightest nor the loosest


def _both(a: str, b: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"{side}_{a}", f"{side}_{b}") for side in SIDES)


# A skeleton has by default those of these bones whose two keypoints are in the schema.
_BONES = (
    *_both("ankle", "knee"),
    *_both("knee", "hip"),
    ("right_hip", "left_hip"),
    *_both("hip", "shoulder"),
    ("right_shoulder", "left_shoulder"),
    *_both("shoulder", "elbow"),
    *_both("elbow", "wrist"),
    ("right_eye", "left_eye"),
    ("nose", "right_eye"),
    ("nose", "left_eye"),
    *_both("eye", "ear"),
    *_both("ear", "shoulder"),
    ("neck", "face"),
    ("neck", "belly"),
    ("neck", "head_top"),
)

# For both seven-channel schemas: body, head, torso, then two pairs of limbs, dark and light.
_SEVEN_COLORS = (
    (200, 200, 200),
    (230, 60, 60),
    (245, 190, 50),
    (40, 160, 70),
    (140, 220, 110),
    (40, 90, 220),
    (110, 190, 245),
)

BODYPARTS_7 = PartSchema(
    "bodyparts-7",
    ("body", "head", "torso", "right_arm", "left_arm", "right_leg", "left_leg"),
    colors=_SEVEN_COLORS,
)

PASCAL_PERSON_PART = PartSchema(
    "pascal-person-part",
    ("body", "head", "torso", "upper_arms", "lower_arms", "upper_legs", "lower_legs"),
    colors=_SEVEN_COLORS,
)

# Sided upper and lower limbs; hands belong to the lower arms, feet to the lower legs. Merging sides
# gives pascal-person-part, merging upper and lower limbs bodyparts-7 (except for the neck).
BODYPARTS_11 = PartSchema(
    "bodyparts-11",
    (
        "body",
        "head",
        "torso",
        "right_upper_arm",
        "left_upper_arm",
        "right_lower_arm",
        "left_lower_arm",
        "right_upper_leg",
        "left_upper_leg",
        "right_lower_leg",
        "left_lower_leg",
    ),
    colors=(
        (200, 200, 200),
        (230, 60, 60),
        (245, 190, 50),
        (20, 110, 50),
        (100, 190, 80),
        (60, 180, 100),
        (180, 240, 150),
        (30, 60, 170),
        (80, 160, 230),
        (80, 120, 250),
        (160, 220, 250),
    ),
)

COCO_17 = KeypointSchema(
    "coco-17",
    (
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
)

JHMDB_15 = KeypointSchema(
    "jhmdb-15",
    (
        "neck",
        "belly",
        "face",
        "right_shoulder",
        "left_shoulder",
        "right_hip",
        "left_hip",
        "right_elbow",
        "left_elbow",
        "right_knee",
        "left_knee",
        "right_wrist",
        "left_wrist",
        "right_ankle",
        "left_ankle",
    ),
)

LSP_14 = KeypointSchema(
    "lsp-14",
    (
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "neck",
        "head_top",
    ),
)

# All keypoints of the three, COCO's first: a model with this schema can train on any of them.
UNION_21 = KeypointSchema(
    "union-21", tuple(dict.fromkeys(COCO_17.keypoints + JHMDB_15.keypoints + LSP_14.keypoints))
)

_PART_SCHEMAS = {s.name: s for s in (BODYPARTS_7, BODYPARTS_11, PASCAL_PERSON_PART)}
_KEYPOINT_SCHEMAS = {s.name: s for s in (COCO_17, JHMDB_15, LSP_14, UNION_21)}


def _register(registry: dict, schema) -> None:
    known = registry.get(schema.name)
    if known is not None and known != schema:
        raise ValueError(f"another schema is already called {schema.name!r}")
    registry[schema.name] = schema


def _get(kind: str, registry: dict, name: str):
    if name not in registry:
        raise KeyError(f"no {kind} schema {name!r}; there are {sorted(registry)}")
    return registry[name]


def register_part_schema(schema: PartSchema) -> None:
    """Register a schema by its name. Raises ``ValueError`` if a different one has that name."""
    _register(_PART_SCHEMAS, schema)


def register_keypoint_schema(schema: KeypointSchema) -> None:
    """Register a schema by its name. Raises ``ValueError`` if a different one has that name."""
    _register(_KEYPOINT_SCHEMAS, schema)


def get_part_schema(name: str) -> PartSchema:
    """The part schema of that name. Raises ``KeyError``, listing the known ones, if none."""
    return _get("part", _PART_SCHEMAS, name)


def get_keypoint_schema(name: str) -> KeypointSchema:
    """The keypoint schema of that name. Raises ``KeyError``, listing the known ones, if none."""
    return _get("keypoint", _KEYPOINT_SCHEMAS, name)
