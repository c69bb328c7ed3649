#!/usr/bin/env python3
"""Synthetic people -> pictures and records. See README.md beside this file."""

from detectron2_bodyparts.readers.prepare import main_synthetic

if __name__ == "__main__":
    main_synthetic()
