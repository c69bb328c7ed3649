"""Finding people with an exported model, without torch and Detectron2."""

from .predictor import ModelInfo, OnnxPredictor

__all__ = ["ModelInfo", "OnnxPredictor"]
