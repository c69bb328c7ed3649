"""The ``bodyparts`` command. Detectron2, and what needs it, is imported when it is called for."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from .commands.common import PIPE_CLOSED, CommandError
from .records import RecordError

COMMANDS = {
    "predict": "find people on pictures, videos or a webcam, and draw them",
    "serve": "a web page and an HTTP server that find people",
    "annotate": "label pictures with a model, as records to train on",
    "export": "write a trained model to one file that runs without Detectron2",
    "doctor": "look at the installation, and say what to do about each fault",
    "inspect": "draw the annotations of a dataset in pages",
    "stats": "count what is known in a dataset, and how large it is",
    "evaluate": "print the metrics of predictions; needs no Detectron2",
    "report": "write a page of the metrics of predictions, with curves and pictures",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="bodyparts", description=__doc__)
    formatter = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, words in COMMANDS.items():
        command = commands.add_parser(name, help=words, formatter_class=formatter)
        if argv[:1] == [name]:  # only the one asked for, as each takes time to import
            module = importlib.import_module(f".commands.{name}", __package__)
            command.description = module.__doc__
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has enough, as in `bodyparts stats ... | head`
        # Or Python would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (CommandError, RecordError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
