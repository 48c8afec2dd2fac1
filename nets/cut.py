"""Where a net's probabilities are cut into foreground and background."""
import statistics
from typing import NamedTuple


class Cut(NamedTuple):
    """Which pixels are foreground; for two classes alone."""
    threshold: float = 0.5    # those whose probability of it is larger
    smallest_object: int = 0  # px: 8-connected components of fewer become background

    def __str__(self):
        return f"threshold {self.threshold:g}, smallest object {self.smallest_object} px"


def cut_of_header(header, n_classes):
    """The Cut in a checkpoint's header, a plain one where it names none.

    Raises ValueError for what is no Cut, or none for this number of classes.
    """
    cut = Cut(header.get("threshold", 0.5), header.get("smallest_object", 0))
    is_number = type(cut.threshold) is float and 0 < cut.threshold < 1
    is_size = type(cut.smallest_object) is int and cut.smallest_object >= 0
    if not (is_number and is_size) or n_classes != 2 and cut != Cut():
        raise ValueError(f"{cut.threshold!r}, {cut.smallest_object!r}")
    return cut


def common_cut(cuts):
    """The Cut of the mean of several nets: the mean threshold, the median smallest object."""
    thresholds, sizes = zip(*cuts)
    return Cut(statistics.fmean(thresholds), round(statistics.median(sizes)))
