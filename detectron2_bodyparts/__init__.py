"""Body parts and skeletons of people, as a Detectron2 plugin.

Importing this registers the heads and the datasets with Detectron2 where it is installed. Without
it, everything that needs no network training works as well: records, readers, drawing, metrics.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from .people import People, Person
from .schema import (
    KeypointSchema,
    PartSchema,
    get_keypoint_schema,
    get_part_schema,
    register_keypoint_schema,
    register_part_schema,
)

__version__ = "0.1.0"

__all__ = [
    "KeypointSchema",
    "PartSchema",
    "People",
    "Person",
    "get_keypoint_schema",
    "get_part_schema",
    "register_keypoint_schema",
    "register_part_schema",
]

# Looked for rather than tried: a broken Detectron2 must show its own error. The `bodyparts` command
# does without until a subcommand needs it: importing it takes seconds, and `doctor` has to start
# where it is broken.
_IS_COMMAND = (
    Path((sys.argv or [""])[0]).name in ("bodyparts", "bodyparts.exe")
    or "detectron2_bodyparts.cli" in sys.orig_argv  # python -m
)
if not _IS_COMMAND and importlib.util.find_spec("detectron2") is not None:
    from . import data, modeling  # noqa: F401  (they register themselves)
    from .config import add_bodyparts_config, get_config_file

    __all__ += ["add_bodyparts_config", "get_config_file"]
