"""Metrics of saved predictions, as tables and as one page with curves and images."""
