#!/usr/bin/env python3
"""J-HMDB -> records. See README.md beside this file."""

from detectron2_bodyparts.readers.jhmdb import main

if __name__ == "__main__":
    main()
