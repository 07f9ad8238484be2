"""Measures of the quality of class activation maps, from the model's probabilities for masked images."""

from torchext.cam.metrics import Curve, average_drop, average_increase, deletion_curve, insertion_curve

__all__ = ["Curve", "average_drop", "average_increase", "deletion_curve", "insertion_curve"]
