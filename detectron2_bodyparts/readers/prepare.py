"""Prepare a dataset once: its items -> one shard each -> one file of records.

An item is the unit that a reader converts: an image, a clip. Shards are stored in a folder beside
the output (``<output>.shards/``) and written atomically, so that processes work in parallel and an
interrupted run resumes. They are merged in the order of the items, so that the output does not
depend on the number of processes, and removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ..records import RecordError, Records, stream_records, whole_file, write_json
from ..schema import BODY, KeypointSchema, PartSchema, get_part_schema

_EXAMPLES = 3  # examples that a summary lists for each reason
DERIVED = "_derived"  # suffix of the name of a split with derived parts
_MAX_CHUNK = 32  # items a process takes at once: more would make the progress bar jump


class BadInput(ValueError):
    """A file of the dataset is faulty: its item is named, counted and skipped.

    Args:
        where: the file, or a place in it.
        expected: in the same words for the same fault, since summaries are grouped by it.
        found: what was found instead.
    """

    def __init__(self, where: str | os.PathLike, expected: str, found: str) -> None:
        super().__init__(os.fspath(where), expected, found)
        self.where = os.fspath(where)
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class LeftOut:
    """Something that is not in the records.

    Args:
        where: the file, or a place in it.
        reason: in the same words for the same fault, since summaries are grouped by it.
        found: the details.
    """

    where: str
    reason: str
    found: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.found}" if self.found else self.where


@dataclass
class Picture:
    """An image and its people.

    Args:
        file_name: relative to the dataset's folder.
        height, width: in pixels.
        annotations: as returned by `records.person_annotation` and `records.ignore_annotation`.
        exhaustive: false if there may be unlabelled people.
        extra: additional keys of the image's record.
    """

    file_name: str
    height: int
    width: int
    annotations: list[dict[str, Any]] = field(default_factory=list)
    exhaustive: bool = True
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Shard:
    """The result of one item: images, and what was left out of them."""

    pictures: list[Picture] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


@dataclass
class Summary:
    """What a file of records contains, and what was left out of it. ``str()`` is a table.

    Args:
        output: the file.
        part_schema, keypoint_schema: the schemas of the annotations.
        pictures, pictures_with_people, people, people_with_joints, ignore_regions: counts.
        states: (channel, "known" | "derived") -> number of people with the channel in that state.
        masks: channel -> number of people with a mask of it.
        joints: keypoint -> number of people for whom it is labelled.
        left_out: everything that was left out, in the order of the items.
    """

    output: Path
    part_schema: PartSchema
    keypoint_schema: KeypointSchema
    pictures: int = 0
    pictures_with_people: int = 0
    people: int = 0
    people_with_joints: int = 0
    ignore_regions: int = 0
    states: Counter[tuple[str, str]] = field(default_factory=Counter)
    masks: Counter[str] = field(default_factory=Counter)
    joints: Counter[str] = field(default_factory=Counter)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def channels(self) -> tuple[str, ...]:
        """The schema's channels, and the unions that occur."""
        unions = {channel for channel, _ in self.states} - set(self.part_schema.channels)
        return (*self.part_schema.channels, *sorted(unions))

    def add(self, picture: Picture) -> None:
        """Count an image and its people."""
        people = [a for a in picture.annotations if not a["iscrowd"]]
        self.pictures += 1
        self.pictures_with_people += bool(people)
        self.people += len(people)
        self.ignore_regions += len(picture.annotations) - len(people)
        for person in people:
            self.people_with_joints += person["num_keypoints"] > 0
            self.states.update(person["part_state"].items())
            self.masks.update([*person["part_segmentation"], *person.get("unsided", ())])
            self.masks[BODY] += "segmentation" in person
            visible = zip(self.keypoint_schema.keypoints, person["keypoints"][2::3], strict=True)
            self.joints.update(joint for joint, v in visible if v > 0)

    def __str__(self) -> str:
        width = max(14, *(len(channel) + 2 for channel in self.channels))
        lines = [
            f"{self.output}",
            f"  pictures        {self.pictures:8d}  ({self.pictures_with_people} with people)",
            f"  people          {self.people:8d}  ({self.people_with_joints} with joints)",
            f"  ignore regions  {self.ignore_regions:8d}",
            f"  {'channel':<{width}}{'known':>10}{'derived':>10}{'unknown':>10}{'has mask':>10}",
        ]
        for channel in self.channels:
            known, derived = (self.states[channel, state] for state in ("known", "derived"))
            counts = known, derived, self.people - known - derived, self.masks[channel]
            lines.append(f"  {channel:<{width}}" + "".join(f"{count:10d}" for count in counts))
        if self.people_with_joints:
            lines.append(f"  {'joint':<14}{'known':>10}")
            for joint in self.keypoint_schema.keypoints:
                lines.append(f"  {joint:<14}{self.joints[joint]:10d}")
        lines.extend(_reasons(self.left_out))
        return "\n".join(lines)


def _reasons(left_out: Sequence[LeftOut]) -> Iterator[str]:
    by_reason: dict[str, list[LeftOut]] = {}
    for one in left_out:
        by_reason.setdefault(one.reason, []).append(one)
    if not by_reason:
        yield "  nothing was left out"
    for reason, ones in by_reason.items():
        yield f"  left out {len(ones)}: {reason}"
        yield from (f"    {one}" for one in ones[:_EXAMPLES])
        if len(ones) > _EXAMPLES:
            yield f"    and {len(ones) - _EXAMPLES} more"


def prepare(
    items: Sequence[str],
    convert: Callable[[str], Shard],
    output: str | os.PathLike,
    part_schema: PartSchema,
    keypoint_schema: KeypointSchema,
    *,
    workers: int = 1,
    info: Mapping[str, Any] | None = None,
) -> Summary:
    """Convert every item and write one file of records.

    An interrupted run resumes: items with a shard are not converted again, unless the schemas or
    ``info`` have changed. Items that were left out are tried again.

    Args:
        items: names, in the order that images and ids will have.
        convert: item -> `Shard`; picklable, because it runs in other processes. If it raises
            `BadInput` the item is left out; any other exception ends the run.
        output: the file to write; an existing one is replaced.
        part_schema, keypoint_schema: the schemas of the annotations.
        workers: number of processes; with 1 everything runs in this one.
        info: goes into the file's ``info``. Every setting that changes the result belongs here,
            because shards made with another ``info`` are discarded.

    Returns:
        What was written, and what was left out.

    Raises:
        RecordError: no image is left. No file is written.
        RuntimeError: ``convert`` raised something other than `BadInput`; the cause is attached. The
            shards are kept for the next run.
    """
    output = Path(output)
    info = dict(info or {})
    folder = output.with_name(output.name + ".shards")
    _open_shards(folder, Records(part_schema, keypoint_schema, info=info).to_dict())
    summary = Summary(output, part_schema, keypoint_schema)
    failures = _run(partial(_convert_one, convert, folder), list(enumerate(items)), workers)

    def pictures() -> Iterator[dict[str, Any]]:
        progress = tqdm(failures, desc=output.name, total=len(items), disable=None)
        for i, failure in enumerate(progress):
            if failure is not None:
                summary.left_out.append(failure)
                continue
            shard = json.loads(_shard_path(folder, i).read_bytes())
            summary.left_out.extend(LeftOut(**one) for one in shard["left_out"])
            for picture in shard["pictures"]:
                summary.add(Picture(**picture))
                extra = picture.pop("extra")
                yield {**picture, **extra}
        if not summary.pictures:
            why = "\n".join(_reasons(summary.left_out))
            raise RecordError(f"{output}: no picture is left of {len(items)} items\n{why}")

    try:
        stream_records(output, part_schema, keypoint_schema, pictures(), info)
    except RecordError:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)
    return summary


def _open_shards(folder: Path, settings: dict[str, Any]) -> None:
    """Create the folder, discarding shards of other settings."""
    path = folder / "settings.json"
    header = json.loads(json.dumps(settings))
    if _read_json(path) != header and folder.exists():
        shutil.rmtree(folder)
    write_json(path, header)


def _read_json(path: Path) -> Any:
    """The content, or None if there is none: a crash of the machine may leave an empty file."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"{index:07d}.json"


def _convert_one(
    convert: Callable[[str], Shard], folder: Path, numbered_item: tuple[int, str]
) -> LeftOut | None:
    """Write the item's shard unless it exists. Returns the reason if it is left out, else None."""
    index, item = numbered_item
    path = _shard_path(folder, index)
    known = _read_json(path)
    if known is not None and known["item"] == item:
        return None
    try:
        shard = convert(item)
    except BadInput as e:
        return LeftOut(e.where, f"expected {e.expected}", f"found {e.found}")
    except Exception as e:
        raise RuntimeError(f"converting {item!r} failed: {type(e).__name__}: {e}") from e
    write_json(path, {"item": item, **asdict(shard)})
    return None


def _run(function: Callable, arguments: Sequence, workers: int) -> Iterator:
    """The results in order, computed in this process or in several."""
    if workers <= 1:
        yield from map(function, arguments)
        return
    chunk = max(1, min(_MAX_CHUNK, len(arguments) // (4 * workers)))
    with ProcessPoolExecutor(workers, mp_context=_process_context()) as pool:
        try:
            yield from pool.map(function, arguments, chunksize=chunk)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _process_context() -> BaseContext:
    """How processes start. Not by forking this one: threads of libraries do not survive that."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once, not by every process: if Detectron2 is installed that takes seconds.
    context.set_forkserver_preload([__name__])
    return context


def read_picture(path: str | os.PathLike) -> np.ndarray | None:
    """(H, W, 3) BGR uint8, or None if the file cannot be read in full."""
    try:
        # From memory, because OpenCV's imread pads truncated JPEGs, on which Pillow, and thus
        # Detectron2's reader, fails later.
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error):  # OpenCV raises for more than 2**30 pixels
        return None


def picture_size(path: str | os.PathLike) -> tuple[int, int]:
    """(H, W) of an image. Raises `BadInput` if it cannot be read in full."""
    path = Path(path)
    expected = "a whole picture"
    if not path.is_file():
        raise BadInput(path, expected, "no file")
    image = read_picture(path)
    if image is None:
        raise BadInput(path, expected, "a file that cannot be decoded")
    return image.shape[:2]


def write_picture(path: str | os.PathLike, image: np.ndarray, *, quality: int = 95) -> None:
    """Write a (H, W, 3) BGR uint8 image as JPEG, atomically."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    with whole_file(path, "wb") as f:
        f.write(data)


def datasets_root() -> Path:
    """The folder of all datasets, as in Detectron2: ``$DETECTRON2_DATASETS``, else ``datasets``."""
    return Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()


def records_path(root: str | os.PathLike, dataset: str, split: str, schema: PartSchema) -> Path:
    """The path of a split's records: ``<root>/<dataset>_<split>.<schema>.json``."""
    return Path(root) / f"{dataset}_{split}.{schema.name}.json"


def argument_parser(
    description: str, dataset: str, schemas: Iterable[str]
) -> argparse.ArgumentParser:
    """The options common to all preparation commands: root, schema, workers, limit."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--root",
        type=Path,
        default=datasets_root() / dataset,
        help="the dataset's folder (default: %(default)s)",
    )
    parser.add_argument(
        "--schema",
        nargs="+",
        choices=sorted(schemas),
        default=["bodyparts-7"],
        help="part schemas, one file each (default: bodyparts-7)",
    )
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=os.cpu_count(),
        help="processes (default: %(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=positive_int,
        help="take only the first LIMIT of a split; the file then contains only these",
    )
    return parser


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return int(text)


def run_all(jobs: Iterable[Callable[[], Summary]]) -> None:
    """Run preparation jobs and print their summaries; missing or unusable data ends the command."""
    for job in jobs:
        try:
            print(job())
        except (FileNotFoundError, RecordError) as e:
            raise SystemExit(f"error: {e}") from e


def run_splits(
    prepare_split: Callable[..., Summary], args: argparse.Namespace, **options: Any
) -> None:
    """`run_all` for every schema and split given to a reader's command.

    Args:
        prepare_split: the reader's function of root, split, part schema, workers and limit.
        args: from an `argument_parser` to which the reader has added ``--split``.
        options: the function's other arguments.
    """
    run_all(
        partial(
            prepare_split,
            args.root,
            split,
            get_part_schema(name),
            workers=args.workers,
            limit=args.limit,
            **options,
        )
        for name in args.schema
        for split in args.split
    )
