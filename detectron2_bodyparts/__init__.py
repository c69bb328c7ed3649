"""Body parts and keypoints of people, as a Detectron2 plugin.

Importing this registers the heads and datasets with Detectron2, if it is installed. Without it,
everything that does not need Detectron2 still works: records, readers, drawing, metrics.
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

# Detectron2 is looked up, not imported in a try block: a broken one must raise its own error. The
# `bodyparts` command imports it only in subcommands that need it: the import takes seconds, and
# `doctor` must start even if it is broken.
_IS_COMMAND = (
    Path((sys.argv or [""])[0]).name in ("bodyparts", "bodyparts.exe")
    or "detectron2_bodyparts.cli" in sys.orig_argv  # python -m
)
if not _IS_COMMAND and importlib.util.find_spec("detectron2") is not None:
    from . import data, modeling  # noqa: F401  (they register themselves)
    from .config import add_bodyparts_config, get_config_file

    __all__ += ["add_bodyparts_config", "get_config_file"]
