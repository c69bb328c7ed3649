#!/usr/bin/env python3
"""COCO 2017, people -> records. See README.md beside this file."""

from detectron2_bodyparts.readers.coco import main

if __name__ == "__main__":
    main()
