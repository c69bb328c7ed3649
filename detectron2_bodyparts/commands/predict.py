"""Find people on pictures, draw them and, if asked, write JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from .model import add_model_arguments, load_predictor
from .pictures import find_pictures, read_picture

PAGE_PICTURES = 20  # that `predict --page` puts on its page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    parser.add_argument("inputs", nargs="+", type=Path, help="pictures and folders of pictures")
    add_model_arguments(parser)
    parser.add_argument(
        "--output", default="output/predictions", help="folder (default: %(default)s)"
    )
    flag = argparse.BooleanOptionalAction
    parser.add_argument("--parts", action=flag, default=True, help="paint the parts")
    parser.add_argument("--skeleton", action=flag, default=True, help="draw the skeleton")
    parser.add_argument("--boxes", action=flag, default=False, help="draw boxes and scores")
    parser.add_argument("--json", action="store_true", help="write a JSON file beside each drawing")
    parser.add_argument(
        "--page", action="store_true", help="write a page of the first drawings, too"
    )


def run(args: argparse.Namespace) -> int:
    """Find people on pictures; write drawings and, if asked, JSON. Exit code 1 if one failed."""
    from ..drawing import draw_people, grid, legend

    predictor = load_predictor(args)
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
