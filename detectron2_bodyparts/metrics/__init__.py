"""Parsing and pose metrics on plain arrays. Nothing here knows of files or networks."""
