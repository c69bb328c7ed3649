"""Time and memory of the parsing metrics, against plain loops over whole planes.

    python benchmarks/bench_evaluation.py --pictures 5000 --plain 10

Images of 500x375 with three ground-truth people each, predicted slightly displaced, are generated
on the fly; generating them is not timed. The plain loops (`plain_parsing`) are far too slow for all
of them: they run on the first few, once as they are (everything is measured again for each
threshold) and once with each pair of people measured once, and must give the same results.
"""

from __future__ import annotations

import argparse
import pickle
import resource
import sys
import time
from collections.abc import Iterable, Iterator

import numpy as np
from plain_parsing import PlainFound, PlainPicture, PlainTruth, keep_measures, plain_result

from detectron2_bodyparts.metrics import evaluate
from detectron2_bodyparts.metrics.instances import FoundPerson, TruePerson, TruePicture
from detectron2_bodyparts.metrics.parsing import ParsingMetrics
from detectron2_bodyparts.people import Crop
from detectron2_bodyparts.records import Records, person_annotation
from detectron2_bodyparts.schema import BODYPARTS_7, COCO_17

HEIGHT, WIDTH = 375, 500
PEOPLE = 3
PAINT_THRESHOLD = 0.3
CLASSES = BODYPARTS_7.parts

# A standing figure on the unit square: XYXY of each class, from class 1.
_FIGURE = (
    (0.35, 0.0, 0.65, 0.18),
    (0.25, 0.18, 0.75, 0.55),
    (0.0, 0.2, 0.25, 0.6),
    (0.75, 0.2, 1.0, 0.6),
    (0.25, 0.55, 0.5, 1.0),
    (0.5, 0.55, 0.75, 1.0),
)


def figure(x0: int, y0: int, width: int, height: int) -> Crop:
    """A person whose box lies inside the image."""
    labels = np.zeros((height, width), dtype=np.uint8)
    for c, box in enumerate(_FIGURE, start=1):
        left, top, right, bottom = np.multiply(box, (width, height, width, height)).astype(int)
        labels[top:bottom, left:right] = c
    return Crop(x0, y0, labels, labels > 0)


def pictures(count: int, seed: int) -> Iterator[tuple[TruePicture, list[FoundPerson]]]:
    rng = np.random.default_rng(seed)
    for image_id in range(count):
        people, found = [], []
        for _ in range(PEOPLE):
            size = rng.integers((50, 120), (150, 320))
            corner = rng.integers((10, 10), (WIDTH - 10, HEIGHT - 10) - size)
            box = np.concatenate([corner, corner + size]).astype(float)
            known = np.ones(len(CLASSES) + 1, dtype=bool)
            people.append(TruePerson(figure(*corner, *size), known, box))
            moved = corner + rng.integers(-10, 11, size=2)
            found.append(FoundPerson(figure(*moved, *size), round(float(rng.random()), 3)))
        yield TruePicture(image_id, (HEIGHT, WIDTH), people), found


def as_files(
    pairs: Iterable[tuple[TruePicture, list[FoundPerson]]],
) -> tuple[Records, list[dict]]:
    """The ground truth as records, the predicted people as COCO-style predictions."""
    records, predictions = Records(BODYPARTS_7, COCO_17), []
    for picture, people in pairs:
        truths = [annotation(p.crop) for p in picture.people]
        image_id = records.add_image(f"{picture.image_id}.jpg", HEIGHT, WIDTH, truths)
        keys = ("bbox", "segmentation", "part_segmentation")
        for person in people:
            found = {key: value for key, value in annotation(person.crop).items() if key in keys}
            predictions.append({**found, "image_id": image_id, "score": person.score})
    return records, predictions


def annotation(crop: Crop) -> dict:
    _, labels, body = plane(crop)
    parts = {name: labels == c for c, name in enumerate(CLASSES, start=1)}
    return person_annotation(BODYPARTS_7, COCO_17, (HEIGHT, WIDTH), body=body, parts=parts)


def plane(crop: Crop) -> tuple[Crop, np.ndarray, np.ndarray]:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    body = np.zeros((HEIGHT, WIDTH), dtype=bool)
    labels[crop.slices], body[crop.slices] = crop.labels, crop.body
    return crop, labels, body


def plain(picture: TruePicture, people: list[FoundPerson]) -> PlainPicture:
    nowhere = np.zeros((HEIGHT, WIDTH), dtype=bool)
    truths = [PlainTruth(*plane(p.crop)[1:], p.known) for p in picture.people]
    found = [PlainFound(*plane(p.crop)[1:], p.score) for p in people]
    return PlainPicture(picture.image_id, truths, found, nowhere, nowhere)


def peak_memory() -> float:
    """Peak memory of the process since its start, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--plain", type=int, default=5, help="images for the plain loop")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"{WIDTH}x{HEIGHT}, {PEOPLE} people a picture, {len(CLASSES)} classes")

    before = peak_memory()
    metrics = ParsingMetrics(CLASSES, paint_threshold=PAINT_THRESHOLD)
    seconds = 0.0
    for picture, people in pictures(args.pictures, args.seed):
        start = time.perf_counter()
        metrics.add(picture, people)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    metrics.result()
    result_seconds = time.perf_counter() - start
    ours = (seconds + result_seconds) / args.pictures
    kept = len(pickle.dumps(metrics)) / 2**20
    print(f"ours, {args.pictures} pictures: {seconds:.1f} s, figures {result_seconds:.2f} s")
    print(f"  {1000 * ours:.2f} ms a picture; kept {kept:.1f} MiB")
    print(f"  peak memory {peak_memory():.0f} MiB, {before:.0f} MiB of it before")

    records, predictions = as_files(pictures(args.pictures, args.seed))
    before = peak_memory()
    start = time.perf_counter()
    evaluate(records, predictions)
    seconds = time.perf_counter() - start
    print("everything, from records and predictions (RLE; AP of all channels, parsing, sides):")
    print(f"  {seconds:.0f} s, {1000 * seconds / args.pictures:.1f} ms a picture")
    print(f"  peak memory {peak_memory():.0f} MiB, {before:.0f} MiB of it the files' content")

    few = list(pictures(args.plain, args.seed))
    metrics = ParsingMetrics(CLASSES, paint_threshold=PAINT_THRESHOLD)
    for picture, people in few:
        metrics.add(picture, people)
    planes = [plain(*pair) for pair in few]
    for keep, name in ((False, "as it stands"), (True, "each pair measured once")):
        keep_measures(planes, keep)
        start = time.perf_counter()
        result = plain_result(planes, CLASSES, PAINT_THRESHOLD)
        theirs = (time.perf_counter() - start) / args.plain
        np.testing.assert_allclose(list(result.values()), list(map(metrics.result().get, result)))
        print(f"plain loop, {name}, {args.plain} pictures, same figures:")
        print(f"  {1000 * theirs:.0f} ms a picture; ours is {theirs / ours:.0f} times as fast")


if __name__ == "__main__":
    main()
