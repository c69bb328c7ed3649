"""Datasets and mapper. Importing this registers the datasets with Detectron2."""

from .catalog import load_bodyparts_json, register_bodyparts_dataset, register_files
from .mapper import BodyPartsMapper

__all__ = ["BodyPartsMapper", "load_bodyparts_json", "register_bodyparts_dataset", "register_files"]
