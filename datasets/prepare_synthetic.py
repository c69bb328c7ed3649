#!/usr/bin/env python3
"""Synthetic people -> images and records. See README.md beside this file."""

from detectron2_bodyparts.readers.synthetic import main

if __name__ == "__main__":
    main()
