from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from detectron2_bodyparts import drawing
from detectron2_bodyparts.cli import main
from detectron2_bodyparts.commands import predict
from detectron2_bodyparts.commands.pictures import find_inputs, output_names
from detectron2_bodyparts.people import People
from detectron2_bodyparts.records import Records, person_annotation, read_records, write_records
from detectron2_bodyparts.schema import (
    BODYPARTS_7,
    COCO_17,
    JHMDB_15,
    PASCAL_PERSON_PART,
    PartSchema,
    register_part_schema,
)

SIZE = (48, 128)


class BrightPeople:
    """Takes each bright patch for a person who is all of one part, as sure as it is bright."""

    part_schema, keypoint_schema = BODYPARTS_7, JHMDB_15

    def __init__(self) -> None:
        self.calls = 0
        self.part = "head"

    def __call__(self, image: np.ndarray) -> People:
        self.calls += 1
        brightness = image.min(axis=2)
        _, _, stats, centers = cv2.connectedComponentsWithStats((brightness > 80).astype(np.uint8))
        stats, centers = stats[1:], centers[1:]  # without the background
        boxes = np.stack([*stats[:, :2].T, *(stats[:, :2] + stats[:, 2:4]).T[:2]], axis=1)
        probs = np.zeros((len(boxes), 7, 8, 8), np.float32)
        probs[:, [0, BODYPARTS_7.index(self.part)]] = 1
        places = [brightness[int(y), int(x)] for x, y in centers]
        joints = np.zeros((len(boxes), 15, 3), np.float32)
        joints[:, 0] = 3.5, 4.5, 0.9
        scores = np.array(places, np.float32) / 255
        return People(image.shape[:2], boxes, scores, probs, joints, BODYPARTS_7, JHMDB_15)


@pytest.fixture
def model(monkeypatch) -> BrightPeople:
    """Takes the place of the model; the threshold is applied as `load_predictor` promises."""
    found = BrightPeople()
    monkeypatch.setattr(predict, "load_predictor", lambda args: _Confident(found, args.threshold))
    return found


class _Confident:
    part_schema, keypoint_schema = BODYPARTS_7, JHMDB_15

    def __init__(self, predictor: BrightPeople, threshold: float | None) -> None:
        self.predictor, self.threshold = predictor, threshold

    def __call__(self, image: np.ndarray) -> People:
        return self.predictor(image).confident(self.threshold or 0)


def scene(*lefts: int, brightness: int = 250) -> np.ndarray:
    """A picture with a person of 12 x 24 at each of these columns."""
    image = np.full((*SIZE, 3), 20, np.uint8)
    for x in lefts:
        image[12:36, x : x + 12] = brightness
    return image


def write_scene(path: Path, *lefts: int, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), scene(*lefts, **options))
    return path


def write_walk(path: Path, count: int, rate: float = 25.0) -> Path:
    """Two people who walk towards each other for 60 frames, and then stand."""
    pytest.importorskip("av", reason="needs the extra `video`")
    pytest.importorskip("trackers", reason="needs the extra `video`")
    from detectron2_bodyparts.video import VideoWriter

    with VideoWriter(path, SIZE, rate) as video:
        for i in range(count):
            video.write(scene(*lefts(i)), i / rate)
    return path


def lefts(frame: int) -> tuple[int, int]:
    """Where the two people of `write_walk` are."""
    steps = min(frame, 60) // 2
    return 4 + steps, 110 - steps


def read_video(path: Path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


def run(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_inputs_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("folder/10.jpg", "folder/9.png", "folder/v.mp4", "12/1.jpg", "old.avi/1.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "empty").mkdir()
    given = ["folder", "12", "a.MOV", "0", "b.png", "webcam", "empty", "old.avi"]
    pictures, videos = find_inputs(given)
    expected = ["folder/9.png", "folder/10.jpg", "12/1.jpg", "b.png", "empty", "old.avi/1.jpg"]
    assert [str(path) for path in pictures] == expected
    assert videos == [Path("a.MOV"), 0, 0]


def test_no_two_outputs_have_one_name():
    inputs = [Path(name) for name in ("a/1.jpg", "b/1.png", "1_2.jpg", "A.jpg", "a.mp4", "x.y.jpg")]
    found = output_names([*inputs, 0, 1], taken=["x.y"])
    assert found == ["1", "1_2", "1_2_2", "A", "a_2", "x.y_2", "camera0", "camera1"]


def test_pictures_and_folders_are_drawn(model, tmp_path, capsys):
    write_scene(tmp_path / "a" / "10.png", 30, 80)
    write_scene(tmp_path / "a" / "9.png", 50)
    (tmp_path / "a" / "bad.jpg").write_text("no picture")
    (tmp_path / "empty").mkdir()
    other = write_scene(tmp_path / "b" / "9.jpg")
    output = tmp_path / "out"
    options = ["--output", output, "--json", "--page"]
    code = run(tmp_path / "a", other, tmp_path / "empty", tmp_path / "no.png", *options)
    printed = capsys.readouterr()
    assert code == 1 and "3 people" in printed.out
    for name in ("bad.jpg", "empty", "no.png"):
        assert f"skipped, no readable picture: {tmp_path}" in printed.err and name in printed.err
    assert printed.err.count("skipped") == 3
    stems = ["9", "10", "9_2"]
    assert names(output) == {f"{s}.{e}" for s in stems for e in ("jpg", "json")} | {"page.jpg"}
    drawn = cv2.imread(str(output / "10.jpg")).astype(int)
    assert drawn.shape == (*SIZE, 3)
    red = (drawn[..., 2] - drawn[..., 0] > 50)[24]  # the head's colour
    assert red[86] and red[36] and not red[50:75].any()
    content = json.loads((output / "9.json").read_text())
    assert content["source"].endswith("a/9.png") and content["image_size"] == [48, 128]
    assert [person["bbox"] for person in content["people"]] == [[50, 12, 12, 24]]
    assert "id" not in content["people"][0]
    assert run(other, "--output", output) == 0


def test_what_is_drawn_can_be_chosen(model, tmp_path):
    path = write_scene(tmp_path / "1.png", 30)
    drawn = {}
    for options in ("", "--no-parts", "--no-skeleton", "--boxes"):
        assert run(path, "--output", tmp_path / "out", *options.split()) == 0
        drawn[options] = cv2.imread(str(tmp_path / "out" / "1.jpg")).astype(int)
    assert len({image.tobytes() for image in drawn.values()}) == 4
    inside = drawn["--no-parts"][20, 40]
    assert (np.abs(inside - 250) < 12).all()  # the picture itself


def test_json_alone_and_nobody_unsure(model, tmp_path):
    path = write_scene(tmp_path / "1.png", 30, brightness=100)  # a score of 0.39
    output = tmp_path / "out"
    for options, count in ((), 0), (("--threshold", 0.3), 1):
        assert run(path, "--output", output, "--no-draw", "--json", *options) == 0
        assert names(output) == {"1.json"}
        assert len(json.loads((output / "1.json").read_text())["people"]) == count


@pytest.mark.parametrize("name", ["1.jpg", "1.mp4", "page.jpg"])
def test_no_input_is_written_over(model, tmp_path, name, capsys):
    path = tmp_path / name
    path.write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    assert run(path, "--output", tmp_path / "link") == 2
    assert run(path, "--output", tmp_path / "link", "--page") == 2
    assert path.read_text() == "mine" and name in capsys.readouterr().err
    beside = write_scene(tmp_path / "2.png", 30)
    assert run(beside, "--output", tmp_path) == 0
    assert names(tmp_path) == {name, "link", "2.png", "2.jpg"}


def test_json_may_lie_beside_its_pictures(model, tmp_path):
    cv2.imwrite(str(tmp_path / "1.jpg"), scene(30))
    assert run(tmp_path / "1.jpg", "--output", tmp_path, "--no-draw", "--json") == 0
    assert names(tmp_path) == {"1.jpg", "1.json"}


def test_a_page_has_its_pictures_small(model, tmp_path, monkeypatch):
    """As many may be in memory as are on the page, and photographs are large."""
    shapes, grid = [], drawing.grid

    def noted(images, columns, cell):
        shapes.extend(image.shape for image in images)
        return grid(images, columns, cell)

    monkeypatch.setattr(drawing, "grid", noted)
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.zeros((900, 600, 3), np.uint8))
    assert run(tmp_path, "--output", tmp_path / "out", "--no-draw", "--page") == 0
    assert names(tmp_path / "out") == {"page.jpg"}
    assert shapes[-2:] == [(240, 320, 3)] * 2


def test_an_output_that_cannot_be_written_is_named_in_one_line(model, tmp_path, capsys):
    path = write_scene(tmp_path / "1.png", 30)
    (tmp_path / "file").touch()
    (tmp_path / "out" / "1.jpg").mkdir(parents=True)
    for output, said in (("file", "file"), ("out", "1.jpg")):
        assert run(path, "--output", tmp_path / output) == 2
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error


def test_inputs_or_a_dataset(model, capsys):
    assert run() == 2
    assert run("1.jpg", "--dataset", "x.json") == 2
    assert capsys.readouterr().err.count("--dataset") == 2


def test_a_video_keeps_its_frames_and_people_their_ids(model, tmp_path, capsys):
    rate = 30000 / 1001
    path = write_walk(tmp_path / "walk.mp4", 60, rate)
    picture = write_scene(tmp_path / "walk.png", 30)
    output = tmp_path / "out"
    assert run(path, picture, "--output", output, "--json") == 0
    assert "2 people followed in 60 frames" in capsys.readouterr().out
    assert names(output) == {"walk.jpg", "walk.json", "walk_2.mp4", "walk_2.json"}
    given, _ = read_video(path)
    frames, found_rate = read_video(output / "walk_2.mp4")
    assert len(frames) == len(given) == 60 and found_rate == pytest.approx(rate, rel=1e-9)
    assert model.calls == 61
    content = json.loads((output / "walk_2.json").read_text())
    assert content["rate"] == pytest.approx(rate) and content["image_size"] == [48, 128]
    assert content["channels"] == list(BODYPARTS_7.channels) and content["source"] == str(path)
    assert [frame["frame"] for frame in content["frames"]] == list(range(60))
    ids = []
    for i, (frame, image) in enumerate(zip(content["frames"], frames, strict=True)):
        assert frame["time"] == pytest.approx(i / rate, abs=1e-6)
        people = sorted(frame["people"], key=lambda person: person["bbox"][0])
        assert [p["bbox"][0] for p in people] == pytest.approx(lefts(i), abs=1)
        for x in lefts(i):
            assert image.astype(int)[24, x + 6] @ [-1, 0, 1] > 50  # painted there
        ids.append([p.get("id") for p in people])
    assert ids[0] == [None, None]  # an id is given at the second sight
    assert sorted(ids[1]) == [1, 2] and ids[1:] == [ids[1]] * 59


def test_every_nth_frame(model, tmp_path):
    path = write_walk(tmp_path / "walk.mp4", 20)
    output = tmp_path / "out"
    assert run(path, "--output", output, "--json", "--every", 5) == 0
    assert model.calls == 4
    frames, _ = read_video(output / "walk.mp4")
    assert len(frames) == 20  # those between are there, with the people of before
    ends = [image.astype(int)[24, 4] @ [-1, 0, 1] > 50 for image in frames]  # who has left there
    assert ends == [True] * 5 + [False] * 15
    content = json.loads((output / "walk.json").read_text())
    assert [(f["frame"], f["time"]) for f in content["frames"]] == [
        (0, 0), (5, 0.2), (10, 0.4), (15, 0.6)
    ]  # fmt: skip
    ids = [sorted(p["id"] for p in f["people"]) for f in content["frames"][1:]]
    assert ids == [[1, 2]] * 3


def test_a_video_without_an_index_is_named_and_skipped(model, tmp_path, capfd):
    path = write_walk(tmp_path / "walk.mp4", 20)
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(path.read_bytes()[:-500])
    output = tmp_path / "out"
    assert run(bad, path, tmp_path / "no.avi", "--output", output) == 1
    error = capfd.readouterr().err
    assert f"no readable video: {bad}" in error and "no.avi" in error
    assert names(output) == {"walk.mp4"}


def test_a_video_that_breaks_off_is_named(model, tmp_path, monkeypatch, capsys):
    path = write_walk(tmp_path / "walk.mp4", 20)
    from detectron2_bodyparts.video import VideoReader

    def too_many(self, source):
        read(self, source)
        self.num_frames = 100

    read = VideoReader.__init__
    monkeypatch.setattr(VideoReader, "__init__", too_many)
    assert run(path, "--output", tmp_path / "out") == 1
    assert "ends after 0.8 of 4.0 seconds" in capsys.readouterr().err
    assert len(read_video(tmp_path / "out" / "walk.mp4")[0]) == 20
    assert run(path, "--output", tmp_path / "out", "--frames", 10) == 0
    assert len(read_video(tmp_path / "out" / "walk.mp4")[0]) == 10


def test_a_slow_video_is_whole(model, tmp_path):
    """Its last frame begins two seconds before its end."""
    path = write_walk(tmp_path / "walk.mp4", 5, rate=0.5)
    assert run(path, "--output", tmp_path / "out") == 0


class EndlessCamera:
    """As much of OpenCV's ``VideoCapture`` as is used."""

    def __init__(self, number: int) -> None:
        self.count = -1 if number == 0 else None

    def read(self):
        if self.count is None:
            return False, None
        self.count += 1
        return True, scene(10 + self.count, 90)

    def get(self, key):
        return 10.0

    def release(self):
        pass


@pytest.fixture
def cameras(monkeypatch) -> None:
    """Camera 0 goes on for ever, and there is no other."""
    for name in ("av", "trackers"):
        pytest.importorskip(name, reason="needs the extra `video`")
    taken = cv2.VideoCapture
    monkeypatch.setattr(
        cv2, "VideoCapture", lambda s: EndlessCamera(s) if isinstance(s, int) else taken(s)
    )


def test_a_camera(model, cameras, tmp_path, capsys):
    output = tmp_path / "out"
    assert run("webcam", 4, "--frames", 15, "--output", output, "--json") == 1
    assert "skipped, no readable camera: 4" in capsys.readouterr().err
    assert names(output) == {"camera0.mp4", "camera0.json"}
    assert len(read_video(output / "camera0.mp4")[0]) == 15
    content = json.loads((output / "camera0.json").read_text())
    times = [frame["time"] for frame in content["frames"]]
    assert len(times) == 15 and times == sorted(times)
    assert {p["id"] for f in content["frames"][1:] for p in f["people"]} == {1, 2}


def press_ctrl_c(monkeypatch, model: BrightPeople, picture: int) -> None:
    """While the model looks at that picture, counted from 1."""
    look = BrightPeople.__call__

    def pressed(self, image):
        people = look(self, image)
        if self.calls == picture:
            signal.raise_signal(signal.SIGINT)
        return people

    monkeypatch.setattr(BrightPeople, "__call__", pressed)


def test_ctrl_c_ends_a_camera_with_whole_files(model, cameras, tmp_path, monkeypatch, capsys):
    press_ctrl_c(monkeypatch, model, 7)
    before = signal.getsignal(signal.SIGINT)
    output = tmp_path / "out"
    later = write_walk(tmp_path / "later.mp4", 3)
    assert run(0, later, "--output", output, "--json") == 130
    assert signal.getsignal(signal.SIGINT) is before
    error = capsys.readouterr().err
    assert error.strip().count("\n") == 0 and "interrupted" in error
    assert names(output) == {"camera0.mp4", "camera0.json"}
    assert len(read_video(output / "camera0.mp4")[0]) == 7
    assert len(json.loads((output / "camera0.json").read_text())["frames"]) == 7


def test_ctrl_c_finishes_the_picture(model, tmp_path, monkeypatch):
    press_ctrl_c(monkeypatch, model, 2)
    for i in range(4):
        write_scene(tmp_path / "in" / f"{i}.png", 30)
    output = tmp_path / "out"
    assert run(tmp_path / "in", "--output", output, "--json") == 130
    assert names(output) == {"0.jpg", "0.json", "1.jpg", "1.json"}
    assert json.loads((output / "1.json").read_text())["people"]


def test_ctrl_c_in_a_process_leaves_a_video_and_its_json(tmp_path):
    path = write_walk(tmp_path / "walk.mp4", 2000)  # minutes of work: it will not come to the end
    output = tmp_path / "out"
    command = [sys.executable, "-m", "detectron2_bodyparts.cli", "predict", path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(predict.__file__).parents[2]
    process = subprocess.Popen(
        [*command, "--output", output, "--json"],
        cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 100
        while not any(output.glob("walk.json*.tmp")):  # it has begun
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in error and "Traceback" not in error
    assert names(output) == {"walk.mp4", "walk.json"}
    count = len(json.loads((output / "walk.json").read_text())["frames"])
    assert 0 < count < 2000
    assert len(read_video(output / "walk.mp4")[0]) == count


@pytest.mark.parametrize("missing", ["av", "supervision", "trackers"])
def test_without_the_extra_only_videos_are_refused(model, tmp_path, monkeypatch, missing, capsys):
    find_spec = predict.importlib.util.find_spec
    monkeypatch.setattr(
        predict.importlib.util, "find_spec", lambda n: None if n == missing else find_spec(n)
    )
    assert run(tmp_path / "walk.mp4", "--output", tmp_path / "out") == 2
    assert "pip install 'detectron2_bodyparts[video]'" in capsys.readouterr().err
    assert run(write_scene(tmp_path / "1.png", 30), "--output", tmp_path / "out") == 0


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Records of two pictures of one person each, who is all head; their ids are 1 and 2."""
    records = Records(BODYPARTS_7, COCO_17)
    for i, left in enumerate((30, 60)):
        write_scene(tmp_path / "data" / "images" / f"{i}.png", left, brightness=100 + 100 * i)
        body = np.zeros(SIZE, bool)
        body[12:36, left : left + 12] = True
        annotation = person_annotation(
            BODYPARTS_7, COCO_17, SIZE, body=body, parts={"head": body}, bbox=(left, 12, 12, 24)
        )
        records.add_image(f"images/{i}.png", *SIZE, [annotation])
    write_records(tmp_path / "data" / "records.json", records)
    return tmp_path / "data" / "records.json"


def test_predictions_of_a_dataset_are_what_evaluate_reads(model, dataset, tmp_path):
    output = tmp_path / "out"
    assert run("--dataset", dataset, "--output", output, "--threshold", 0.9) == 0
    assert names(output) == {"predictions.json"}
    predictions = json.loads((output / "predictions.json").read_text())
    assert [p["image_id"] for p in predictions] == [1, 2]
    assert predictions[0]["score"] < 0.4  # unsure people count in the metrics, too
    joints = np.reshape(predictions[0]["keypoints"], (17, 3))  # the dataset's, not the model's
    assert not joints[COCO_17.keypoints.index("nose")].any()
    numbers = tmp_path / "numbers.json"
    evaluate = ["evaluate", "--annotations", str(dataset), "--json", str(numbers)]
    assert main([*evaluate, "--predictions", str(output / "predictions.json")]) == 0
    figures = json.loads(numbers.read_text())
    assert figures["bbox"]["AP"] == figures["parts"]["AP-head"] == pytest.approx(100)


def test_a_dataset_may_have_coarser_parts_than_the_model(model, dataset, tmp_path):
    coarse = PartSchema("coarse-test", ("body", "head", "arm"))
    register_part_schema(coarse)
    records = read_records(dataset)
    records.part_schema = coarse
    write_records(dataset, records)
    model.part = "right_arm"
    assert run("--dataset", dataset, "--output", tmp_path / "out") == 0
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [set(p["part_segmentation"]) for p in predictions] == [{"arm"}, {"arm"}]


def test_pictures_of_a_dataset_that_are_missing_are_named(model, dataset, tmp_path, capsys):
    images = dataset.parent / "images"
    (images / "0.png").unlink()
    cv2.imwrite(str(images / "1.png"), np.zeros((9, 9, 3), np.uint8))
    assert run("--dataset", dataset, "--output", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "0.png" in error and "no readable picture of 128x48" in error and "1.png" in error
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == []
    elsewhere = tmp_path / "elsewhere"
    for i in range(2):
        write_scene(elsewhere / "images" / f"{i}.png", 30)
    options = ["--images", elsewhere, "--output", tmp_path / "out"]
    assert run("--dataset", dataset, *options) == 0


def test_an_interrupted_dataset_leaves_no_predictions(
    model, dataset, tmp_path, monkeypatch, capsys
):
    press_ctrl_c(monkeypatch, model, 1)
    assert run("--dataset", dataset, "--output", tmp_path / "out") == 130
    assert "no predictions" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_datasets_that_cannot_be_predicted(model, dataset, tmp_path, capsys):
    assert run("--dataset", tmp_path / "no.json") == 2
    assert "no.json" in capsys.readouterr().err
    records = dataset.rename(dataset.with_name("predictions.json"))
    assert run("--dataset", records, "--output", records.parent) == 2
    assert "written over" in capsys.readouterr().err
    write_records(records, Records(PASCAL_PERSON_PART, COCO_17))
    assert run("--dataset", records, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert PASCAL_PERSON_PART.name in error and "bodyparts-7" in error
