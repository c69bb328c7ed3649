from __future__ import annotations

import contextlib
import io
import os
import pickle
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from detectron2_bodyparts.readers.prepare import (
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
    write_picture,
)
from detectron2_bodyparts.records import (
    RecordError,
    ignore_annotation,
    person_annotation,
    read_records,
    validate_records,
)
from detectron2_bodyparts.schema import BODYPARTS_7, BODYPARTS_11, COCO_17

SHAPE = (4, 5)


def row(y):
    mask = np.zeros(SHAPE, dtype=bool)
    mask[y] = True
    return mask


def convert(item, folder):
    """One picture an item, with as many people as the item's last figure; logs that it ran.

    Items that begin with "bad", "bug" or "stop" go wrong; "stop" only if a file of that name lies
    in the folder.
    """
    with open(folder / "log.txt", "a") as log:
        log.write(item + "\n")
    if item.startswith("bad"):
        raise BadInput(f"{item}.mat", "a readable file", f"{item[-1]} bytes")
    if item.startswith("bug"):
        return Shard(None + 1)
    if (folder / item).exists():
        raise KeyboardInterrupt
    people = [
        person_annotation(BODYPARTS_7, COCO_17, SHAPE, body=row(y), parts={"head": row(y)})
        for y in range(int(item[-1]))
    ]
    notes = [LeftOut(item, "too small", f"{i} px") for i in range(2) if "small" in item]
    return Shard([Picture(f"{item}.jpg", *SHAPE, people, extra={"item": item})], notes)


def run(folder, items, *, workers=1, info=None, name="out.json"):
    folder.mkdir(exist_ok=True)
    return prepare(
        items,
        partial(convert, folder=folder),
        folder / name,
        BODYPARTS_7,
        COCO_17,
        workers=workers,
        info=info,
    )


def log_of(folder):
    return (folder / "log.txt").read_text().split()


ITEMS = ["p2", "p0", "bad7", "small1", "p3", "p1"]


def test_order_ids_and_what_was_left_out(tmp_path):
    summary = run(tmp_path, ITEMS, info={"split": "train"})
    records = read_records(tmp_path / "out.json")
    assert [image["item"] for image in records.images] == ["p2", "p0", "small1", "p3", "p1"]
    assert [image["id"] for image in records.images] == [1, 2, 3, 4, 5]
    assert [a["image_id"] for a in records.annotations] == [1, 1, 3, 4, 4, 4, 5]
    assert records.info["split"] == "train"
    assert validate_records(records) == []
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(COCO(str(tmp_path / "out.json")).anns) == 7

    assert sorted(os.listdir(tmp_path)) == ["log.txt", "out.json"]  # no shards left
    assert summary.left_out == [
        LeftOut("bad7.mat", "expected a readable file", "found 7 bytes"),
        LeftOut("small1", "too small", "0 px"),
        LeftOut("small1", "too small", "1 px"),
    ]


def test_as_many_processes_as_one_likes(tmp_path):
    """Two processes give the same file; and a programming error shows from there too."""
    items = [*ITEMS, *(f"p{i % 4}" for i in range(20))]
    one = run(tmp_path / "one", items)
    two = run(tmp_path / "two", items, workers=2)
    first, second = (tmp_path / name / "out.json" for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    assert one.left_out == two.left_out and one.masks == two.masks

    with pytest.raises(RuntimeError, match="'bug' failed: TypeError"):
        run(tmp_path / "three", ["p1", "bug", "p2"], workers=2)
    assert not (tmp_path / "three" / "out.json").exists()


def test_a_programming_error_shows(tmp_path):
    with pytest.raises(RuntimeError, match="'bug' failed: TypeError") as error:
        run(tmp_path, ["p1", "bug", "p2"])
    assert isinstance(error.value.__cause__, TypeError)
    assert not (tmp_path / "out.json").exists()


def test_a_stopped_run_goes_on_where_it_was(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    items = [*ITEMS, "stop1", "p2"]
    run(whole, items)

    stopped.mkdir()
    (stopped / "stop1").touch()
    with pytest.raises(KeyboardInterrupt):
        run(stopped, items)
    assert not (stopped / "out.json").exists()
    assert log_of(stopped) == items[:-1]

    (stopped / "stop1").unlink()
    (stopped / "log.txt").unlink()
    summary = run(stopped, items)
    # Again only what was not done, and what was bad: its file may have been replaced meanwhile.
    assert log_of(stopped) == ["bad7", "stop1", "p2"]
    assert (stopped / "out.json").read_bytes() == (whole / "out.json").read_bytes()
    assert [one.where for one in summary.left_out] == ["bad7.mat", "small1", "small1"]
    assert not (stopped / "out.json.shards").exists()


def stop_after_two(folder, info=None):
    (folder / "stop1").touch()
    with pytest.raises(KeyboardInterrupt):
        run(folder, ["p2", "p3", "stop1"], info=info)
    (folder / "stop1").unlink()
    (folder / "log.txt").unlink()


def test_shards_of_other_settings_are_not_used(tmp_path):
    stop_after_two(tmp_path, info={"seed": 0})
    run(tmp_path, ["p2", "p3", "stop1"], info={"seed": 1})
    assert log_of(tmp_path) == ["p2", "p3", "stop1"]
    assert read_records(tmp_path / "out.json").info["seed"] == 1


def test_shards_of_other_items_are_not_used(tmp_path):
    stop_after_two(tmp_path)
    run(tmp_path, ["bad1", "p3", "p1"])
    assert log_of(tmp_path) == ["bad1", "p1"]
    images = read_records(tmp_path / "out.json").images
    assert [image["item"] for image in images] == ["p3", "p1"]


def test_a_shard_that_a_crash_left_empty_is_made_again(tmp_path):
    stop_after_two(tmp_path)
    (tmp_path / "out.json.shards" / "0000001.json").write_text("")
    run(tmp_path, ["p2", "p3", "stop1"])
    assert log_of(tmp_path) == ["p3", "stop1"]


@pytest.mark.parametrize("items", [[], ["bad1", "bad2"]])
def test_nothing_left_is_an_error(tmp_path, items):
    with pytest.raises(RecordError, match="no picture is left") as error:
        run(tmp_path, items)
    assert all(f"{item}.mat: found {item[-1]} bytes" in str(error.value) for item in items)
    assert not (tmp_path / "out.json").exists()
    assert not (tmp_path / "out.json.shards").exists()


def test_summary_by_hand(tmp_path):
    output = tmp_path / "out.json"
    joints = np.zeros((17, 3))
    joints[0] = (1, 1, 2)
    people = [
        person_annotation(
            BODYPARTS_7,
            COCO_17,
            SHAPE,
            body=row(0) | row(1),
            parts={"head": row(0)},
            states={"body": "known", "head": "known", "torso": "known", "arm": "known"},
            unsided={"arm": row(1)},
        ),
        person_annotation(
            BODYPARTS_7,
            COCO_17,
            SHAPE,
            parts={"head": row(2)},
            states={"head": "derived"},
            keypoints=joints,
        ),
        ignore_annotation(COCO_17, SHAPE, row(3)),
    ]
    shards = {
        "a": Shard([Picture("a.jpg", *SHAPE, people), Picture("b.jpg", *SHAPE, exhaustive=False)]),
        "c": Shard(left_out=[LeftOut(f"c{i}", "no size") for i in range(5)]),
        "d": Shard([Picture("d.jpg", *SHAPE, people[2:])]),
    }
    summary = prepare(list("acd"), shards.__getitem__, output, BODYPARTS_7, COCO_17)
    assert (summary.pictures, summary.pictures_with_people) == (3, 1)
    assert (summary.people, summary.people_with_joints, summary.ignore_regions) == (2, 1, 2)
    lines = [line.split() for line in str(summary).splitlines()]
    for expected in (
        ["channel", "known", "derived", "unknown", "has", "mask"],
        ["body", "1", "0", "1", "1"],
        ["head", "1", "1", "0", "2"],
        ["torso", "1", "0", "1", "0"],
        ["left_leg", "0", "0", "2", "0"],
        ["arm", "1", "0", "1", "1"],
        ["left", "out", "5:", "no", "size"],
        ["c2"],
        ["and", "2", "more"],
    ):
        assert expected in lines
    assert ["leg"] not in [line[:1] for line in lines]
    assert ["c3"] not in lines
    assert [i["exhaustive"] for i in read_records(output).images] == [True, False, True]


def test_a_table_of_long_names_is_aligned():
    summary = Summary(Path("some.json"), BODYPARTS_11, COCO_17)
    start = str(summary).index("  channel")
    rows = str(summary)[start:].splitlines()[: 1 + len(BODYPARTS_11.channels)]
    assert len({len(row) for row in rows}) == 1
    assert all("  0" in row for row in rows[1:])


def test_bad_input_says_where_what_and_instead():
    error = pickle.loads(pickle.dumps(BadInput(Path("a") / "b.mat", "a mask", "none")))
    assert str(error) == f"{Path('a') / 'b.mat'}: expected a mask, found none"


# ------------------------------------------------------------ pictures


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return cv2.resize(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8), (80, 60))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_picture_size_is_height_then_width(tmp_path, image, suffix):
    path = tmp_path / f"picture{suffix}"
    cv2.imwrite(str(path), image)
    assert picture_size(path) == (60, 80)


def test_pictures_that_cannot_be_read(tmp_path, image):
    path = tmp_path / "picture.jpg"
    with pytest.raises(BadInput, match="picture.jpg: expected a whole picture, found no file"):
        picture_size(path)
    write_picture(path, image)
    data = path.read_bytes()
    for content in (b"", b"not a picture", data[:20], data[: len(data) // 2], data[:-2]):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="picture.jpg: expected a whole picture"):
            picture_size(path)
    path.write_bytes(data + b"\0\0 more")  # what follows the picture does no harm
    assert picture_size(path) == (60, 80)


def test_write_picture(tmp_path, image):
    write_picture(tmp_path / "new" / "a.jpg", image)
    assert os.listdir(tmp_path / "new") == ["a.jpg"]
    read = cv2.imread(str(tmp_path / "new" / "a.jpg"))
    assert np.abs(read.astype(int) - image).mean() < 4


# ------------------------------------------------------------ commands


def test_arguments(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    parser = argument_parser("words", "some_set", ["bodyparts-7", "pascal-person-part"])
    args = parser.parse_args(["--limit", "3", "--workers", "2"])
    assert (args.root, args.schema, args.workers, args.limit) == (
        tmp_path / "some_set", ["bodyparts-7"], 2, 3,
    )  # fmt: skip
    for bad, message in (
        (["--limit", "0"], "expected at least 1, found 0"),
        (["--limit", "many"], "expected at least 1, found many"),
        (["--workers", "-1"], "expected at least 1, found -1"),
        (["--schema", "bodyparts-8"], "bodyparts-8"),
    ):
        with pytest.raises(SystemExit):
            parser.parse_args(bad)
        assert message in capsys.readouterr().err
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/sets")
    args = argument_parser("words", "some_set", ["bodyparts-7"]).parse_args([])
    assert args.root == tmp_path / "sets" / "some_set"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    args = argument_parser("words", "some_set", ["bodyparts-7"]).parse_args([])
    assert args.root == Path("datasets") / "some_set"


def test_every_split_in_every_schema(tmp_path):
    parser = argument_parser("words", "some_set", ["bodyparts-7", "bodyparts-11"])
    parser.add_argument("--split", nargs="+")
    arguments = ["--root", str(tmp_path), "--split", "train", "val", "--workers", "2"]
    schemas = ["--schema", "bodyparts-7", "bodyparts-11", "--limit", "3"]
    calls = []
    run_splits(
        lambda *given, **options: calls.append((given, options)),
        parser.parse_args([*arguments, *schemas]),
        every=6,
    )
    assert calls == [
        ((tmp_path, split, schema), {"workers": 2, "limit": 3, "every": 6})
        for schema in (BODYPARTS_7, BODYPARTS_11)
        for split in ("train", "val")
    ]


def test_records_path():
    path = records_path("root", "voc_part", "train", BODYPARTS_7)
    assert path == Path("root") / "voc_part_train.bodyparts-7.json"
