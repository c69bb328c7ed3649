#!/usr/bin/env python3
"""Clothing Co-Parsing -> records. See README.md beside this file."""

from detectron2_bodyparts.readers.clothing_co_parsing import main

if __name__ == "__main__":
    main()
