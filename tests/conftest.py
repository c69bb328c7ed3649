"""Fixtures of the whole suite. Everything that needs Detectron2 lies in tests/d2."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HAS_DETECTRON2 = importlib.util.find_spec("detectron2") is not None

collect_ignore = [] if HAS_DETECTRON2 else ["d2"]


def pytest_terminal_summary(terminalreporter):
    if not HAS_DETECTRON2:
        terminalreporter.write_line("skipped tests/d2: Detectron2 is not installed")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real sample files; tests that need it are skipped where it is not there."""
    folder = Path(os.environ.get("BODYPARTS_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no real sample files: set BODYPARTS_SHARED to the folder that has them")
    return folder
