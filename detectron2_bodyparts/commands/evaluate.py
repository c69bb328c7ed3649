"""Print the metrics of predictions: what the Detectron2 evaluator gives, but for the original
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

from __future__ import annotations

import argparse

import numpy as np

from .common import add_evaluation_arguments, faults_in_one_line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    add_evaluation_arguments(
        parser,
        "a JSON file of records, or a folder of label maps",
        "the evaluator's predictions.json, or a folder of label maps",
    )
    parser.add_argument(
        "--format",
        choices=("records", "cihp", "mhp", "ppp"),
        default="records",
        help="what the two are (default: %(default)s)",
    )
    parser.add_argument(
        "--paint-threshold",
        type=float,
        help="least score of the people painted for mIoU (default: 0.3; of mhp 0.05)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers to this file, too")


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
    """Results for JSON, which knows no nan: null where there is no truth."""
    return {
        group: {name: None if np.isnan(value) else value for name, value in figures.items()}
        for group, figures in results.items()
    }
