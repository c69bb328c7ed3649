#!/usr/bin/env python3
"""ChaLearn Looking at People, pose recovery -> records. See README.md beside this file."""

from detectron2_bodyparts.readers.chalearn import main

if __name__ == "__main__":
    main()
