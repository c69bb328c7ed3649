"""Compute the metrics of predictions: those of the Detectron2 evaluator, except the original
system's precision, which needs probabilities that predictions.json does not contain.

--format records: --annotations is an annotation file, --predictions the predictions.json that the
evaluator wrote for it. Keypoints that are zero in all predictions are taken for keypoints that the
model does not have.

The other formats are folders of label maps, for which only the parsing metrics are computed:

cihp, ppp  both have Category_ids/<image>.png (classes: CIHP's 19, or PASCAL-Person-Part's 6) and
           Human_ids/<image>.png (people, 0 = nobody); --predictions also has
           Human_ids/<image>.txt, where the last number of line n is the score of person n.
mhp        --annotations has parsing_annos/<image>_<count>_<number>.png, as MHP v2 is distributed;
           --predictions has global_seg/<image>.png (classes), global_tag/<image>.png (people) and
           results.txt with lines of image, person, score, person, score ...

An image without predictions counts as one in which nobody was found.
"""

from __future__ import annotations

import argparse

import numpy as np

from .common import add_evaluation_arguments, faults_in_one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    add_evaluation_arguments(
        parser,
        "an annotation file, or a folder of label maps",
        "the evaluator's predictions.json, or a folder of label maps",
    )
    parser.add_argument(
        "--format",
        choices=("records", "cihp", "mhp", "ppp"),
        default="records",
        help="format of both (default: %(default)s)",
    )
    parser.add_argument(
        "--paint-threshold",
        type=float,
        help="minimum score of people painted for mIoU (default: 0.3; mhp: 0.05)",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the metrics to this file")


def run(args: argparse.Namespace) -> int:
    """Print the metrics of a file of predictions, or of folders of label maps."""
    from ..records import write_json
    from ..report.inputs import evaluate_files, evaluate_label_maps
    from ..report.tables import result_tables

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
    """Replace nan (no ground truth) by None, since JSON has no nan."""
    return {
        group: {name: None if np.isnan(value) else value for name, value in figures.items()}
        for group, figures in results.items()
    }
