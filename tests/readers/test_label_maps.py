"""Label maps of classes and people: the folders of CIHP, MHP and PASCAL-Person-Part."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest

from detectron2_bodyparts.metrics.instances import UNKNOWN
from detectron2_bodyparts.metrics.parsing import ParsingMetrics
from detectron2_bodyparts.readers.label_maps import (
    CIHP_CLASSES,
    MHP_V2_CLASSES,
    PASCAL_PERSON_PART_CLASSES,
    image_ids,
    person_maps,
    read_indices,
    read_mhp_scores,
    read_people,
    read_person_maps,
    read_scores,
    read_truth,
)
from detectron2_bodyparts.readers.prepare import BadInput

# Person 1 at the left, person 3 at the right (there is no 2); a labelled pixel that is nobody's.
CATEGORIES = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 2, 2, 0, 13, 13, 0],
        [0, 5, 5, 0, 0, 5, 0],
        [9, 5, 0, 0, 0, 5, 7],
    ],
    dtype=np.uint8,
)
HUMANS = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 3, 3, 0],
        [0, 1, 1, 0, 3, 3, 0],
        [1, 1, 0, 0, 0, 3, 0],
    ],
    dtype=np.uint8,
)


def write(path, plane) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), plane)


def write_pair(root, image_id="a", categories=CATEGORIES, humans=HUMANS) -> None:
    write(root / "Category_ids" / f"{image_id}.png", categories)
    write(root / "Human_ids" / f"{image_id}.png", humans)


def write_palette_png(path, indices, palette, depth=8) -> None:
    """As VOC writes label maps; OpenCV cannot."""

    def chunk(name, content):
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    height, width = indices.shape
    rows = b""
    for row in indices:
        bits = "".join(f"{v:0{depth}b}" for v in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", width, height, depth, 3, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", bytes(palette))
        + chunk(b"tRNS", b"\0")
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_people_of_a_pair_of_planes(tmp_path):
    write_pair(tmp_path)
    picture = read_truth(tmp_path, "a", len(CIHP_CLASSES))
    assert picture.image_id == "a" and picture.image_size == (4, 7)
    assert picture.ignore is None and picture.crowd is None and picture.exhaustive
    np.testing.assert_array_equal(picture.label_map, CATEGORIES)
    first, second = picture.people
    assert (first.crop.x0, first.crop.y0) == (0, 1)
    np.testing.assert_array_equal(first.crop.labels, [[0, 2, 2], [0, 5, 5], [9, 5, 0]])
    np.testing.assert_array_equal(first.crop.body, [[0, 1, 1], [0, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(first.box, [0, 1, 3, 4])
    assert first.known.shape == (20,) and first.known.all()
    # A pixel of the person without a class is silhouette; a neighbour's pixel is not theirs.
    assert (second.crop.x0, second.crop.y0) == (4, 1)
    np.testing.assert_array_equal(second.crop.labels, [[13, 13], [0, 5], [0, 5]])
    np.testing.assert_array_equal(second.crop.body, [[1, 1], [1, 1], [0, 1]])


def test_people_who_touch_are_told_apart(tmp_path):
    humans = np.array([[1, 1, 2], [1, 2, 2]], dtype=np.uint8)
    write_pair(tmp_path, "a", np.full((2, 3), 4, np.uint8), humans)
    first, second = read_truth(tmp_path, "a", 19).people
    np.testing.assert_array_equal(first.crop.labels, [[4, 4], [4, 0]])
    np.testing.assert_array_equal(second.crop.labels, [[0, 4], [4, 4]])
    np.testing.assert_array_equal(first.crop.body, first.crop.labels > 0)


def test_predictions_have_scores(tmp_path):
    write_pair(tmp_path)
    text = tmp_path / "Human_ids" / "a.txt"
    text.write_text("1 0.9\n1 0.1\n1 0.25\n")
    scores = read_scores(text)
    assert scores == {1: 0.9, 2: 0.1, 3: 0.25}
    people = read_people(tmp_path, "a", len(CIHP_CLASSES), scores)
    assert [p.score for p in people] == [0.9, 0.25]
    np.testing.assert_array_equal(people[1].crop.labels, [[13, 13], [0, 5], [0, 5]])
    with pytest.raises(BadInput, match="a.png: expected a score of every person, found none of pe"):
        read_people(tmp_path, "a", len(CIHP_CLASSES), {1: 0.9})


def test_an_mhp_submission(tmp_path):
    write(tmp_path / "global_seg" / "17.png", CATEGORIES)
    write(tmp_path / "global_tag" / "17.png", HUMANS.astype(np.uint16) * 100)
    (tmp_path / "results.txt").write_text("17 100 0.75 300 0.5\n\n18\n")
    scores = read_mhp_scores(tmp_path / "results.txt")
    assert scores == {"17": {100: 0.75, 300: 0.5}, "18": {}}
    people = read_people(
        tmp_path,
        "17",
        len(MHP_V2_CLASSES),
        scores["17"],
        category_folder="global_seg",
        human_folder="global_tag",
    )
    assert [p.score for p in people] == [0.75, 0.5]


@pytest.mark.parametrize("text", ["17 1\n", "17 1 high\n", "17 first 0.5\n"])
def test_scores_that_are_none(tmp_path, text):
    path = tmp_path / "results.txt"
    path.write_text(text)
    with pytest.raises(BadInput, match="results.txt: expected"):
        read_mhp_scores(path)
    path.write_text("0.5\nhigh\n")
    with pytest.raises(BadInput, match="results.txt: expected a number"):
        read_scores(path)
    with pytest.raises(BadInput, match="expected a text of scores, found no file"):
        read_scores(tmp_path / "none.txt")


def test_pixels_to_ignore(tmp_path):
    categories, humans = CATEGORIES.copy(), HUMANS.copy()
    categories[1, 1] = UNKNOWN
    humans[3, 6] = UNKNOWN
    write_pair(tmp_path, "a", categories, humans)
    picture = read_truth(tmp_path, "a", 19)
    expected = np.zeros((4, 7), bool)
    expected[1, 1] = expected[3, 6] = True
    np.testing.assert_array_equal(picture.ignore, expected)
    assert len(picture.people) == 2
    np.testing.assert_array_equal(picture.people[0].crop.body, [[0, 0, 1], [0, 1, 1], [1, 1, 0]])
    # In a plane of 16 bits 255 is a person like any.
    write(tmp_path / "Human_ids" / "a.png", humans.astype(np.uint16))
    assert len(read_truth(tmp_path, "a", 19).people) == 3


def test_a_png_a_person(tmp_path):
    # RGB, the class in the red channel, which OpenCV writes last.
    for number in (1, 3):
        plane = np.zeros((4, 7, 3), np.uint8)
        plane[..., 2] = np.where(HUMANS == number, CATEGORIES, 0)
        plane[..., 0] = 77
        write(tmp_path / f"5_03_0{number}.png", plane)
    write(tmp_path / "5_03_02.png", np.zeros((4, 7), np.uint8))
    write(tmp_path / "15_02_01.png", CATEGORIES)
    write(tmp_path / "5_1_02_01.png", CATEGORIES)
    maps = person_maps(tmp_path)
    assert list(maps) == ["15", "5", "5_1"]
    picture = read_person_maps("5", maps["5"], len(MHP_V2_CLASSES))
    assert picture.image_size == (4, 7) and picture.label_map is None
    assert len(picture.people) == 2
    first, second = picture.people
    assert first.known.shape == (59,)
    np.testing.assert_array_equal(first.crop.labels, [[0, 2, 2], [0, 5, 5], [9, 5, 0]])
    np.testing.assert_array_equal(second.crop.body, [[1, 1], [0, 1], [0, 1]])
    write(tmp_path / "15_02_02.png", CATEGORIES[1:])
    with pytest.raises(BadInput, match=r"15_02_02.png: .*found \(3, 7\), not \(4, 7\)"):
        read_person_maps("15", person_maps(tmp_path)["15"], 58)


@pytest.mark.parametrize("depth", [8, 4, 2, 1])
def test_palettes_give_indices_even_where_colours_repeat(tmp_path, depth):
    count = 2**depth
    indices = np.random.default_rng(0).integers(0, count, (5, 7)).astype(np.uint8)
    for palette in ([9, 9, 9] * count, list(np.arange(3 * count) % 251)):
        write_palette_png(tmp_path / "a.png", indices, palette, depth)
        # OpenCV by itself sees the colours.
        assert cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED).ndim == 3
        np.testing.assert_array_equal(read_indices(tmp_path / "a.png"), indices)


def test_grey_keeps_its_values(tmp_path):
    for dtype, top in ((np.uint8, 255), (np.uint16, 60000)):
        plane = np.linspace(0, top, 35).reshape(5, 7).astype(dtype)
        write(tmp_path / "a.png", plane)
        result = read_indices(tmp_path / "a.png")
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, plane)


def test_one_corrupt_file_among_good_ones(tmp_path):
    for image_id in "abcd":
        write_pair(tmp_path, image_id)
    path = tmp_path / "Category_ids" / "b.png"
    whole = path.read_bytes()
    damages = {
        "a file that is cut off": whole[:-10],
        "another kind of file": b"",
        "a file that cannot be decoded": whole[:45] + bytes([whole[45] ^ 255]) + whole[46:],
    }
    for found, data in damages.items():
        path.write_bytes(data)
        read, faults = [], []
        for image_id in image_ids(tmp_path / "Category_ids"):
            try:
                read.append(read_truth(tmp_path, image_id, 19).image_id)
            except BadInput as e:
                faults.append(str(e))
        assert read == ["a", "c", "d"]
        assert faults == [f"{path}: expected a whole PNG, found {found}"]


def test_a_png_cut_off_anywhere_is_refused(tmp_path):
    write_pair(tmp_path)
    path = tmp_path / "Human_ids" / "a.png"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="a.png: expected a whole PNG"):
            read_indices(path)


def test_planes_that_do_not_fit(tmp_path):
    write_pair(tmp_path, humans=HUMANS[1:])
    with pytest.raises(BadInput, match=r"Human_ids/a.png: .*found \(3, 7\), not \(4, 7\)"):
        read_truth(tmp_path, "a", 19)
    write_pair(tmp_path)
    with pytest.raises(BadInput, match="expected classes 0 to 6 or 255, found class 13"):
        read_truth(tmp_path, "a", len(PASCAL_PERSON_PART_CLASSES))
    with pytest.raises(BadInput, match="Category_ids/b.png: expected a whole PNG, found no file"):
        read_truth(tmp_path, "b", 19)
    with pytest.raises(FileNotFoundError, match="expected a folder of .png files"):
        image_ids(tmp_path / "nowhere")


def test_the_published_classes():
    # Numbers of the datasets' own descriptions.
    assert len(CIHP_CLASSES) == 19 and len(MHP_V2_CLASSES) == 58
    assert len(PASCAL_PERSON_PART_CLASSES) == 6
    assert CIHP_CLASSES.index("face") + 1 == 13 and CIHP_CLASSES.index("right-shoe") + 1 == 19
    assert MHP_V2_CLASSES.index("torso-skin") + 1 == 16 and MHP_V2_CLASSES.index("tie") + 1 == 55
    assert len(set(CIHP_CLASSES)) == 19 and len(set(MHP_V2_CLASSES)) == 58


def test_the_truth_read_as_prediction_is_perfect(tmp_path):
    rng = np.random.default_rng(0)
    metrics = ParsingMetrics(CIHP_CLASSES, paint_threshold=0.3)
    for i in range(5):
        humans = np.repeat(rng.integers(0, 4, (6, 8)), 2, axis=0).astype(np.uint8)
        categories = np.where(humans > 0, rng.integers(1, 20, humans.shape), 0).astype(np.uint8)
        write_pair(tmp_path, str(i), categories, humans)
        scores = dict.fromkeys((1, 2, 3), 0.9)
        metrics.add(read_truth(tmp_path, str(i), 19), read_people(tmp_path, str(i), 19, scores))
    result = metrics.result()
    assert result.pop("mIoU_paint_threshold") == 0.3
    assert result == pytest.approx(dict.fromkeys(result, 100))
