#!/usr/bin/env python3
"""PASCAL-Person-Part -> records. See README.md beside this file."""

from detectron2_bodyparts.readers.pascal_person_part import main

if __name__ == "__main__":
    main()
