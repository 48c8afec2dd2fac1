"""A tested image's answer, and how well it matches the label.

Where labels are numbered objects, the answer's 8-connected components are its objects.  They get
back the separation border that the net has learnt to leave between them.  NumPy and SciPy only.
"""
import numpy as np

from datasets.labels import IGNORED
from datasets.objects import BORDER
from images.formats import png_bytes
from masks.answers import (Prediction, classes, foreground_probability, mask_pixels,
                           object_pixels)
from masks.object_scores import OBJECT_SCORES, instance_scores
from masks.objects import whole_objects, without_small
from masks.pixel_scores import scores
from nets.cut import Cut


def assess(logits, dataset, index, cut=Cut()):
    """The Prediction of an image of a DataLoader.SegmentationSet.

    logits: (K, H, W) float32.  cut: what is foreground, for two classes.  The image's label counts
    as it was given, with all pixels of its objects.
    """
    class_map = classes(logits, cut.threshold)
    of_objects, numbered = {}, None
    if not dataset.are_objects:
        label = dataset.label(index)
        class_map = without_small(class_map, cut.smallest_object)
    else:
        truth = dataset.objects(index)
        label = dataset.classes_of(truth)
        objects = whole_objects(class_map, BORDER, cut.smallest_object)
        class_map = (objects > 0).astype(np.uint8)
        found = instance_scores(objects, truth, IGNORED)
        numbered = png_bytes(object_pixels(objects))
        of_objects = {row.key: found[row.key] for row in OBJECT_SCORES}
    of_pixels = scores(class_map, label, dataset.n_classes, IGNORED)
    return Prediction(png_bytes(mask_pixels(class_map, dataset.n_classes)),
                      png_bytes(foreground_probability(logits)), {**of_pixels, **of_objects},
                      numbered)
