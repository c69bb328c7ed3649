#!/usr/bin/env python3
"""PASCAL VOC 2010 Part -> records. See README.md beside this file."""

from detectron2_bodyparts.readers.voc_part import main

if __name__ == "__main__":
    main()
