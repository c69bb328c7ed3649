"""Finding people with an exported model, without torch and Detectron2."""

from .predictor import ModelInfo, OnnxPredictor, default_model

__all__ = ["ModelInfo", "OnnxPredictor", "default_model"]
