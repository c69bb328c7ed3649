"""The ``bodyparts`` command. Detectron2 is imported only by the subcommands that need it."""

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
    "predict": "detect people in images, videos or a webcam stream, and draw them",
    "serve": "run a web page and an HTTP server that detect people",
    "annotate": "pseudo-label images with a model, as annotations to train on",
    "export": "export a trained model to one ONNX file that runs without Detectron2",
    "quantize": "make an exported model faster with 8-bit convolutions",
    "doctor": "check the installation, and say how to fix each fault",
    "inspect": "draw a dataset's annotations, many images per page",
    "stats": "count what is known in a dataset, and how large people are",
    "evaluate": "compute the metrics of predictions, without Detectron2",
    "report": "write a page with the metrics of predictions, curves and images",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand. Returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="bodyparts", description=__doc__)
    formatter = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, words in COMMANDS.items():
        command = commands.add_parser(name, help=words, formatter_class=formatter)
        if argv[:1] == [name]:  # only the requested one, as each takes time to import
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
    except BrokenPipeError:  # the reader closed the pipe, as in `bodyparts stats ... | head`
        # Otherwise Python would report an error when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (CommandError, RecordError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
