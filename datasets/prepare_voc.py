#!/usr/bin/env python3
"""PASCAL VOC, boxes -> records. See README.md beside this file."""

from detectron2_bodyparts.readers.voc import main

if __name__ == "__main__":
    main()
