"""Which images can be in one set: those of one depth whose channels one net can take.  NumPy only.

Grey and RGB images go together, since one is read as the other.
"""
from collections import Counter

from command.errors import DataError
from images.channels import MOST_CHANNELS, suits_channels


def find_mixtures(images, n_channels=None):
    """What does not go together in a set: {path: a line that names it and says why}.

    images: {path: datasets.facts.ImageFacts}.  n_channels: what --n_channels asks for, or None.
    """
    lines = {path: f"{path}: {facts.kind}, but --n_channels is {n_channels}"
             for path, facts in images.items()
             if n_channels and not suits_channels(facts.channels, n_channels)}
    kinds = {path: (facts.dtype, 1 if facts.channels == 3 else facts.channels)
             for path, facts in images.items() if path not in lines}
    counts = Counter(kinds.values())
    usual = max(counts, key=counts.get, default=None)
    example = next((path for path in kinds if kinds[path] == usual), None)
    for path in kinds:
        facts = images[path]
        if kinds[path] != usual:
            lines[path] = (f"{path}: {facts.kind}, but {example} is {images[example].kind}; "
                           "the images of a set have one depth and one number of channels")
        elif facts.channels > MOST_CHANNELS:
            lines[path] = f"{path}: {facts.kind}, but a net takes {MOST_CHANNELS} at most"
    return lines


def check_mixtures(survey, images, n_channels=None):
    """Raise DataError for the first image that does not go together with the others.

    survey: a datasets.survey.Survey; images: paths; n_channels: as for `find_mixtures`.
    """
    lines = find_mixtures({path: survey.image(path) for path in images}, n_channels)
    for line in lines.values():
        raise DataError(line)


def describe_mixture(survey, images, n_channels):
    """A line about grey and RGB images in one set, or ""; n_channels: of the net."""
    counts = Counter(survey.image(path).channels for path in images)
    if not (counts[1] and counts[3]):
        return ""
    read_as = "grey" if n_channels == 1 else "RGB"
    return (f"Grey images ({counts[1]}) and RGB images ({counts[3]}) in one set: all are read as "
            f"{read_as}")
