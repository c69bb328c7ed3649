"""The ``bodyparts`` command. Detectron2, and what needs it, is imported when it is called for."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import random
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_util
from tqdm import tqdm

from .readers.prepare import positive_int
from .records import RecordError, Records, read_records, validate_records
from .schema import BODY, COCO_17, KeypointSchema, get_keypoint_schema, get_part_schema

PAGE_PICTURES = 20  # that `predict --page` puts on its page
MIN_CELL = 64  # pixels a side of a picture on a page of `inspect`: less shows nothing
PART_KEYS = ("part_segmentation", "part_state", "unsided", "ignore_segmentation")
LEGEND_HEIGHT = 400  # pixels at least, or it could not be read
EVALUATE_HELP = """\
Print the metrics of predictions: what the Detectron2 evaluator gives, but for the original
system's precision, which needs probabilities that predictions.json does not hold.

--format records: --annotations is a file of records, --predictions the predictions.json that the
evaluator wrote for it. Joints that are zero in all predictions are taken for joints that the model
does not know.

The others are folders of label maps, and only the parsing metrics are given:

cihp, ppp  both have Category_ids/<image>.png (classes: CIHP's 19, or PASCAL-Person-Part's 6) and
           Human_ids/<image>.png (people, 0 = nobody); --predictions has Human_ids/<image>.txt, of
           whose line n the last number is the score of person n.
mhp        --annotations has parsing_annos/<image>_<count>_<number>.png, as MHP v2 comes;
           --predictions has global_seg/<image>.png (classes), global_tag/<image>.png (people) and
           results.txt with lines of image, person, score, person, score ...

A picture that has no prediction counts as one in which nobody was found.
"""
PICTURE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def natural_order(path: Path) -> list:
    """Sort key under which ``2.jpg`` comes before ``10.jpg``."""
    return [int(p) if p.isdigit() else p.lower() for p in re.split(r"(\d+)", str(path))]


def find_pictures(inputs: Iterable[Path]) -> Iterator[Path]:
    """Files as they are given; of a folder, the pictures in it, in natural order."""
    for path in inputs:
        if path.is_dir():
            found = (p for p in path.iterdir() if p.suffix.lower() in PICTURE_ENDINGS)
            yield from sorted(found, key=natural_order)
        else:
            yield path


def read_picture(path: Path) -> np.ndarray | None:
    """(H, W, 3) BGR uint8, or None where the file cannot be read."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError:
        return None
    return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None


def predict(args: argparse.Namespace) -> int:
    """Find people on pictures; write drawings and, if asked, JSON. Exit code 1 if one failed."""
    require_detectron2()
    from detectron2.config import get_cfg

    from .config import add_bodyparts_config, get_config_file
    from .drawing import draw_people, grid, legend
    from .predictor import BodyPartsPredictor

    cfg = get_cfg()
    add_bodyparts_config(cfg)
    config = args.config_file
    cfg.merge_from_file(config if Path(config).is_file() else get_config_file(config))
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    cfg.merge_from_list(args.opts)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = args.threshold
    predictor = BodyPartsPredictor(cfg)

    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    failed, total, drawings = 0, 0, []
    for path in tqdm(list(find_pictures(args.inputs)), disable=None):
        image = read_picture(path)
        if image is None:
            failed += 1
            print(f"skipped, not a readable picture: {path}", file=sys.stderr)
            continue
        people = predictor(image)
        total += len(people)
        drawn = draw_people(
            image, people, parts=args.parts, skeleton=args.skeleton, boxes=args.boxes
        )
        cv2.imwrite(str(output / f"{path.stem}.jpg"), drawn)
        if args.json:
            (output / f"{path.stem}.json").write_text(json.dumps(people.to_json()))
        if args.page and len(drawings) < PAGE_PICTURES:
            drawings.append(drawn)
    if drawings:
        page = grid(drawings, 5, (240, 320))
        page = np.hstack([page, legend(predictor.part_schema, page.shape[0])])
        cv2.imwrite(str(output / "page.jpg"), page)
        print(f"page of {len(drawings)} pictures: {output / 'page.jpg'}")
    print(f"{total} people; drawings in {output}")
    return 1 if failed else 0


def inspect(args: argparse.Namespace) -> int:
    """Draw the annotations of a dataset, many pictures a page.

    A picture that cannot be drawn is named and leaves an empty cell.
    """
    from .drawing import annotation_cell, annotation_legend, grid

    records, image_root = load_dataset(args.dataset, args.image_root)
    schema = records.part_schema
    names = [*schema.channels, *schema.unions]
    if args.only is not None and args.only not in names:
        raise CommandError(f"schema {schema.name} has no {args.only!r}, only {', '.join(names)}")
    groups = records.by_image()
    if args.only is not None:
        groups = {image_id: knowing(group, args.only) for image_id, group in groups.items()}
    images = [i for i in records.images if args.empty or groups[i["id"]]]
    if not images:
        print(f"nothing to draw: none of {len(records.images)} pictures has such people")
        return 0
    if args.shuffle:
        random.Random(args.seed).shuffle(images)
    images = images[: args.num]

    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("page_[0-9]*.jpg"):  # or pages of two runs would be taken for one
        old.unlink()
    per_page = args.rows * args.columns
    cell = args.cell[::-1]
    for start in tqdm(range(0, len(images), per_page), desc="pages", disable=None):
        cells = []
        for image in images[start : start + per_page]:
            picture = read_picture(image_root / image["file_name"])
            annotations = groups[image["id"]]
            faults = picture_faults(records, image, annotations, picture)
            for fault in faults:
                print(f"not drawn: {image['file_name']}: {fault}", file=sys.stderr)
            cells.append(
                annotation_cell(
                    None if faults else picture,
                    image,
                    annotations,
                    schema,
                    records.keypoint_schema,
                    cell,
                    fault="; ".join(faults),
                )
            )
        page = grid(cells, args.columns, cell)
        missing = max(LEGEND_HEIGHT - page.shape[0], 0)
        page = cv2.copyMakeBorder(page, 0, missing, 0, 0, cv2.BORDER_CONSTANT)
        page = np.hstack([page, annotation_legend(schema, page.shape[0])])
        cv2.imwrite(str(output / f"page_{start // per_page + 1:03d}.jpg"), page)
    print(f"{len(images)} pictures drawn in {output}")
    return 0


def knowing(annotations: Iterable[dict], channel: str) -> list[dict]:
    """Of one picture's annotations the people of whom the channel or union is known or derived."""
    return [a for a in annotations if not a["iscrowd"] and channel in a["part_state"]]


def picture_faults(
    records: Records, image: dict, annotations: list[dict], picture: np.ndarray | None
) -> list[str]:
    """Why one picture of the records cannot be drawn, one line a fault; empty where it can."""
    if picture is None:
        return ["not a readable picture"]
    expected = (image["height"], image["width"])
    if picture.shape[:2] != expected:
        return [f"expected a picture of {expected}, found {picture.shape[:2]}"]
    faults = validate_records(replace(records, images=[image], annotations=annotations))
    return [fault.removeprefix(f"{image['file_name']}, ") for fault in faults]


def stats(args: argparse.Namespace) -> int:
    """Count what a dataset holds; print a table and draw a chart."""
    from .stats import collect, draw_chart

    records, _ = load_dataset(args.dataset)
    statistics = collect(records)
    print(statistics)
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(output), draw_chart(statistics, Path(args.dataset).name)):
        raise CommandError(f"cannot write {output}")
    print(f"chart: {output}")
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """Print the metrics of a file of predictions, or of folders of label maps."""
    from .records import write_json
    from .report.inputs import evaluate_files, evaluate_label_maps
    from .report.tables import result_tables

    options = {} if args.paint_threshold is None else {"paint_threshold": args.paint_threshold}
    with faults_in_one_line():
        if args.format == "records":
            *_, results = evaluate_files(args.annotations, args.predictions, **options)
        else:
            figures = evaluate_label_maps(
                args.format, args.annotations, args.predictions, **options
            )
            results = {"parsing": figures}
        print("\n\n".join(str(table) for table in result_tables(results)))
        if args.json:
            write_json(args.json, without_nan(results))
            print(f"\nnumbers: {args.json}")
    return 0


def without_nan(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Results for JSON, which knows no nan: null where there is no truth."""
    return {
        group: {name: None if np.isnan(value) else value for name, value in figures.items()}
        for group, figures in results.items()
    }


def report(args: argparse.Namespace) -> int:
    """Write a page of the metrics, with curves and with pictures."""
    from .records import whole_file
    from .report.inputs import evaluate_files, settings
    from .report.page import report_page

    root = Path(args.images or Path(args.annotations).parent)
    unreadable = set()

    def picture_of(image: dict[str, Any]) -> np.ndarray | None:
        path = root / image["file_name"]
        picture = read_picture(path)
        if picture is None and path not in unreadable:
            unreadable.add(path)
            print(f"not a readable picture: {path}", file=sys.stderr)
        return picture

    with faults_in_one_line():
        records, predictions, results = evaluate_files(
            args.annotations, args.predictions, paint_threshold=args.paint_threshold
        )
        page = report_page(
            records,
            predictions,
            results,
            picture_of,
            title=f"Body parts: {Path(args.annotations).name}",
            paint_threshold=args.paint_threshold,
            examples=args.examples,
            settings=settings(args.annotations, args.predictions, args.paint_threshold),
        )
        with whole_file(args.output) as f:
            f.write(page)
    print(f"report: {args.output}")
    return 0


@contextlib.contextmanager
def faults_in_one_line() -> Iterator[None]:
    """What is wrong with the user's files or with their content becomes a `CommandError`."""
    try:
        yield
    except OSError as e:
        raise CommandError(f"{e.filename}: {e.strerror}" if e.strerror else str(e)) from e
    except ValueError as e:
        raise CommandError(str(e)) from e


def load_dataset(name: str, image_root: str | None = None) -> tuple[Records, Path]:
    """A dataset's records, and the folder in which their ``file_name`` starts.

    Args:
        name: a file of records (``.json``), or a dataset registered with Detectron2.
        image_root: of a file, where the pictures are; its own folder where left out.

    Raises:
        CommandError: there is no such file or dataset.
        RecordError: the file is no file of records.
    """
    try:
        if name.endswith(".json"):
            return read_records(name), Path(image_root or Path(name).parent)
        return registered_records(name), Path()
    except FileNotFoundError as e:
        # The system says which file, a registered dataset also which command makes it.
        raise CommandError(f"no file {e.filename}" if e.filename else str(e)) from e


def registered_records(name: str) -> Records:
    """A dataset registered with Detectron2 as records, ``file_name`` with its folder.

    Of a dataset without parts, a COCO file say, boxes, bodies and joints are taken, and of its
    classes only ``person``, where it has one.

    Raises:
        CommandError: no such dataset is registered.
        FileNotFoundError: it is registered, but its file is not there.
    """
    require_detectron2()
    from detectron2.data import DatasetCatalog, MetadataCatalog

    if name not in DatasetCatalog.list():
        known = [n for n in DatasetCatalog.list() if MetadataCatalog.get(n).get("part_schema")]
        raise CommandError(f"no dataset {name!r}; with parts there are {sorted(known)}")
    pictures = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name)
    joints = COCO_17
    if metadata.get("keypoint_schema"):
        joints = get_keypoint_schema(metadata.keypoint_schema)
    elif metadata.get("keypoint_names"):
        joints = KeypointSchema(name, tuple(metadata.keypoint_names))
    classes = metadata.get("thing_classes", [])
    person_class = classes.index("person") if "person" in classes else None

    records = Records(get_part_schema(metadata.get("part_schema", "bodyparts-7")), joints)
    for picture in pictures:
        height, width = picture["height"], picture["width"]
        people = [
            registered_annotation(person, height, width, len(joints))
            for person in picture["annotations"]
            if person_class in (None, person["category_id"])
        ]
        exhaustive = picture.get("exhaustive", True)
        records.add_image(picture["file_name"], height, width, people, exhaustive=exhaustive)
    return records


def registered_annotation(
    person: dict[str, Any], height: int, width: int, num_joints: int
) -> dict[str, Any]:
    """A person in Detectron2's standard form as a record, of a picture of that size."""
    from detectron2.structures import BoxMode

    points = np.reshape(person.get("keypoints") or np.zeros((num_joints, 3)), (-1, 3))
    points = np.where(points[:, 2:] > 0, points - (0.5, 0.5, 0), 0)
    annotation = {
        "bbox": BoxMode.convert(person["bbox"], person["bbox_mode"], BoxMode.XYWH_ABS),
        "iscrowd": person.get("iscrowd", 0),
        "keypoints": points.ravel().tolist(),
        "num_keypoints": int(np.count_nonzero(points[:, 2])),
        "part_segmentation": {},
        "part_state": {},
    }
    segmentation = person.get("segmentation")
    if segmentation:
        if isinstance(segmentation, list):  # polygons
            segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
        annotation["segmentation"] = segmentation
        annotation["part_state"] = {BODY: "known"}
    return annotation | {key: person[key] for key in PART_KEYS if key in person}


class CommandError(Exception):
    """What the user is told in one line instead of a traceback."""


def require_detectron2() -> None:
    """End the command with one clear line where Detectron2 is not installed."""
    import importlib.util

    if importlib.util.find_spec("detectron2") is None:
        raise CommandError("this needs Detectron2; the README says how to install it")


def cell_size(text: str) -> tuple[int, int]:
    """(width, height) of an argument like ``320x240``."""
    width, height = (int(n) for n in text.split("x"))
    if min(width, height) < MIN_CELL:
        raise argparse.ArgumentTypeError(f"a cell needs {MIN_CELL} pixels each way: {text}")
    return width, height


def build_parser() -> argparse.ArgumentParser:
    """The command line of all subcommands."""
    parser = argparse.ArgumentParser(prog="bodyparts", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    p = commands.add_parser("predict", help="find people on pictures and draw them")
    p.add_argument("inputs", nargs="+", type=Path, help="pictures and folders of pictures")
    p.add_argument("--config-file", required=True, help="a path, or the name of one of our configs")
    p.add_argument("--weights", help="a checkpoint (default: the config's MODEL.WEIGHTS)")
    p.add_argument("--output", default="output/predictions", help="folder (default: %(default)s)")
    p.add_argument("--threshold", type=float, default=0.5, help="least score (default: 0.5)")
    flag = argparse.BooleanOptionalAction
    p.add_argument("--parts", action=flag, default=True, help="paint the parts")
    p.add_argument("--skeleton", action=flag, default=True, help="draw the skeleton")
    p.add_argument("--boxes", action=flag, default=False, help="draw boxes and scores")
    p.add_argument("--json", action="store_true", help="write a JSON file beside each drawing")
    p.add_argument("--page", action="store_true", help="write a page of the first drawings, too")
    p.add_argument("--opts", nargs="*", default=[], help="config keys and values")
    p.set_defaults(run=predict)

    p = commands.add_parser("inspect", help="draw the annotations of a dataset in pages")
    p.add_argument("dataset", help="a registered dataset, or a JSON file of records")
    p.add_argument("--image-root", help="where a JSON file's pictures are (default: beside it)")
    p.add_argument("--output", default="output/inspect", help="folder (default: %(default)s)")
    p.add_argument("--num", type=positive_int, default=96, help="pictures (default: %(default)s)")
    p.add_argument("--shuffle", action="store_true", help="draw any, not the first")
    p.add_argument("--seed", type=int, default=0, help="of --shuffle (default: %(default)s)")
    p.add_argument("--only", metavar="CHANNEL", help="only people of whom this channel is known")
    p.add_argument("--empty", action="store_true", help="draw pictures without people, too")
    for name, number in (("rows", 4), ("columns", 6)):
        words = f"{name} a page (default: {number})"
        p.add_argument(f"--{name}", type=positive_int, default=number, help=words)
    p.add_argument(
        "--cell",
        type=cell_size,
        default="320x240",
        metavar="WIDTHxHEIGHT",
        help="pixels for one picture (default: %(default)s)",
    )
    p.set_defaults(run=inspect)

    p = commands.add_parser("stats", help="count what is known in a dataset, and how large it is")
    p.add_argument("dataset", help="a registered dataset, or a JSON file of records")
    p.add_argument(
        "--output", default="output/stats.png", help="the chart's file (default: %(default)s)"
    )
    p.set_defaults(run=stats)

    p = commands.add_parser(
        "evaluate",
        help="print the metrics of predictions; needs no Detectron2",
        description=EVALUATE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_evaluation_arguments(
        p,
        "a JSON file of records, or a folder of label maps",
        "the evaluator's predictions.json, or a folder of label maps",
    )
    p.add_argument(
        "--format",
        choices=("records", "cihp", "mhp", "ppp"),
        default="records",
        help="what the two are (default: %(default)s)",
    )
    p.add_argument(
        "--paint-threshold",
        type=float,
        help="least score of the people painted for mIoU (default: 0.3; of mhp 0.05)",
    )
    p.add_argument("--json", metavar="FILE", help="write the numbers to this file, too")
    p.set_defaults(run=evaluate)

    p = commands.add_parser(
        "report", help="write a page of the metrics of predictions, with curves and pictures"
    )
    add_evaluation_arguments(p, "a JSON file of records", "the evaluator's predictions.json")
    p.add_argument("--images", metavar="ROOT", help="where its pictures are (default: beside it)")
    p.add_argument(
        "--output", default="output/report.html", help="the page's file (default: %(default)s)"
    )
    p.add_argument(
        "--examples",
        type=positive_int,
        default=6,
        metavar="N",
        help="draw the N worst pictures, the N best and N swapped pairs (default: %(default)s)",
    )
    p.add_argument(
        "--paint-threshold",
        type=float,
        default=0.3,
        help="least score of the people drawn, and painted for mIoU (default: %(default)s)",
    )
    p.set_defaults(run=report)
    return parser


def add_evaluation_arguments(
    parser: argparse.ArgumentParser, annotations: str, predictions: str
) -> None:
    """The truth and the predictions, with what to say of them."""
    parser.add_argument("--annotations", required=True, help=annotations)
    parser.add_argument("--predictions", required=True, help=predictions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    try:
        return args.run(args)
    except (CommandError, RecordError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
