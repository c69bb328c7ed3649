"""People: pasting, label maps, selection, JSON. Joints and boxes are worked out by hand."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools.coco import COCO

from detectron2_bodyparts.people import People
from detectron2_bodyparts.records import decode_mask, encode_mask
from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    BODYPARTS_11,
    COCO_17,
    LSP_14,
    PASCAL_PERSON_PART,
    KeypointSchema,
    PartSchema,
)

HEAD, TORSO = BODYPARTS_7.index("head"), BODYPARTS_7.index("torso")
TWO_PARTS = PartSchema("two-parts", ("body", "head", "torso"))
ONE_JOINT = KeypointSchema("one-joint", ("nose",))


def make_people(probs, boxes, image_size, scores=None, keypoints=None) -> People:
    """People of as many of `BODYPARTS_7`'s first channels as are given; the rest stay empty."""
    probs = np.asarray(probs, dtype=np.float32)
    count, given, size = probs.shape[:3]
    full = np.zeros((count, 7, size, size), dtype=np.float32)
    full[:, :given] = probs
    scores = np.full(count, 0.9) if scores is None else scores
    return People(image_size, np.array(boxes), scores, full, keypoints, BODYPARTS_7, COCO_17)


def random_people(seed: int = 0, count: int = 3, image_size=(60, 80)) -> People:
    rng = np.random.default_rng(seed)
    probs = rng.random((count, 7, 14, 14))
    probs[:, 0] += 0.3  # a body with holes, but more body than not
    corners = rng.uniform((-5, -5), (50, 40), (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(8, 40, (count, 2))], axis=1)
    keypoints = rng.uniform(0, 60, (count, 17, 3))
    return make_people(np.minimum(probs, 1), boxes, image_size, rng.random(count), keypoints)


def test_a_full_mask_fills_the_pixels_whose_centres_are_in_the_box():
    people = make_people(np.ones((1, 2, 4, 4)), [[2, 1, 5, 3]], (6, 8))
    expected = np.zeros((6, 8), dtype=bool)
    expected[1:3, 2:5] = True
    np.testing.assert_array_equal(people[0].body, expected)
    np.testing.assert_array_equal(people[0].part("head"), expected)


def test_a_mask_is_sampled_at_pixel_centres():
    # One row of four samples in a box of eight pixels: pixel x is at mask (x + 0.5) / 2 - 0.5, so
    # pixels 1 to 4 lie at 0.25, 0.75, 1.25, 1.75. Of the samples 0, 1, 0, 0 they get 0.25, 0.75,
    # 0.75, 0.25.
    row = np.array([0, 1, 0, 0])
    people = make_people(np.tile(row, (1, 2, 4, 1)), [[0, 0, 8, 8]], (8, 8))
    np.testing.assert_array_equal(np.flatnonzero(people[0].body[4]), [2, 3])


def test_rows_and_columns_are_not_exchanged():
    probs = np.zeros((1, 2, 4, 4))
    probs[0, :, 0, 3] = 1  # first row, last column: the box's upper right corner
    people = make_people(probs, [[10, 20, 14, 24]], (40, 30))
    assert np.argwhere(people[0].part("head")).tolist() == [[20, 13]]


@pytest.mark.parametrize(
    "box, pixels",
    [
        ([-3, -2, 2, 2], 2 * 2),
        ([7, 5, 11, 9], 1 * 1),
        ([0, 0, 8, 6], 8 * 6),
        ([2.6, 2, 3.4, 3], 0),  # no pixel's centre inside
        ([2.5, 3, 2.5, 5], 0),  # no width, just at a pixel's centre
        ([3, 3, 1, 5], 0),  # a negative width
        ([20, 20, 30, 30], 0),  # outside the picture
        ([-30, -30, -20, -20], 0),
    ],
)
def test_boxes_beyond_the_picture_or_without_pixels(box, pixels):
    person = make_people(np.ones((1, 2, 4, 4)), [box], (6, 8))[0]
    assert np.count_nonzero(person.body) == pixels
    assert np.count_nonzero(person.label_map()) == pixels
    assert np.count_nonzero(decode_mask(person.to_json()["segmentation"])) == pixels


def test_the_surest_part_wins_and_the_body_clips():
    # Columns of a 4x4 mask on 4x4 pixels: body, head and torso probabilities.
    body = [0.9, 0.9, 0.9, 0.4]
    head = [0.8, 0.6, 0.4, 0.9]
    torso = [0.6, 0.7, 0.5, 0.9]
    probs = np.tile(np.array([body, head, torso])[None, :, None, :], (1, 1, 4, 1))
    labels = make_people(probs, [[0, 0, 4, 4]], (4, 4))[0].label_map()
    np.testing.assert_array_equal(labels[0], [HEAD, TORSO, TORSO, 0])


def test_a_pixel_has_its_likeliest_part_unless_none_is_likelier():
    # Columns: none (0.45) likelier than either; none (0.2) less likely; a tie of two goes to the
    # first channel; one of part and none to the part.
    body = [0.9, 0.9, 0.9, 0.9]
    head = [0.25, 0.3, 0.4, 0.0]
    torso = [0.3, 0.5, 0.4, 0.5]
    probs = np.tile(np.array([body, head, torso])[None, :, None, :], (1, 1, 4, 1))
    labels = make_people(probs, [[0, 0, 4, 4]], (4, 4))[0].label_map()
    np.testing.assert_array_equal(labels[0], [0, TORSO, HEAD, TORSO])


def test_a_limb_is_found_before_its_side():
    # Either arm is less likely than the torso and than none (0.25); an arm is not.
    probs = np.zeros((1, 7, 4, 4))
    for channel, p in (("body", 1), ("torso", 0.3), ("right_arm", 0.22), ("left_arm", 0.23)):
        probs[0, BODYPARTS_7.index(channel)] = p
    labels = make_people(probs, [[0, 0, 4, 4]], (4, 4))[0].label_map()
    assert set(np.unique(labels)) == {BODYPARTS_7.index("left_arm")}


def test_a_view_over_sides_has_the_label_map_of_the_finer_schema():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(11, 0.5), (2, 28, 28)).transpose(0, 3, 1, 2)
    probs[:, 0] = 0.9
    boxes = np.array([[3, 2, 40, 50], [20, 5, 70, 58]])
    people = People((60, 80), boxes, np.ones(2), probs, None, BODYPARTS_11, COCO_17)
    of_union = np.zeros(11, np.uint8)
    names = PASCAL_PERSON_PART.names_in(BODYPARTS_11)
    for i, channel in enumerate(PASCAL_PERSON_PART.channels):
        of_union[list(BODYPARTS_11.members[names[channel]])] = i
    viewed = people.view(PASCAL_PERSON_PART).label_map()
    assert set(np.unique(viewed)) == set(range(7))
    np.testing.assert_array_equal(of_union[people.label_map()], viewed)


def test_parts_agree_with_the_label_map_and_the_crop():
    for person in random_people():
        labels = person.label_map()
        assert set(np.unique(labels)) == set(range(7))
        for name in BODYPARTS_7.parts:
            np.testing.assert_array_equal(person.part(name), labels == BODYPARTS_7.index(name))
        assert not (labels.astype(bool) & ~person.part("body")).any()
        crop = person.crop()
        np.testing.assert_array_equal(labels[crop.slices], crop.labels)
        np.testing.assert_array_equal(person.body[crop.slices], crop.body)
        assert np.count_nonzero(labels) == np.count_nonzero(crop.labels)


@pytest.mark.filterwarnings("ignore")  # of Detectron2's own imports
def test_pasting_is_detectron2s():
    pytest.importorskip("detectron2")
    torch = pytest.importorskip("torch")
    from detectron2.layers import paste_masks_in_image

    people = random_people(seed=1, count=40)
    boxes = torch.as_tensor(people.boxes)
    probs = torch.as_tensor(people.part_probs)
    different = total = 0
    for channel in (0, HEAD):
        # With the parts' probabilities in the body's channel, the body is the part, unclipped.
        ours = make_people(people.part_probs[:, [channel]], people.boxes, people.image_size)
        theirs = paste_masks_in_image(probs[:, channel], boxes, people.image_size).numpy()
        for person, expected in zip(ours, theirs, strict=True):
            different += np.count_nonzero(person.body != expected)
            total += np.count_nonzero(expected)
    assert total > 10_000
    assert different <= 2  # single precision on either side of 0.5


def test_a_sequence_of_people():
    people = random_people(count=4)
    assert len(people) == 4
    assert [p.score for p in people] == people.scores.tolist()
    assert people[-1].score == people[3].score
    with pytest.raises(IndexError):
        people[4]

    tail = people[1:3]
    assert isinstance(tail, People)
    np.testing.assert_array_equal(tail.boxes, people.boxes[1:3])
    np.testing.assert_array_equal(tail.keypoints, people.keypoints[1:3])
    np.testing.assert_array_equal(tail[0].label_map(), people[1].label_map())

    people.scores[:] = [0.25, 0.5, 0.75, 0.5]
    kept = people.confident(0.5)
    assert kept.scores.tolist() == [0.5, 0.75, 0.5]
    np.testing.assert_array_equal(kept.boxes, people.boxes[1:])


def test_the_surest_person_is_painted_last():
    boxes = [[0, 0, 4, 4], [2, 0, 6, 4], [4, 0, 8, 4]]
    probs = np.zeros((3, 3, 4, 4))
    probs[:, 0] = 1
    probs[[0, 2], HEAD] = 1
    probs[1, TORSO] = 1
    people = make_people(probs, boxes, (4, 8), scores=np.array([0.5, 0.9, 0.7]))
    np.testing.assert_array_equal(people.person_map()[0], [1, 1, 2, 2, 2, 2, 3, 3])
    h, t = HEAD, TORSO
    np.testing.assert_array_equal(people.label_map()[0], [h, h, t, t, t, t, h, h])

    equal = make_people(probs, boxes, (4, 8), scores=np.full(3, 0.5))
    np.testing.assert_array_equal(equal.person_map()[0], [1, 1, 1, 1, 2, 2, 3, 3])


def test_nobody_shows_through_a_silhouette():
    probs = np.zeros((2, 2, 4, 4))
    probs[:, 0] = 1
    probs[0, HEAD] = 1  # the person in front has a body and no part
    people = make_people(probs, [[0, 0, 4, 4]] * 2, (4, 4), scores=np.array([0.5, 0.9]))
    assert not people.label_map().any()


def test_what_no_silhouette_claims_is_the_surest_persons_part():
    boxes = [[0, 0, 4, 4], [2, 0, 6, 4], [4, 0, 8, 4]]
    probs = np.zeros((3, 3, 4, 4))
    probs[[0, 1], HEAD] = 0.7
    probs[2, TORSO] = 0.7
    probs[0, 0] = 1  # a body; the others have parts and no body
    people = make_people(probs, boxes, (4, 8), scores=np.array([0.5, 0.9, 0.7]))
    h, t = HEAD, TORSO
    np.testing.assert_array_equal(people.person_map()[0], [1, 1, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(people.label_map()[0], [h, h, h, h, h, h, t, t])
    assert not people[1].label_map().any() and not people[2].part("torso").any()
    probs[1:] *= 0.7  # now none is likelier
    people = make_people(probs, boxes, (4, 8), scores=np.array([0.5, 0.9, 0.7]))
    np.testing.assert_array_equal(people.label_map()[0], [h] * 4 + [0] * 4)


def test_joints_by_name():
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, COCO_17.keypoints.index("left_wrist")] = (12.5, 7.5, 0.8)
    person = make_people(np.ones((1, 1, 2, 2)), [[0, 0, 4, 4]], (9, 20), keypoints=keypoints)[0]
    assert person.joint("left_wrist") == pytest.approx((12.5, 7.5, 0.8))
    assert person.joint("right_wrist") == (0, 0, 0)
    with pytest.raises(KeyError, match="tail"):
        person.joint("tail")
    with pytest.raises(KeyError, match="tail"):
        person.part("tail")


def test_what_a_model_does_not_give_is_said():
    people = People((5, 5), [[0, 0, 4, 4]], [0.9], None, None, TWO_PARTS, ONE_JOINT)
    with pytest.raises(ValueError, match="no part masks"):
        people[0].label_map()
    with pytest.raises(ValueError, match="no joints"):
        people[0].joint("nose")
    annotation = people.to_annotations(3)[0]
    assert set(annotation) == {"image_id", "category_id", "bbox", "score"}


def test_nobody():
    people = People(
        (5, 6), np.zeros((0, 4)), [], np.zeros((0, 3, 4, 4)), None, TWO_PARTS, ONE_JOINT
    )
    assert list(people) == []
    assert people.label_map().shape == people.person_map().shape == (5, 6)
    assert not people.label_map().any()
    assert people.to_annotations(1) == []
    assert people.to_json()["people"] == []


@pytest.mark.parametrize(
    "field, shape, message",
    [
        ("boxes", (2, 5), r"boxes: expected shape \(2, 4\), found \(2, 5\)"),
        ("scores", (3,), r"scores: expected shape \(2,\), found \(3,\)"),
        ("part_probs", (2, 4, 8, 8), r"part_probs: expected shape \(2, 3, 8, 8\), found"),
        ("part_probs", (2, 3, 8, 9), r"part_probs: expected shape \(2, 3, 9, 9\), found"),
        ("part_probs", (3, 8, 8), r"part_probs: expected shape \(2, 3, 'S', 'S'\), found"),
        ("keypoints", (2, 17, 3), r"keypoints: expected shape \(2, 1, 3\), found \(2, 17, 3\)"),
    ],
)
def test_wrong_shapes_name_what_was_expected(field, shape, message):
    arrays = {
        "boxes": np.zeros((2, 4)),
        "scores": np.zeros(2),
        "part_probs": np.zeros((2, 3, 8, 8)),
        "keypoints": np.zeros((2, 1, 3)),
    }
    arrays[field] = np.zeros(shape)
    with pytest.raises(ValueError, match=message):
        People((10, 10), **arrays, part_schema=TWO_PARTS, keypoint_schema=ONE_JOINT)


class FakeTensor:
    """As much of a tensor as `People.from_instances` uses."""

    def __init__(self, array):
        self.array = np.asarray(array, dtype=np.float32)

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


class FakeInstances:
    """As much of Detectron2's ``Instances`` as `People.from_instances` uses."""

    def __init__(self, image_size, boxes, **fields):
        self.image_size = image_size
        self.pred_boxes = type("Boxes", (), {"tensor": FakeTensor(boxes)})()
        self.fields = {name: FakeTensor(value) for name, value in fields.items()}

    @property
    def scores(self):
        return self.fields["scores"]

    def has(self, name):
        return name in self.fields

    def get(self, name):
        return self.fields[name]


def test_from_instances_copies_the_joints():
    instances = FakeInstances(
        (9, 8),
        [[0, 0, 4, 4]],
        scores=[0.75],
        pred_part_masks=np.ones((1, 3, 4, 4)),
        pred_keypoints=[[[3.5, 2.5, 0.5]]],
    )
    people = People.from_instances(instances, TWO_PARTS, ONE_JOINT)
    instances.fields["pred_keypoints"].array -= 0.5
    assert people[0].joint("nose") == (3.5, 2.5, 0.5)
    assert people.image_size == (9, 8)
    assert people[0].score == 0.75
    assert np.count_nonzero(people[0].body) == 16


def test_masks_may_reach_beyond_the_box_by_a_margin():
    people = make_people(np.ones((1, 2, 4, 4)), [[4, 3, 8, 5]], (8, 10))
    wider = replace(people, margin=0.5)
    expected = np.zeros((8, 10), dtype=bool)
    expected[2:6, 2:10] = True
    np.testing.assert_array_equal(wider[0].body, expected)
    np.testing.assert_array_equal(wider.person_map() == 1, expected)
    np.testing.assert_array_equal(wider[:1].confident(0.5)[0].body, expected)
    np.testing.assert_array_equal(decode_mask(wider[0].to_json()["segmentation"]), expected)
    assert wider[0].to_json()["bbox"] == people[0].to_json()["bbox"] == [4, 3, 4, 2]
    assert people[0].body.sum() == 8
    at_the_edge = replace(wider, boxes=np.float32([[0, 6, 4, 8]]))
    assert at_the_edge[0].body[5:8, :6].all() and at_the_edge[0].body.sum() == 18


def test_from_instances_takes_the_margin():
    fields = {"scores": [0.5], "pred_part_masks": np.ones((1, 3, 4, 4))}
    for more, margin in ({}, 0), ({"pred_region_margin": [0.25]}, 0.25):
        instances = FakeInstances((9, 8), [[2, 2, 6, 6]], **fields, **more)
        people = People.from_instances(instances, TWO_PARTS, ONE_JOINT)
        assert people.margin == margin and people[0].margin == margin


def test_from_instances_without_masks_and_joints():
    people = People.from_instances(
        FakeInstances((9, 8), [[0, 0, 4, 4]], scores=[0.75]), TWO_PARTS, ONE_JOINT
    )
    assert people.part_probs is None and people.keypoints is None


def test_json_is_coco():
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, 0] = (3.5, 2.5, 0.25)
    people = make_people(
        np.ones((1, 2, 4, 4)), [[2, 1, 5, 3]], (6, 8), np.array([0.5]), keypoints=keypoints
    )
    (annotation,) = people.to_annotations(image_id=12)
    assert annotation["image_id"] == 12 and annotation["category_id"] == 1
    assert annotation["bbox"] == [2, 1, 3, 2]
    assert annotation["score"] == 0.5
    assert annotation["keypoints"][:3] == [3, 2, 0.25]  # pixel indices
    assert len(annotation["keypoints"]) == 51
    assert set(annotation["part_segmentation"]) == {"head"}  # empty parts left out

    whole = people.to_json()
    assert json.loads(json.dumps(whole)) == whole
    assert whole["image_size"] == [6, 8]
    assert whole["part_schema"] == "bodyparts-7" and whole["keypoint_schema"] == "coco-17"
    assert whole["people"] == [
        {k: v for k, v in annotation.items() if k not in ("image_id", "category_id")}
    ]


def test_annotations_have_a_datasets_joints_by_name():
    keypoints = np.zeros((1, 17, 3))
    keypoints[0, COCO_17.keypoints.index("left_hip")] = (3.5, 2.5, 0.25)
    people = make_people(
        np.ones((1, 2, 4, 4)), [[2, 1, 5, 3]], (6, 8), np.array([0.5]), keypoints=keypoints
    )
    (annotation,) = people.to_annotations(12, LSP_14)
    joints = np.reshape(annotation["keypoints"], (14, 3))
    np.testing.assert_array_equal(joints[LSP_14.keypoints.index("left_hip")], (3, 2, 0.25))
    # Not -0.5, where a joint at 0 would come to lie.
    np.testing.assert_array_equal(joints[LSP_14.keypoints.index("neck")], 0)


def test_runs_are_those_of_the_whole_mask():
    for person in random_people(seed=2, count=8):
        written = person.to_json()
        np.testing.assert_array_equal(decode_mask(written["segmentation"]), person.body)
        assert written["segmentation"]["size"] == list(person.image_size)
        assert set(written["part_segmentation"]) == {
            name for name in BODYPARTS_7.parts if person.part(name).any()
        }
        for name, rle in written["part_segmentation"].items():
            np.testing.assert_array_equal(decode_mask(rle), person.part(name))
    corner = make_people(np.ones((1, 1, 2, 2)), [[3, 2, 5, 4]], (4, 5))[0]  # up to the last pixel
    assert decode_mask(corner.to_json()["segmentation"])[2:, 3:].all()
    inside = make_people(np.ones((1, 1, 2, 2)), [[1, 1, 3, 3]], (4, 5))[0]
    assert inside.to_json()["segmentation"] == encode_mask(inside.body)


def test_pycocotools_loads_the_annotations():
    people = random_people()
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 4, "height": 60, "width": 80}],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        loaded = truth.loadRes(people.to_annotations(image_id=4))
    annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=[4], catIds=[1]))
    assert len(annotations) == 3
    np.testing.assert_array_equal(loaded.annToMask(annotations[1]).astype(bool), people[1].body)


def test_ids_go_with_their_people():
    people = random_people()
    assert [person.id for person in people] == [None, None, None]
    assert "id" not in people[0].to_json()
    people.ids = np.array([4, 0, 2])  # of the second, none is known yet
    assert [person.id for person in people] == [4, None, 2]
    assert [person.id for person in people[people.scores < 2][::-1]] == [2, None, 4]
    written = json.loads(json.dumps(people.to_json()))["people"]
    assert [person.get("id") for person in written] == [4, None, 2]
    with pytest.raises(ValueError, match=r"ids: expected shape \(3,\), found \(2,\)"):
        People((60, 80), people.boxes, people.scores, None, None, BODYPARTS_7, COCO_17, np.ones(2))


def test_supervision_gets_boxes_masks_and_ids():
    reason = "needs the extra `video`"
    supervision = pytest.importorskip("supervision", reason=reason)
    people = random_people()
    detections = people.to_supervision()
    np.testing.assert_array_equal(detections.xyxy, people.boxes)
    np.testing.assert_array_equal(detections.confidence, people.scores)
    np.testing.assert_array_equal(detections.mask, [person.body for person in people])
    assert detections.tracker_id is None and detections.class_id.tolist() == [0, 0, 0]
    arms = people.to_supervision("left_arm").mask
    np.testing.assert_array_equal(arms, [person.part("left_arm") for person in people])
    people.ids = np.array([4, 0, 2])
    assert people.to_supervision().tracker_id.tolist() == [3, -1, 1]
    # The library draws them where they are.
    image = np.zeros((60, 80, 3), np.uint8)
    drawn = supervision.MaskAnnotator(opacity=1).annotate(image.copy(), people.to_supervision())
    bodies = np.any([person.body for person in people], axis=0)
    np.testing.assert_array_equal(drawn.any(axis=2), bodies)
    points = supervision.KeyPoints(people.keypoints[..., :2])
    assert points.xy.shape == (3, 17, 2)


def test_supervision_of_nobody_and_of_boxes_alone():
    pytest.importorskip("supervision", reason="needs the extra `video`")
    people = random_people()
    assert len(people[:0].to_supervision()) == 0
    boxes_only = People((9, 9), [[0, 0, 4, 4]], [0.9], None, None, TWO_PARTS, ONE_JOINT)
    assert boxes_only.to_supervision().mask is None
    for anybody in (people, people[:0], boxes_only):
        with pytest.raises(KeyError, match="tail"):
            anybody.to_supervision("tail")


def test_views_add_up_the_parts_of_a_union():
    probs = np.zeros((1, 11, 2, 2), dtype=np.float32)
    right_upper, left_upper, right_lower = (
        BODYPARTS_11.index(f"{part}_arm") for part in ("right_upper", "left_upper", "right_lower")
    )
    probs[0, 0] = 1
    probs[0, right_upper], probs[0, left_upper], probs[0, right_lower] = 0.3, 0.25, 0.9
    people = People((2, 2), [[0, 0, 2, 2]], [1], probs, None, BODYPARTS_11, COCO_17)

    seven = people.view(BODYPARTS_7)
    assert seven.part_schema == BODYPARTS_7
    expected = {"body": 1, "right_arm": 1, "left_arm": 0.25}  # 0.3 + 0.9 is no probability
    for name, value in zip(BODYPARTS_7.channels, seven.part_probs[0, :, 0, 0], strict=True):
        assert value == pytest.approx(expected.get(name, 0))

    pascal = people.view(PASCAL_PERSON_PART)
    assert pascal.margin == people.margin
    assert pascal.part_probs[0, PASCAL_PERSON_PART.index("upper_arms"), 1, 1] == pytest.approx(0.55)
    assert pascal.part_probs[0, PASCAL_PERSON_PART.index("lower_arms"), 1, 1] == pytest.approx(0.9)
    assert people.view(BODYPARTS_11) is people
    with pytest.raises(ValueError, match="no view of bodyparts-7"):
        seven.view(PASCAL_PERSON_PART)
