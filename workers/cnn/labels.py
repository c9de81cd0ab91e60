"""The names of classes, as networks' rows have them: a model in, a Label for each of its scores out."""

from config.classes import IMAGENET_CLASSES, Label, find_labels, imagenet_labels

__all__ = ["IMAGENET_CLASSES", "Label", "find_labels", "imagenet_labels"]
