"""Videos are written and read back; people keep their ids."""

from __future__ import annotations

import itertools
from fractions import Fraction

import cv2
import numpy as np
import pytest

from detectron2_bodyparts.people import People
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

REASON = "needs the extra `video`"
av = pytest.importorskip("av", reason=REASON)
video = pytest.importorskip("detectron2_bodyparts.video", reason=REASON)
tracking = pytest.importorskip("detectron2_bodyparts.tracking", reason=REASON)


def write_shades(path, count, size=(48, 64), rate=25.0) -> None:
    """Frame i is of the grey 5 * i."""
    with video.VideoWriter(path, size, rate) as writer:
        for i in range(count):
            writer.write(np.full((*size, 3), 5 * i, np.uint8), i / rate)


@pytest.mark.parametrize("size", [(48, 64), (47, 64), (48, 65)])
@pytest.mark.parametrize("rate", [24000 / 1001, 25.0, 30000 / 1001, 60000 / 1001, 12.5])
def test_a_video_is_read_back_with_all_its_frames(tmp_path, size, rate):
    write_shades(tmp_path / "v.mp4", 47, size, rate)
    with video.VideoReader(tmp_path / "v.mp4") as reader:
        frames = list(reader)
    assert reader.size == size and reader.num_frames == len(frames) == 47
    assert reader.rate == pytest.approx(rate, rel=1e-9)
    np.testing.assert_allclose([time for time, _ in frames], np.arange(47) / rate)
    for i, (_, image) in enumerate(frames):
        assert image.shape == (*size, 3)
        assert np.abs(image.astype(int) - 5 * i).max() <= 6


def test_colours_are_bgr(tmp_path):
    with video.VideoWriter(tmp_path / "v.mp4", (32, 32), 25) as writer:
        writer.write(np.full((32, 32, 3), (250, 20, 20), np.uint8), 0)
    with video.VideoReader(tmp_path / "v.mp4") as reader:
        ((_, image),) = reader
    blue, _, red = image[16, 16].astype(int)
    assert blue > 200 and red < 60


def test_a_video_is_what_browsers_play(tmp_path):
    write_shades(tmp_path / "v.mp4", 3)
    with av.open(str(tmp_path / "v.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert context.name == "h264" and context.pix_fmt == "yuv420p"


def test_frames_are_shown_when_they_were_taken(tmp_path):
    times = [0.0, 0.11, 0.31, 0.315, 0.9]  # a camera's, slower and faster than it promised
    with video.VideoWriter(tmp_path / "v.mp4", (32, 32), 30) as writer:
        for time in times:
            writer.write(np.zeros((32, 32, 3), np.uint8), time)
    with av.open(str(tmp_path / "v.mp4")) as container:
        found = [frame.pts * frame.time_base for frame in container.decode(video=0)]
    assert found == [Fraction(str(time)) for time in times]
    with video.VideoReader(tmp_path / "v.mp4") as reader:
        np.testing.assert_allclose([time for time, _ in reader], times, atol=1e-6)


class Timeless:
    """OpenCV's ``VideoCapture`` of a file without times. Python must not inherit from the class."""

    def __init__(self, path: str, taken=cv2.VideoCapture) -> None:
        self.capture = taken(path)
        self.read, self.release = self.capture.read, self.capture.release

    def get(self, key):
        return 0.0 if key == cv2.CAP_PROP_POS_MSEC else self.capture.get(key)


def test_a_file_without_times_has_those_of_its_rate(tmp_path, monkeypatch):
    write_shades(tmp_path / "v.mp4", 4, rate=10)
    monkeypatch.setattr(cv2, "VideoCapture", Timeless)
    with video.VideoReader(tmp_path / "v.mp4") as reader:
        assert [time for time, _ in reader] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_reader_that_is_closed_has_no_more_frames(tmp_path):
    write_shades(tmp_path / "v.mp4", 4)
    reader = video.VideoReader(tmp_path / "v.mp4")
    frames = iter(reader)
    next(frames)
    reader.close()
    assert list(frames) == []


def test_what_is_no_video_is_named(tmp_path):
    write_shades(tmp_path / "whole.mp4", 20)
    content = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])  # its index is at the end
    (tmp_path / "text.avi").write_text("no video")
    for name in ("cut.mp4", "text.avi", "missing.mp4"):
        with pytest.raises(OSError, match=f"no readable video: .*{name}"):
            video.VideoReader(tmp_path / name)


class FakeCamera:
    """As much of OpenCV's ``VideoCapture`` as is used: five frames, no rate."""

    rate = 0.0

    def __init__(self, number: int) -> None:
        assert number == 3
        self.left = 5
        self.is_released = False

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((6, 8, 3), max(self.left, 0), np.uint8)

    def get(self, key):
        assert key == cv2.CAP_PROP_FPS
        return self.rate

    def release(self):
        self.is_released = True


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_camera_has_the_times_of_the_clock(monkeypatch, rate):
    monkeypatch.setattr(cv2, "VideoCapture", FakeCamera)
    monkeypatch.setattr(FakeCamera, "rate", rate)
    clock = iter([100.0, 100.5, 101.0, 103.0, 104.5, 106.0])  # the first: the start
    monkeypatch.setattr("detectron2_bodyparts.video.time.monotonic", lambda: next(clock))
    with video.VideoReader(3) as reader:
        assert reader.size == (6, 8) and reader.num_frames is None
        assert reader.rate == video.DEFAULT_RATE
        frames = list(reader)
    assert [time for time, _ in frames] == [0.5, 1.0, 3.0, 4.5, 6.0]
    assert [image[0, 0, 0] for _, image in frames] == [4, 3, 2, 1, 0]
    assert reader._capture.is_released


def people_at(*places: float) -> People:
    """People 20 wide whose left sides are there."""
    boxes = np.array([[x, 10, x + 20, 60] for x in places]).reshape(-1, 4)
    scores = np.full(len(boxes), 0.5)
    return People((80, 400), boxes, scores, None, None, BODYPARTS_7, COCO_17)


def test_people_keep_their_ids_whatever_their_order():
    tracker = tracking.PeopleTracker(25)
    found = []
    for t in range(30):
        places = [10 + 4 * t, 300 - 3 * t]
        turn = slice(None, None, 1 if t % 3 else -1)
        people = tracker(people_at(*places[turn]), t / 25)
        assert people.boxes[:, 0].tolist() == places[turn]
        found.append(people.ids.tolist()[turn])
    assert found[0] == [0, 0]  # on the first picture nobody has one
    assert sorted(found[1]) == [1, 2] and found[2:] == [found[1]] * 28


def test_an_id_outlives_a_second_out_of_sight_and_no_more():
    """Also where a camera aims at more pictures a second than the model can look at."""
    for aim, real in ((25, 25), (30, 5)):
        for seconds, is_same in ((0.9, True), (1.5, False)):
            tracker, clock = tracking.PeopleTracker(aim), itertools.count()

            def see(*places: float, tracker=tracker, clock=clock, real=real) -> list[int]:
                return tracker(people_at(*places), next(clock) / real).ids.tolist()

            assert [see(50) for _ in range(3)] == [[0], [1], [1]]
            assert all(see() == [] for _ in range(int(seconds * real) - 1))
            assert [see(50) for _ in range(2)][-1] == ([1] if is_same else [2])


def test_people_are_followed_at_any_rate():
    tracker = tracking.PeopleTracker(0.25)  # a picture each four seconds
    ids = [tracker(people_at(50, 200), 4.0 * t).ids.tolist() for t in range(3)]
    assert ids == [[0, 0], [1, 2], [1, 2]]
    tracker = tracking.PeopleTracker(30)  # what a camera aims at; the model takes two seconds
    ids = [tracker(people_at(50, 200), 2.0 * t).ids.tolist() for t in range(3)]
    assert ids == [[0, 0], [1, 2], [1, 2]]


def test_two_videos_have_ids_of_their_own():
    for _ in range(2):
        tracker = tracking.PeopleTracker(25)
        tracker(people_at(50), 0.0)
        assert tracker(people_at(52), 0.04).ids.tolist() == [1]
