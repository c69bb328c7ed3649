"""Copy-paste augmentation: people cut out of one training image and pasted into another."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from ..records import mask_box
from ..structures import BODY_BIT, IGNORE_BIT, UNKNOWN

# Number of recent images whose people are kept for pasting.
DONORS = 32
# The people of an image are neither kept nor pasted if together they have fewer visible pixels.
LEAST_PIXELS = 400


@dataclass(frozen=True)
class Target:
    """Ground truth of a person, or of an ignore region, in the augmented image."""

    box: tuple[float, ...]  # XYXY in pixels
    label: int  # 0, or proposals.IGNORE_CLASS
    plane: np.ndarray | None = None  # (H, W) uint8, as structures.part_plane
    state: np.ndarray | None = None  # (C + U,) uint8, as structures.part_plane
    joints: np.ndarray | None = None  # (K, 3) of x, y in continuous coordinates and v

    @property
    def has_body(self) -> bool:
        """Whether the body mask is known."""
        return self.state is not None and self.state[0] != UNKNOWN

    def without(self, hidden: np.ndarray) -> Target | None:
        """The target without ``hidden`` (H, W) bool; None if nothing of a known body is left."""
        if self.plane is None:
            return self
        plane, box, joints = self.plane * ~hidden, self.box, self.joints
        if self.has_body:
            box = visible_box(box, plane)
            if box is None:
                return None
        if joints is not None:
            height, width = hidden.shape
            x = joints[:, 0].astype(int).clip(0, width - 1)
            y = joints[:, 1].astype(int).clip(0, height - 1)
            joints = np.where(hidden[y, x][:, None], 0, joints)
        return replace(self, plane=plane, box=box, joints=joints)

    def moved(self, dx: int, dy: int, shape: tuple[int, int]) -> Target:
        """The target, which must have a plane, shifted in an image of ``shape`` (H, W)."""
        height, width = shape
        box = np.add(self.box, (dx, dy, dx, dy)).clip(0, (width, height, width, height))
        joints = self.joints
        if joints is not None:
            joints = labelled_inside(joints + np.array([dx, dy, 0]), shape)
        return replace(self, plane=moved(self.plane, dx, dy, shape), box=tuple(box), joints=joints)


class CopyPaste:
    """Pastes the people of an earlier image in front of those of an image.

    Ghiasi et al., Simple Copy-Paste (2021). All people of an image whose body masks are known are
    cut out together along these, and their centre is placed anywhere in the other image. People
    who become occluded lose the hidden pixels and keypoints, and are dropped if nothing of a known
    body is left.

    Earlier images are the last `DONORS` passed to this object, as augmented, that have enough
    pixels of such people; so no dataset is read twice. Each process has its own.
    """

    def __init__(self, probability: float) -> None:
        """
        Args:
            probability: probability of pasting people into an image, 0..1.
        """
        self.probability = probability
        self._donors: deque = deque(maxlen=DONORS)

    def __call__(self, image: np.ndarray, targets: list[Target]) -> tuple[np.ndarray, list[Target]]:
        """
        Args:
            image: (H, W, 3), augmented.
            targets: its ground truth.

        Returns:
            Image and targets, the same or new ones; the arguments are not modified.
        """
        donors = list(self._donors)
        people = [t for t in targets if t.label == 0 and t.has_body]
        cutout = _silhouettes(people, targets, image.shape[:2])
        if np.count_nonzero(cutout) >= LEAST_PIXELS:
            self._donors.append(_cropped(image, cutout, people))
        if not donors or np.random.rand() >= self.probability:
            return image, targets

        shape = image.shape[:2]
        donor, cutout, people = donors[np.random.randint(len(donors))]
        dx = np.random.randint(shape[1]) - cutout.shape[1] // 2
        dy = np.random.randint(shape[0]) - cutout.shape[0] // 2
        front = moved(cutout, dx, dy, shape)
        if np.count_nonzero(front) < LEAST_PIXELS:
            return image, targets
        image = np.where(front[:, :, None], moved(donor, dx, dy, shape), image)
        behind = [t.without(front) for t in targets]
        pasted = [t.moved(dx, dy, shape).without(~front) for t in people]
        return image, [t for t in (*behind, *pasted) if t is not None]


def visible_box(box: tuple[float, ...], plane: np.ndarray) -> tuple[float, ...] | None:
    """The box of a person's mask in an image, which may have been cropped.

    Ignored pixels inside the labelled box may be theirs, too, and are included: where people
    overlap, boxes would otherwise be too small.

    Args:
        box: the labelled box, XYXY in pixels, inside the image.
        plane: (H, W) uint8, see `structures.part_plane`, of a person whose body is known.

    Returns:
        XYXY in pixels, or None if nothing is visible.
    """
    x0, y0 = np.floor(box[:2]).astype(int)
    x1, y1 = np.ceil(box[2:]).astype(int)
    seen = (plane & BODY_BIT) != 0
    seen[y0:y1, x0:x1] |= plane[y0:y1, x0:x1] >= IGNORE_BIT
    return mask_box(seen)


def labelled_inside(joints: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(K, 3) keypoints; unlabelled ones and those outside an image of ``shape`` (H, W) zeroed."""
    inside = ((joints[:, :2] >= 0) & (joints[:, :2] <= shape[::-1])).all(axis=1)
    return np.where((inside & (joints[:, 2] != 0))[:, None], joints, 0)


def moved(array: np.ndarray, dx: int, dy: int, shape: tuple[int, int]) -> np.ndarray:
    """Shift (H, W, ...) right and down by pixels, zero-padded or cut to ``shape`` (H', W')."""
    out = np.zeros((*shape, *array.shape[2:]), array.dtype)
    height = min(shape[0] - max(dy, 0), array.shape[0] - max(-dy, 0))
    width = min(shape[1] - max(dx, 0), array.shape[1] - max(-dx, 0))
    if height > 0 and width > 0:
        there = slice(max(dy, 0), max(dy, 0) + height), slice(max(dx, 0), max(dx, 0) + width)
        here = slice(max(-dy, 0), max(-dy, 0) + height), slice(max(-dx, 0), max(-dx, 0) + width)
        out[there] = array[here]
    return out


def _cropped(
    image: np.ndarray, cutout: np.ndarray, people: list[Target]
) -> tuple[np.ndarray, np.ndarray, list[Target]]:
    """The three, cropped to the cut-out to save memory."""
    x0, y0, x1, y1 = mask_box(cutout)
    here, shape = (slice(y0, y1), slice(x0, x1)), (y1 - y0, x1 - x0)
    return image[here].copy(), cutout[here].copy(), [p.moved(-x0, -y0, shape) for p in people]


def _silhouettes(people: list[Target], targets: list[Target], shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the people's bodies without any target's ignored pixels."""
    bodies, ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    for person in people:
        bodies |= person.plane & BODY_BIT != 0
    for target in targets:
        if target.plane is not None:
            ignored |= target.plane >= IGNORE_BIT
    return bodies & ~ignored
