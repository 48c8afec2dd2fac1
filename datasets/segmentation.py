"""A data set's pairs as arrays: images, classes, numbered objects, what is trained on."""
import numpy as np

from datasets.labels import (as_classes, as_objects, check_label, check_objects,
                             check_some_counts, load_label, load_objects)
from datasets.objects import BORDER, training_target
from images.channels import as_planes
from images.reading import read_image, read_label
from images.values import load_image, normalise
from images.windows import Windows, window_of


class SegmentationSet:
    """Image/label pairs as normalised arrays.

    `image(i)`: (C, H, W) float32.  `label(i)`: (H, W) int32 classes as given, which answers are
    scored against.  `target(i)`: (H, W) int32, what is trained on.  For label_kind "classes" that
    is the label; for "objects", numbers without the separation border.  `objects(i)`: the numbers
    as given.  Pixels that are stored as `ignore_label` are IGNORED (-1) in all of them.  `name(i)`:
    the file's name without its suffix.
    """

    def __init__(self, pairs, n_channels, n_classes, statistics, ignore_label=None,
                 label_kind="classes", decoded=None):
        """decoded: datasets.decoded.DecodedFiles, or None."""
        self.pairs, self.n_channels, self.n_classes = pairs, n_channels, n_classes
        self.statistics, self.ignore_label = statistics, ignore_label
        self.label_kind, self.decoded = label_kind, decoded

    def __len__(self):
        return len(self.pairs)

    def name(self, index):
        return self.pairs[index][0].stem

    def pixels(self, index):
        """The image before it is normalised: (C, H, W) float32, in the units of `as_planes`."""
        return load_image(self.pairs[index][0], self.n_channels)

    def image(self, index):
        return normalise(self.pixels(index), self.statistics)

    def label(self, index):
        return load_label(self.pairs[index][1], self.n_classes, self.ignore_label)

    @property
    def are_objects(self):
        """Whether the labels' values number objects."""
        return self.label_kind == "objects"

    def objects(self, index):
        return load_objects(self.pairs[index][1], self.ignore_label)

    def target(self, index):
        return training_target(self.objects(index)) if self.are_objects else self.label(index)

    # -------------------------------------------------------------------------- parts of a pair
    def _open(self, path, read):
        """The values of a file, of which parts are read where it is kept decoded; else `read()`."""
        kept = None if self.decoded is None else self.decoded.open(path)
        return read() if kept is None else kept

    def image_windows(self, index):
        """The image before it is normalised: Windows, as an array (C, H, W) float32."""
        path = self.pairs[index][0]
        stored = self._open(path, lambda: read_image(path, self.n_channels))
        return Windows(stored, as_planes, self.n_channels)

    def label_windows(self, index):
        """The classes, or the numbers of objects, as given: Windows, as an array (H, W) int32."""
        path = self.pairs[index][1]
        stored = self._open(path, lambda: read_label(path))
        if self.are_objects:
            return Windows(stored, lambda part: as_objects(path, part, self.ignore_label))
        return Windows(stored, lambda part: as_classes(path, part, self.n_classes,
                                                       self.ignore_label))

    def target_part(self, label, rows, columns):
        """The target's rows and columns, two slices: (h, w) int32; label: of `label_windows`."""
        margin = BORDER if self.are_objects else 0  # a border depends on pixels so far away
        spans = [np.arange(max(0, part.start - margin), min(length, part.stop + margin))
                 for part, length in zip((rows, columns), label.shape)]
        part = window_of(label, *spans)
        if self.are_objects:
            part = training_target(part)
        inside = [slice(part.start - span[0], part.stop - span[0])
                  for part, span in zip((rows, columns), spans)]
        return part[tuple(inside)]

    def classes_of(self, target):
        """The class indices of a target, (H, W) int32."""
        return np.minimum(target, 1) if self.are_objects else target

    def check_labels(self, survey, to_score_against=False):
        """Raise DataError for a label with a value that is no class.

        survey: a datasets.survey.Survey.  to_score_against: also for a label without any pixel that
        counts.
        """
        for _, path in self.pairs:
            values = survey.label(path).values.keys() - {self.ignore_label}
            largest = max(values, default=0)
            if self.are_objects:
                check_objects(path, largest)
            else:
                check_label(path, largest if self.n_classes > 2 else 0, self.n_classes,
                            self.ignore_label)
            if to_score_against:
                check_some_counts(path, bool(values), self.ignore_label)

    def class_counts(self, survey):
        """The pixels of each class in each label: [(n_classes,) int64]."""
        return [survey.label(path).class_counts(self.n_classes, self.ignore_label)
                for _, path in self.pairs]

    def object_sizes(self, survey):
        """The pixels of the background, then of each object, in each label: [list of counts]."""
        values = [survey.label(path).values for _, path in self.pairs]
        return [[found.get(0, 0), *(pixels for value, pixels in found.items()
                                    if value not in (0, self.ignore_label))] for found in values]
