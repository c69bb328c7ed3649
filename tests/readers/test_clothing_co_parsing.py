from __future__ import annotations

import cv2
import numpy as np
import pytest
import scipy.io

from detectron2_bodyparts.readers.clothing_co_parsing import (
    CARRIED,
    labels_path,
    main,
    possible_parts,
    prepare_clothing_co_parsing,
    read_garments,
    read_image,
    read_names,
)
from detectron2_bodyparts.readers.prepare import BadInput
from detectron2_bodyparts.readers.taught import CLASSES
from detectron2_bodyparts.records import RecordError, decode_mask, read_records, validate_records
from detectron2_bodyparts.schema import BODYPARTS_7, BODYPARTS_11

from .conftest import only_person

NAMES = ["null", "bag", "dress", "hair", "shoes", "skin"]
SHAPE = 8, 6


def garments():
    """Hair, skin, dress, skin and shoes from above; a bag beside the dress; nothing around."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:7, 2:4] = np.array([3, 5, 2, 2, 5, 4])[:, None]
    labels[3:5, 4] = 1
    return labels


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "annotations/pixel-level").mkdir(parents=True)
    scipy.io.savemat(tmp_path / "label_list.mat", {"label_list": np.array([NAMES], object)})
    for number in ("0001", "0002"):
        cv2.imwrite(str(tmp_path / f"photos/{number}.jpg"), np.zeros((*SHAPE, 3), np.uint8))
        scipy.io.savemat(labels_path(tmp_path, f"{number}.jpg"), {"groundtruth": garments()})
    cv2.imwrite(str(tmp_path / "photos/0003.jpg"), np.zeros((*SHAPE, 3), np.uint8))  # no labels
    return tmp_path


def test_the_body_is_who_wears_and_not_what_is_carried(root):
    person = only_person(read_image("0001", root, BODYPARTS_11, NAMES))
    body, ignored = (decode_mask(person[k]) for k in ("segmentation", "ignore_segmentation"))
    np.testing.assert_array_equal(body, garments() > 1)
    np.testing.assert_array_equal(ignored, garments() == 1)
    assert person["bbox"] == [2, 1, 2, 6]
    assert person["part_state"] == {"body": "known"}


def test_the_command_writes_every_picture_with_labels(root, capsys):
    main(["--root", str(root), "--schema", "bodyparts-7", "bodyparts-11", "--workers", "1"])
    for schema in (BODYPARTS_7, BODYPARTS_11):
        records = read_records(root / f"clothing_co_parsing_train.{schema.name}.json")
        validate_records(records)
        assert [i["file_name"] for i in records.images] == ["photos/0001.jpg", "photos/0002.jpg"]
        assert not any(image["exhaustive"] for image in records.images)
    assert "pictures               2" in capsys.readouterr().out


def test_garments_say_which_parts_there_may_be():
    possible = possible_parts(garments(), NAMES)
    assert possible.shape == (len(CLASSES), *SHAPE)

    def at(row, column):
        return {c for c, there in zip(CLASSES, possible[:, row, column], strict=True) if there}

    assert at(0, 0) == {"background"}
    assert at(1, 2) == {"head"}
    assert at(2, 2) == set(CLASSES[1:])
    assert at(3, 2) == set(CLASSES[1:]) - {"head"}
    assert at(6, 2) == {"lower_leg"}
    assert at(3, 4) == set(CLASSES)


def test_every_garment_of_the_dataset_is_known(root):
    """All 59 names, as the dataset's label_list.mat has them."""
    names = (
        "null accessories bag belt blazer blouse bodysuit boots bra bracelet cape cardigan clogs "
        "coat dress earrings flats glasses gloves hair hat heels hoodie intimate jacket jeans "
        "jumper leggings loafers necklace panties pants pumps purse ring romper sandals scarf "
        "shirt shoes shorts skin skirt sneakers socks stockings suit sunglasses sweater "
        "sweatshirt swimwear t-shirt tie tights top vest wallet watch wedges"
    ).split()
    scipy.io.savemat(root / "label_list.mat", {"label_list": np.array([names], object)})
    assert read_names(root) == names and len(names) == 59
    assert set(CARRIED) < set(names)


def test_faults_are_named(root):
    with pytest.raises(FileNotFoundError, match="datasets/README"):
        read_names(root / "photos")
    path = labels_path(root, "0001.jpg")
    with pytest.raises(BadInput, match="labels up to 5"):
        read_garments(path, count=5)
    with pytest.raises(BadInput, match="no file"):
        read_image("0003", root, BODYPARTS_7, NAMES)
    path.write_bytes(path.read_bytes()[:150])
    summary = prepare_clothing_co_parsing(root, "train", BODYPARTS_7)
    assert summary.pictures == 1 and [one.where for one in summary.left_out] == [str(path)]
    scipy.io.savemat(path, {"groundtruth": np.zeros(SHAPE, np.uint8)})
    with pytest.raises(BadInput, match="nobody"):
        read_image("0001", root, BODYPARTS_7, NAMES)
    scipy.io.savemat(path, {"groundtruth": garments()[1:]})
    with pytest.raises(BadInput, match="as large as the picture"):
        read_image("0001", root, BODYPARTS_7, NAMES)
    scipy.io.savemat(root / "label_list.mat", {"label_list": np.array([["null", "kilt"]], object)})
    with pytest.raises(RecordError, match="kilt"):
        read_names(root)
    (root / "label_list.mat").write_bytes(b"no MATLAB")
    with pytest.raises(RecordError, match="not a .mat file"):
        read_names(root)
