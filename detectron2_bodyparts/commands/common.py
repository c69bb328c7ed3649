"""Helpers shared by several subcommands."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

from ..records import Records, read_records

# The exit codes that shells report after Ctrl-C (SIGINT) and for a closed pipe (SIGPIPE).
INTERRUPTED = 130
PIPE_CLOSED = 141


class CommandError(Exception):
    """An error that is shown to the user in one line instead of a traceback."""


def require_detectron2() -> None:
    """Register the plugin. Raises ``CommandError`` if Detectron2 is not installed."""
    if importlib.util.find_spec("detectron2") is None:
        raise CommandError("this needs Detectron2; the README says how to install it")
    # Detectron2 compiles with it; nothing that a user of this command could change.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
    importlib.import_module("detectron2_bodyparts.data")
    importlib.import_module("detectron2_bodyparts.modeling")


def require_onnx() -> None:
    """Raises ``CommandError`` if onnx is not installed."""
    if importlib.util.find_spec("onnx") is None:
        raise CommandError("this needs onnx: pip install onnx")


def score(text: str) -> float:
    """An argument's type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, found {text}")
    return value


@contextlib.contextmanager
def faults_in_one_line() -> Iterator[None]:
    """Turn errors of the user's files or their content into `CommandError`."""
    try:
        yield
    except BrokenPipeError:  # not an error: `cli.main` handles it
        raise
    except OSError as e:
        raise CommandError(f"{e.filename}: {e.strerror}" if e.filename else str(e)) from e
    except ValueError as e:
        raise CommandError(str(e)) from e


def load_dataset(name: str, image_root: str | None = None) -> tuple[Records, Path]:
    """A dataset's records, and the folder that their ``file_name`` is relative to.

    Args:
        name: a file of records (``.json``), or a dataset registered with Detectron2.
        image_root: the image folder of a file of records; by default its own folder.

    Raises:
        CommandError: there is no such file or dataset, the file is not a file of records, or the
            dataset has several classes, none of them person.
    """
    try:
        if name.endswith(".json"):
            return read_records(name), Path(image_root or Path(name).parent)
        require_detectron2()
        from detectron2.data import DatasetCatalog, MetadataCatalog

        from ..data.registered import registered_records

        if name not in DatasetCatalog.list():
            known = [n for n in DatasetCatalog.list() if MetadataCatalog.get(n).get("part_schema")]
            raise CommandError(f"no dataset {name!r}; with parts there are {sorted(known)}")
        return registered_records(name), Path()
    except FileNotFoundError as e:
        # The system names the file; a registered dataset also names the command that makes it.
        raise CommandError(f"no file {e.filename}" if e.filename else str(e)) from e
    except ValueError as e:
        raise CommandError(str(e)) from e


def add_evaluation_arguments(
    parser: argparse.ArgumentParser, annotations: str, predictions: str
) -> None:
    """Add --annotations and --predictions, with their help texts."""
    parser.add_argument("--annotations", required=True, help=annotations)
    parser.add_argument("--predictions", required=True, help=predictions)
