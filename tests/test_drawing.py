"""Drawing: colours, order, sides; looked at by eye as well, which no test replaces."""

from __future__ import annotations

import numpy as np
import pytest

from detectron2_bodyparts.drawing import draw_annotations, draw_people, grid, legend
from detectron2_bodyparts.people import People
from detectron2_bodyparts.records import encode_mask, ignore_annotation, person_annotation
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

SHAPE = (100, 120)
GRAY = np.full((*SHAPE, 3), 90, dtype=np.uint8)
RIGHT, LEFT = (0, 130, 255), (255, 220, 0)  # orange and cyan, BGR


def color_of(channel: str) -> list[int]:
    return list(BODYPARTS_7.colors[BODYPARTS_7.index(channel)][::-1])


def solid_people(boxes, parts, scores=None, keypoints=None) -> People:
    """People who fill their boxes, each all of one part."""
    probs = np.zeros((len(boxes), 7, 8, 8), dtype=np.float32)
    probs[:, 0] = 1
    for i, part in enumerate(parts):
        probs[i, BODYPARTS_7.index(part)] = 1
    scores = np.full(len(boxes), 0.9) if scores is None else scores
    return People(SHAPE, np.array(boxes), scores, probs, keypoints, BODYPARTS_7, COCO_17)


def mask(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    plane = np.zeros(SHAPE, dtype=bool)
    plane[y0:y1, x0:x1] = True
    return plane


def joints(**points) -> np.ndarray:
    """(17, 3) of the named joints; the others zero."""
    keypoints = np.zeros((17, 3))
    for name, point in points.items():
        keypoints[COCO_17.keypoints.index(name)] = point
    return keypoints


def near(pixel: np.ndarray, color: tuple[int, int, int]) -> bool:
    """Whether a smoothed line's pixel has the colour."""
    return bool(np.abs(pixel.astype(int) - color).max() < 30)


def reddish(pixel: np.ndarray) -> bool:
    blue, _, red = pixel.astype(int)
    return red > blue + 50


def test_parts_have_the_schemas_colours_in_bgr():
    people = solid_people([[10, 10, 50, 50]], ["head"])
    drawn = draw_people(GRAY, people, alpha=1.0)
    assert drawn[30, 30].tolist() == color_of("head")
    assert reddish(drawn[30, 30])  # the head is red: were RGB not turned to BGR, it would be blue
    half = draw_people(GRAY, people, alpha=0.5)
    np.testing.assert_allclose(half[30, 30], (np.array(color_of("head")) + 90) / 2, atol=1)


def test_the_picture_passed_in_stays_and_the_rest_is_untouched():
    before = GRAY.copy()
    drawn = draw_people(GRAY, solid_people([[10, 10, 50, 50]], ["head"]), boxes=False, alpha=0.3)
    np.testing.assert_array_equal(GRAY, before)
    outside = ~mask(9, 9, 51, 51)
    np.testing.assert_array_equal(drawn[outside], GRAY[outside])
    assert (drawn[~outside] != 90).any()


def test_smaller_people_are_in_front_whatever_their_score():
    boxes = [[30, 30, 60, 60], [10, 10, 110, 90]]
    people = solid_people(boxes, ["head", "torso"], scores=np.array([0.2, 0.9]))
    for order in ([0, 1], [1, 0]):
        drawn = draw_people(GRAY, people[np.array(order)], alpha=1.0)
        assert drawn[45, 45].tolist() == color_of("head")
        assert drawn[80, 80].tolist() == color_of("torso")


def test_a_body_without_parts_has_the_bodys_colour():
    people = solid_people([[10, 10, 50, 50]], ["head"])
    people.part_probs[:, 1:] = 0
    assert draw_people(GRAY, people, alpha=1.0)[30, 30].tolist() == color_of("body")


def test_sides_of_the_skeleton_are_told_apart_by_name():
    keypoints = joints(
        right_shoulder=(30.5, 30.5, 1),
        right_elbow=(30.5, 70.5, 1),
        left_shoulder=(80.5, 30.5, 1),
        left_elbow=(80.5, 70.5, 1),
    )[None]
    people = solid_people([[10, 10, 110, 90]], ["torso"], keypoints=keypoints)
    drawn = draw_people(GRAY, people, parts=False)
    assert near(drawn[50, 30], RIGHT)
    assert near(drawn[50, 80], LEFT)
    assert near(drawn[30, 55], (255, 255, 255))  # from shoulder to shoulder: neither side
    flipped = people.keypoints[:, list(COCO_17.flip_permutation)]
    people.keypoints[:] = flipped
    assert near(draw_people(GRAY, people, parts=False)[50, 30], LEFT)


def test_a_joint_is_drawn_on_its_pixel():
    people = solid_people([[0, 0, 20, 20]], ["torso"], keypoints=joints(nose=(40.5, 60.5, 1))[None])
    drawn = draw_people(GRAY, people, parts=False)
    changed = np.abs(drawn.astype(float) - GRAY).sum(axis=2)
    rows, columns = np.indices(SHAPE)
    assert np.average(rows, weights=changed) == pytest.approx(60, abs=0.25)
    assert np.average(columns, weights=changed) == pytest.approx(40, abs=0.25)


def test_unsure_joints_and_their_bones_are_left_out():
    keypoints = joints(right_shoulder=(30, 30, 0.5), right_elbow=(30, 70, 0.01))[None]
    people = solid_people([[10, 10, 110, 90]], ["torso"], keypoints=keypoints)
    drawn = draw_people(GRAY, people, parts=False)
    np.testing.assert_array_equal(drawn[40:], GRAY[40:])
    assert (drawn[:40] != 90).any()
    drawn = draw_people(GRAY, people, parts=False, joint_threshold=0.6)
    np.testing.assert_array_equal(drawn, GRAY)
    np.testing.assert_array_equal(draw_people(GRAY, people, parts=False, skeleton=False), GRAY)


def test_larger_people_have_thicker_bones():
    def painted_pixels(box) -> int:
        keypoints = joints(right_shoulder=(30, 30, 1), right_elbow=(30, 70, 1))[None]
        people = People((900, 900), np.array([box]), [0.9], None, keypoints, BODYPARTS_7, COCO_17)
        picture = np.zeros((900, 900, 3), np.uint8)
        return np.count_nonzero(draw_people(picture, people)[50].any(axis=1))

    assert painted_pixels([0, 0, 40, 80]) < painted_pixels([0, 0, 800, 800])


def test_boxes_only_where_asked_for():
    people = solid_people([[10, 30, 50, 70]], ["head"])
    with_box = draw_people(GRAY, people, parts=False, boxes=True)
    np.testing.assert_array_equal(draw_people(GRAY, people, parts=False), GRAY)
    assert (with_box[50, 8:12] != 90).any()
    assert (with_box[18:29] != 90).any()  # the score above the box


def test_nobody_leaves_the_picture_as_it_is():
    np.testing.assert_array_equal(
        draw_people(GRAY, solid_people([[0, 0, 9, 9]], ["head"])[:0]), GRAY
    )
    np.testing.assert_array_equal(draw_annotations(GRAY, [], BODYPARTS_7, COCO_17), GRAY)


@pytest.mark.parametrize(
    "image", [GRAY[..., 0], GRAY.astype(np.float32), np.zeros((*SHAPE, 4), np.uint8), GRAY[:50]]
)
def test_pictures_of_another_kind_are_refused(image):
    with pytest.raises(ValueError, match="image: expected"):
        draw_people(image, solid_people([[0, 0, 9, 9]], ["head"]))


def annotate(**kinds):
    return person_annotation(BODYPARTS_7, COCO_17, SHAPE, **kinds)


def draw(*annotations, boxes=False, alpha=1.0):
    return draw_annotations(GRAY, annotations, BODYPARTS_7, COCO_17, boxes=boxes, alpha=alpha)


ALL_KNOWN = dict.fromkeys(BODYPARTS_7.channels, "known")


def test_annotations_are_painted_like_predictions():
    drawn = draw(
        annotate(
            body=mask(10, 10, 50, 90), parts={"left_leg": mask(10, 50, 50, 90)}, states=ALL_KNOWN
        )
    )
    assert drawn[70, 30].tolist() == color_of("left_leg")
    assert drawn[30, 30].tolist() == color_of("body")
    people = solid_people([[10, 50, 50, 90]], ["left_leg"])
    inside = np.s_[52:88, 12:48]
    np.testing.assert_array_equal(drawn[inside], draw_people(GRAY, people, alpha=1.0)[inside])


def test_parts_without_a_body_are_painted_too():
    drawn = draw(annotate(parts={"head": mask(10, 50, 50, 90)}, bbox=(5, 45, 50, 50)))
    assert drawn[70, 30].tolist() == color_of("head")


def test_hidden_joints_are_hollow():
    drawn = draw(
        annotate(
            body=mask(0, 0, 120, 100),
            states=ALL_KNOWN,
            keypoints=joints(right_wrist=(30, 60, 1), left_wrist=(90, 60, 2)),
        )
    )
    assert drawn[60, 30].max() < 60  # dark middle
    assert near(drawn[60, 90], LEFT)


def test_joints_that_are_not_labelled_are_not_drawn():
    drawn = draw(annotate(body=mask(50, 50, 60, 60), states=ALL_KNOWN))
    np.testing.assert_array_equal(drawn[:40], GRAY[:40])


def test_crowds_and_ignored_pixels_are_hatched():
    crowd = draw(ignore_annotation(COCO_17, SHAPE, mask(10, 30, 110, 90)))
    inside = crowd[40:80, 20:100].reshape(-1, 3)
    assert {30, 90, 255} == set(np.unique(inside))  # dark and light stripes on the picture itself

    known = annotate(body=mask(10, 30, 50, 90), states=ALL_KNOWN)
    ignored = {**known, "ignore_segmentation": encode_mask(mask(10, 60, 50, 90))}
    assert len(np.unique(draw(known)[35:55, 15:45])) == 1
    assert len(np.unique(draw(ignored)[35:55, 15:45])) == 1
    assert len(np.unique(draw(ignored)[65:85, 15:45])) == 3


def test_unsided_parts_have_the_mean_of_both_colours():
    drawn = draw(annotate(body=mask(10, 30, 50, 90), unsided={"arm": mask(10, 30, 50, 90)}))
    both = [color_of("right_arm"), color_of("left_arm")]
    np.testing.assert_allclose(drawn[60, 30], np.mean(both, axis=0), atol=1)


def test_a_line_of_text_only_where_something_is_not_plainly_known():
    body = mask(10, 40, 100, 90)
    above = np.s_[20:38, :]
    plain = draw(annotate(body=body, states=ALL_KNOWN))
    np.testing.assert_array_equal(plain[above], GRAY[above])

    def note_width(states) -> int:
        changed = (draw(annotate(body=body, states=states))[above] != 90).any(axis=(0, 2))
        return np.count_nonzero(changed)

    without_torso = {k: v for k, v in ALL_KNOWN.items() if k != "torso"}
    unknown = note_width(without_torso)
    assert unknown > 30
    assert note_width({**without_torso, "head": "derived"}) > unknown
    assert note_width({**ALL_KNOWN, "head": "derived"}) > 30


def test_notes_stay_in_a_picture_smaller_than_they_are():
    image = np.zeros((10, 12, 3), np.uint8)
    body = np.ones((10, 12), bool)
    tiny = person_annotation(BODYPARTS_7, COCO_17, (10, 12), body=body)
    assert draw_annotations(image, [tiny], BODYPARTS_7, COCO_17).shape == image.shape


@pytest.mark.parametrize("height", [7, 60, 480])
def test_the_legend_shows_every_colour_in_order(height):
    strip = legend(BODYPARTS_7, height)
    assert strip.shape[0] == height and strip.dtype == np.uint8
    row = min(height // 7, 24)
    for i, color in enumerate(BODYPARTS_7.colors):
        assert strip[i * row + row // 2, row // 2].tolist() == list(color[::-1])
    with pytest.raises(ValueError, match="height"):
        legend(BODYPARTS_7, 6)


def test_a_grid_keeps_the_shape_of_its_pictures():
    red, blue = (np.full((20, 10, 3), c, np.uint8) for c in ((0, 0, 255), (255, 0, 0)))
    page = grid([red, blue, red], columns=2, cell=(40, 60))
    assert page.shape == (80, 120, 3)
    is_red = (page == (0, 0, 255)).all(axis=2)
    is_blue = (page == (255, 0, 0)).all(axis=2)
    assert is_red[:40, 20:40].all() and is_red[40:, 20:40].all()  # 40 x 20, in the cell's middle
    assert is_blue[:40, 80:100].all()
    assert np.count_nonzero(is_red) == 2 * np.count_nonzero(is_blue) == 2 * 40 * 20
