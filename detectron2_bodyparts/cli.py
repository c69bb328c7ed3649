"""The ``bodyparts`` command. What a subcommand needs is imported when it runs."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

PAGE_PICTURES = 20  # that `predict --page` puts on its page
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
    """Draw the annotations of a dataset, many pictures a page."""
    from .drawing import draw_annotations, grid, legend
    from .records import read_records

    if args.dataset.endswith(".json"):
        json_file = Path(args.dataset)
        image_root = Path(args.image_root) if args.image_root else json_file.parent
    else:
        require_detectron2()
        from detectron2.data import DatasetCatalog, MetadataCatalog

        if args.dataset not in DatasetCatalog.list():
            known = [n for n in DatasetCatalog.list() if MetadataCatalog.get(n).get("part_schema")]
            return fail(f"no dataset {args.dataset!r}; with parts there are {sorted(known)}")
        metadata = MetadataCatalog.get(args.dataset)
        json_file, image_root = Path(metadata.json_file), Path(metadata.image_root)
    if not json_file.is_file():
        return fail(f"no file {json_file}; datasets/README.md says how to make it")
    records = read_records(json_file)

    groups = records.by_image()
    images = [i for i in records.images if args.empty or groups[i["id"]]][: args.limit]
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    per_page = args.rows * args.columns
    for start in tqdm(range(0, len(images), per_page), desc="pages", disable=None):
        drawn = []
        for image in images[start : start + per_page]:
            picture = read_picture(image_root / image["file_name"])
            if picture is None:
                print(f"skipped, not a readable picture: {image['file_name']}", file=sys.stderr)
                continue
            drawn.append(
                draw_annotations(
                    picture, groups[image["id"]], records.part_schema, records.keypoint_schema
                )
            )
        page = grid(drawn, args.columns, (320, 400))
        page = np.hstack([page, legend(records.part_schema, page.shape[0])])
        path = output / f"{json_file.stem}_{start // per_page:03d}.jpg"
        cv2.imwrite(str(path), page)
    print(f"{len(images)} pictures drawn in {output}")
    return 0


def require_detectron2() -> None:
    """End the command with one clear line where Detectron2 is not installed."""
    import importlib.util

    if importlib.util.find_spec("detectron2") is None:
        raise SystemExit("error: this needs Detectron2; the README says how to install it")


def fail(message: str) -> int:
    """Say what is wrong; exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    return 2


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

    p = commands.add_parser("inspect", help="draw the annotations of a dataset")
    p.add_argument("dataset", help="a registered dataset, or a JSON file of records")
    p.add_argument("--image-root", help="where a JSON file's pictures are (default: beside it)")
    p.add_argument("--output", default="output/inspect", help="folder (default: %(default)s)")
    p.add_argument("--limit", type=int, default=60, help="pictures (default: %(default)s)")
    p.add_argument("--rows", type=int, default=4, help="rows a page (default: %(default)s)")
    p.add_argument("--columns", type=int, default=5, help="columns a page (default: %(default)s)")
    p.add_argument("--empty", action="store_true", help="draw pictures without people, too")
    p.set_defaults(run=inspect)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit code."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
