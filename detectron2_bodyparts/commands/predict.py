"""Detect people in images, videos or a webcam stream, and write drawings, videos and JSON.

Inputs are any number of images, folders (their images, in natural order), videos (recognized by
file extension) and cameras (by number, or `webcam` for camera 0). Each gets a drawing under its own
name in the folder --output, .jpg or .mp4 (H.264, without sound), and with --json a .json; a second
input of the same name becomes name_2. Existing files are overwritten, except inputs.

In videos a person keeps a track ID, drawn as #1. It is assigned when somebody is seen for the
second time, and lost after a second out of sight. A camera is read until Ctrl-C, which leaves valid
files.

With --dataset, the model runs on the images of an annotation file instead, and writes
predictions.json for `bodyparts evaluate` and `bodyparts report`, which take the same annotation
file. It contains all of the model's detections, whatever the --threshold, since metrics also use
low scores. To write annotations instead: `bodyparts annotate`.

Exit code: 1 if an input could not be read, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import signal
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from ..deploy import Predictor
from ..people import People
from ..readers.prepare import positive_int, read_picture
from ..records import read_records, whole_file, write_json
from .common import INTERRUPTED, CommandError, faults_in_one_line
from .model import add_model_arguments, load_predictor
from .pictures import find_inputs, output_names

PAGE_NAME = "page"
PAGE_PICTURES = 20  # maximum number of images on the page of `predict --page`
PAGE_CELL = (240, 320)  # (height, width) of each, in pixels
TOLERANCE = 1.0  # seconds by which an intact video may be shorter than it claims


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.add_argument("inputs", nargs="*", help="images, folders, videos, camera numbers")
    parser.add_argument("--dataset", metavar="FILE", help="use the images of this annotation file")
    parser.add_argument(
        "--images", metavar="FOLDER", help="folder of --dataset's images (default: beside FILE)"
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default="output/predictions",
        help="folder to write to (default: %(default)s)",
    )
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--draw", action=flag, default=True, help="write drawings and videos")
    parser.add_argument("--parts", action=flag, default=True, help="paint the parts")
    parser.add_argument("--skeleton", action=flag, default=True, help="draw the skeleton")
    parser.add_argument("--boxes", action=flag, default=False, help="draw boxes and scores")
    parser.add_argument("--json", action="store_true", help="write a JSON file for each input")
    parser.add_argument(
        "--page", action="store_true", help="also write a page of the first drawings"
    )
    parser.add_argument(
        "--every",
        type=positive_int,
        default=1,
        metavar="N",
        help="run the model on every Nth frame of a video only; frames in between are drawn with"
        " the last people found and are not in the JSON; whoever moves by a body's width within N"
        " frames loses the track ID",
    )
    parser.add_argument(
        "--frames", type=positive_int, metavar="N", help="stop a video or camera after N frames"
    )


def run(args: argparse.Namespace) -> int:
    """Detect people and write the outputs. Returns the exit code; see the module docstring."""
    if bool(args.inputs) == bool(args.dataset):
        raise CommandError("give pictures, videos or cameras, or else a --dataset")
    if args.dataset:
        args.threshold = None
    find = predict_dataset if args.dataset else predict_inputs
    with stopping() as stop, faults_in_one_line():
        all_read = find(args, stop)
    if stop.is_set():
        return INTERRUPTED
    return 0 if all_read else 1


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that is set by the first Ctrl-C, so that files being written can be finished.

    A second Ctrl-C raises ``KeyboardInterrupt`` as usual.
    """
    stop = threading.Event()

    def set_stop(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, set_stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def say(words: str) -> None:
    """Print a line to stderr without breaking a progress bar."""
    tqdm.write(words, file=sys.stderr)


def predict_inputs(args: argparse.Namespace, stop: threading.Event) -> bool:
    """Write predictions for images, videos and cameras. Returns whether all could be read."""
    pictures, videos = find_inputs(args.inputs)
    names = output_names([*pictures, *videos], taken=[PAGE_NAME] if args.page else [])
    outputs = [args.output / name for name in names]
    endings = [".jpg"] * len(pictures) + [".mp4"] * len(videos)
    written = [args.output / f"{PAGE_NAME}.jpg"] if args.page else []
    for output, ending in zip(outputs, endings, strict=True):
        if args.draw:
            written.append(f"{output}{ending}")
        if args.json:
            written.append(f"{output}.json")
    refuse_inputs(written, [*pictures, *videos])
    if videos:
        require_video()
    predictor = load_predictor(args)
    args.output.mkdir(parents=True, exist_ok=True)

    all_read = not pictures or predict_pictures(pictures, outputs, predictor, args, stop)
    for source, output in zip(videos, outputs[len(pictures) :], strict=True):
        if not stop.is_set():
            all_read &= predict_video(source, output, predictor, args, stop)
    if stop.is_set():
        say(f"interrupted; what was done is in {args.output}")
    return all_read


def refuse_inputs(outputs: list[Path | str], inputs: list[Path | int]) -> None:
    """Raise ``CommandError`` if an output file is one of the inputs."""
    written = {Path(output).resolve() for output in outputs}
    for source in inputs:
        if isinstance(source, Path) and source.resolve() in written:
            raise CommandError(f"{source} would be written over: choose another --output")


def predict_pictures(
    pictures: list[Path],
    outputs: list[Path],
    predictor: Predictor,
    args: argparse.Namespace,
    stop: threading.Event,
) -> bool:
    """Write predictions for images. Returns whether all could be read.

    Args:
        pictures: the files.
        outputs: output paths without extension, in the same order; surplus ones are not used.
        predictor, args: the model, and the command's options.
        stop: if set, processing stops.
    """
    from ..drawing import grid, legend

    all_read, total, drawings = True, 0, []
    bar = tqdm(list(zip(pictures, outputs, strict=False)), unit="picture", disable=None)
    for path, output in bar:
        if stop.is_set():
            break
        image = read_picture(path)
        if image is None:
            all_read = False
            say(f"skipped, no readable picture: {path}")
            continue
        people = predictor(image)
        total += len(people)
        on_page = args.page and len(drawings) < PAGE_PICTURES
        if args.draw or on_page:
            drawn = draw(image, people, args)
        if args.draw:
            write_picture(output, drawn)
        if args.json:
            write_json(f"{output}.json", {"source": str(path), **people.to_json()})
        if on_page:
            drawings.append(grid([drawn], 1, PAGE_CELL))  # images may be large, cells are not
    if drawings:
        page = grid(drawings, 5, PAGE_CELL)
        page = np.hstack([page, legend(predictor.part_schema, page.shape[0])])
        write_picture(args.output / PAGE_NAME, page)
        print(f"page of {len(drawings)} pictures: {args.output / PAGE_NAME}.jpg")
    print(f"{total} people on pictures: {args.output}")
    return all_read


def predict_video(
    source: Path | int,
    output: Path,
    predictor: Predictor,
    args: argparse.Namespace,
    stop: threading.Event,
) -> bool:
    """Write predictions for a video or camera. Returns whether it could be read.

    Args:
        source: the file, or the camera's number.
        output: output path without extension.
        predictor, args: the model, and the command's options.
        stop: if set, processing stops.
    """
    from ..tracking import PeopleTracker
    from ..video import VideoReader, VideoWriter

    try:
        reader = VideoReader(source)
    except OSError as e:
        say(f"skipped, {e}")
        return False
    tracker = PeopleTracker(reader.rate / args.every)
    ids: set[int] = set()
    with contextlib.ExitStack() as files:
        files.enter_context(reader)
        if args.draw:
            size, rate = reader.size, reader.rate
            video = files.enter_context(VideoWriter(f"{output}.mp4", size, rate))
        if args.json:
            text = files.enter_context(whole_file(f"{output}.json"))
        limits = [n for n in (reader.num_frames, args.frames) if n is not None]
        bar = tqdm(total=min(limits, default=None), desc=output.name, unit="frame", disable=None)
        files.enter_context(bar)
        for index, (time, image) in enumerate(islice(reader, args.frames)):
            if index % args.every == 0:
                people = tracker(predictor(image), time)
                ids.update(person.id for person in people if person.id)
                if args.json:
                    text.write(frame_json(source, reader.rate, index, time, people))
            if args.draw:
                video.write(draw(image, people, args), time)
            bar.update()
            if stop.is_set():
                break
        if args.json:
            text.write("\n]}\n")
    print(f"{len(ids)} people followed in {index + 1} frames of {source}: {output.parent}")
    seconds = (reader.num_frames or 0) / reader.rate
    # The later of timestamp and frame count, because frame durations may vary.
    end = max(time + 1 / reader.rate, (index + 1) / reader.rate)
    is_cut_short = stop.is_set() or index + 1 == args.frames
    if end < seconds - TOLERANCE and not is_cut_short:
        say(f"broken, it ends after {end:.1f} of {seconds:.1f} seconds: {source}")
        return False
    return True


def frame_json(source: Path | int, rate: float, index: int, time: float, people: People) -> str:
    """A frame as a line of its video's JSON; the first one includes the start of the file.

    Written line by line, because the people of a long video do not fit into memory.
    """
    content = people.to_json()
    frame = {"frame": index, "time": round(time, 6), "people": content.pop("people")}
    if index > 0:
        return f",\n{json.dumps(frame)}"
    head = json.dumps({"source": str(source), "rate": rate, **content})
    return f'{head[:-1]}, "frames": [\n{json.dumps(frame)}'


def draw(image: np.ndarray, people: People, args: argparse.Namespace) -> np.ndarray:
    """Draw people on their image, (H, W, 3) BGR uint8, according to the options."""
    from ..drawing import draw_people

    return draw_people(image, people, parts=args.parts, skeleton=args.skeleton, boxes=args.boxes)


def write_picture(output: Path, image: np.ndarray) -> None:
    """Write a JPEG; ``output`` has no extension yet.

    Raises:
        CommandError: it cannot be written.
    """
    if not cv2.imwrite(f"{output}.jpg", image):
        raise CommandError(f"{output}.jpg cannot be written")


def require_video() -> None:
    """Raise ``CommandError`` if the extra ``video`` is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("av", "supervision", "trackers")):
        raise CommandError("videos need more: pip install 'detectron2_bodyparts[video]'")


def predict_dataset(args: argparse.Namespace, stop: threading.Event) -> bool:
    """Write predictions.json for a file of records, in the format of `BodyPartsEvaluator`.

    Returns:
        Whether all images could be read.

    Raises:
        CommandError: the records' part schema is not a view of the model's.
    """
    records = read_records(args.dataset)
    path = args.output / "predictions.json"
    refuse_inputs([path], [Path(args.dataset)])
    root = Path(args.images or Path(args.dataset).parent)
    predictor = load_predictor(args)
    if not records.part_schema.is_view_of(predictor.part_schema):
        raise CommandError(
            f"the model's parts are {predictor.part_schema.name}, those of {args.dataset} are"
            f" {records.part_schema.name}, which is no view of them"
        )
    all_read, predictions = True, []
    for record in tqdm(records.images, unit="picture", disable=None):
        if stop.is_set():
            # The rest would count as images without detections.
            say("interrupted; no predictions were written")
            return all_read
        picture = root / record["file_name"]
        image = read_picture(picture)
        size = (record["height"], record["width"])
        if image is None or image.shape[:2] != size:
            all_read = False
            say(f"skipped, no readable picture of {size[1]}x{size[0]}: {picture}")
            continue
        people = predictor(image).view(records.part_schema)
        predictions += people.to_annotations(record["id"], records.keypoint_schema)
    write_json(path, predictions)
    print(f"{len(predictions)} people: {path}")
    return all_read
