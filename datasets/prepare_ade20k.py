#!/usr/bin/env python3
"""ADE20K -> records. See README.md beside this file."""

from detectron2_bodyparts.readers.ade20k import main

if __name__ == "__main__":
    main()
