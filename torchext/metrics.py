"""How good is a map? What the model says of the image seen through it."""

from torchext.cam.metrics import Curve, average_drop, average_increase, deletion_curve, insertion_curve

__all__ = ["Curve", "average_drop", "average_increase", "deletion_curve", "insertion_curve"]
