"""Inference with an exported model, without torch and Detectron2."""

from .predictor import ModelInfo, OnnxPredictor, Predictor, default_model, trainable_model

__all__ = ["ModelInfo", "OnnxPredictor", "Predictor", "default_model", "trainable_model"]
