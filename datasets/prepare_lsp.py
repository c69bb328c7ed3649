#!/usr/bin/env python3
"""Leeds Sports Pose and its extended set -> records. See README.md beside this file."""

from detectron2_bodyparts.readers.lsp import main

if __name__ == "__main__":
    main()
