"""One module a dataset: its native folder -> records. Nothing here knows of networks."""
