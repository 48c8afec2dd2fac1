"""What is known of each file of a data set: each file is decoded once, ever.

`Survey(folder)` keeps it in `<folder>/survey.json`, with a key for each file: where one image has
changed, one image is read again.  Channels, classes, mean and std, sizes, baselines, the digest
that --resume compares and `MakeData.py check` all come from here.  NumPy only.
"""
import dataclasses
import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from command.bars import map_in_threads
from command.errors import DataError, describe_failure
from command.files import atomic_write, parse_json
from command.names import canonical
from datasets.facts import ImageFacts, LabelFacts, examine_image, examine_label
from datasets.label_values import LabelKind, classes_in, total_values
from datasets.pairs import check_sizes
from images.channels import is_scaled
from images.formats import check_same_size
from images.values import Statistics

SURVEY_VERSION = 2         # raise it when the facts change
SMALLEST_STD = 1e-6  # of values in [0, 1]: below it a channel counts as constant.  In other units
                     # it is this part of the values' root mean square


@dataclass(frozen=True)
class SetFacts:
    """What choices are made by."""
    training_sizes: tuple  # (height, width) in px of each image to train on
    tested_sizes: tuple    # of each image that is tested after an epoch
    height: int            # px, of the highest training image
    width: int             # px, of the widest
    n_channels: int        # by the training images
    n_classes: int         # by all labels
    shapes: frozenset = frozenset()  # (height, width) of the training images, each once
    label_kind: LabelKind = LabelKind("classes")


# -------------------------------------------------------------------------------------- all files
class Survey:
    """The facts of a data set's files; `image(path)` and `label(path)` decode what is not known.

    folder: where `survey.json` lies; None: nothing is kept.
    n_channels: what --n_channels asks for, or None; see `examine_image`.
    """
    FACTS = {"image": ImageFacts, "label": LabelFacts}

    def __init__(self, folder=None, n_channels=None):
        self.path = None if folder is None else Path(folder) / "survey.json"
        self.stored = {} if self.path is None else _read_stored(self.path)
        self.facts = {}  # {(kind, path): facts} of files that are as they were
        self.changed, self.n_channels = False, n_channels

    def image(self, path):
        return self._ask("image", path)

    def label(self, path):
        return self._ask("label", path)

    def read(self, pairs):
        """Decode what is not known of [(image path, label path)], in parallel, with progress.

        Raises DataError for the first file that cannot be read, and where an image and its label
        differ in size.
        """
        asked = [(kind, path) for pair in pairs for kind, path in zip(("image", "label"), pair)]
        unknown = [each for each in asked if not self._recall(*each)]
        # by the headers: a mistake is said before a long decoding
        fresh = {path for _, path in unknown}
        check_sizes([pair for pair in pairs if not fresh.isdisjoint(pair)])
        try:
            list(map_in_threads(lambda each: self._ask(*each), unknown, "reading the data set",
                                unit="file"))
        finally:
            self.save()
        for image, label in pairs:
            check_same_size(image, size_of(self.image(image)),
                            label, size_of(self.label(label)))

    def note(self, label_path, name, value):
        """Keep a text about a label file for as long as that stays as it is."""
        facts = self.label(label_path)
        if facts.notes.get(name) != value:
            facts = dataclasses.replace(facts, notes={**facts.notes, name: value})
            key = self.stored[_name_of("label", label_path)]["key"]  # of what was decoded
            self._know("label", label_path, facts, key)

    def save(self):
        """Write what was learned.  A folder that cannot be written is no reason to stop."""
        if self.changed and self.path is not None:
            with suppress(OSError), atomic_write(self.path) as temporary:
                content = {"version": SURVEY_VERSION, "files": self.stored}
                temporary.write_text(json.dumps(content, sort_keys=True))
            self.changed = False

    # ----------------------------------------------------------------------------- known or not
    def _ask(self, kind, path):
        known = self._recall(kind, path)
        if known is None:
            key = _key_of(path)  # before it is decoded: a later change is seen at the next start
            known = self._know(kind, path, self._examine(kind, path), key)
        return known

    def _examine(self, kind, path):
        try:
            if kind == "label":
                return examine_label(path)
            return examine_image(path, self.n_channels)
        except DataError:
            raise
        except Exception as error:  # noqa: BLE001 - for a damaged file almost any is possible
            raise DataError(describe_failure(error, path)) from error

    def _recall(self, kind, path):
        """The facts of a file that is as it was, or None."""
        known = self.facts.get((kind, path))
        if known is None:
            entry = self.stored.get(_name_of(kind, path))
            with suppress(OSError, TypeError, KeyError, ValueError, AttributeError):  # damaged
                if entry["key"] == _key_of(path):
                    known = self.facts[kind, path] = self._revive(kind, entry["facts"])
        return known

    def _revive(self, kind, facts):
        if kind == "label":
            values = {int(value): int(pixels) for value, pixels in facts["values"].items()}
            facts = {**facts, "values": values}
        revived = self.FACTS[kind](**facts)
        if any(type(getattr(revived, each.name)) is not each.type
               for each in dataclasses.fields(revived)):
            raise ValueError("damaged")
        if kind == "image" and revived.of_pages and revived.channels != self.n_channels:
            raise ValueError("its pages are no channels now")
        return revived

    def _know(self, kind, path, facts, key):
        self.facts[kind, path] = facts
        self.stored[_name_of(kind, path)] = {"key": key, "facts": asdict(facts)}
        self.changed = True
        return facts


def _name_of(kind, path):
    """A file's name in survey.json: its path as it was given, as in the lists beside it."""
    return f"{kind} {Path(path).as_posix()}"


def _key_of(path):
    """What tells that a file has changed: its size in bytes and its time of change.

    None where the file is not there; whoever decodes it says so.
    """
    with suppress(OSError):
        status = os.stat(path)
        return [status.st_size, status.st_mtime_ns]
    return None


def _read_stored(path):
    with suppress(OSError, ValueError, KeyError, TypeError):  # not there, damaged: read anew
        stored = parse_json(path.read_text())
        if stored["version"] == SURVEY_VERSION and type(stored["files"]) is dict:
            return stored["files"]
    return {}


# --------------------------------------------------------------------------- what follows from it
def statistics_of(survey, images, n_channels):
    """The Statistics of image files: mean and std per channel over all pixels."""
    count, total, squares = 0, 0.0, 0.0
    for path in images:
        facts = survey.image(path)
        sums = facts.sums_for(n_channels)
        count += facts.height * facts.width
        total, squares = total + np.array(sums[0]), squares + np.array(sums[1])
    mean, dtype = total / count, survey.image(images[0]).dtype
    std = np.sqrt(np.maximum(squares / count - mean ** 2, 0))
    unit = 1.0 if is_scaled(dtype) else np.sqrt(squares / count)
    std = np.where(std > SMALLEST_STD * unit, std, 1.0)
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()), dtype)


def values_of(survey, labels, ignore_label):
    """The pixels of each stored value over label files; see `label_values.total_values`."""
    return total_values((survey.label(path).values for path in labels), ignore_label)


def facts_of_set(survey, train_pairs, held_pairs, test_pairs, ignore_label,
                 label_kind=LabelKind("classes")):
    """The SetFacts of pairs to train on, to hold back, and to test on.

    label_kind: the LabelKind of all of them.
    """
    training = [*train_pairs, *held_pairs]
    images = [survey.image(image) for image, _ in training]
    totals = [values_of(survey, [label for _, label in pairs], ignore_label)
              for pairs in (training, test_pairs)]
    sizes = [tuple(size_of(survey.image(image)) for image, _ in pairs)
             for pairs in (train_pairs, held_pairs or test_pairs)]
    return SetFacts(*sizes,
                    max(facts.height for facts in images), max(facts.width for facts in images),
                    needed_channels(images), classes_in(totals, label_kind.kind),
                    frozenset(map(size_of, images)), label_kind)


def size_of(facts):
    """(height, width) in px of a file, by its facts."""
    return facts.height, facts.width


def needed_channels(images):
    """The channels that a net for these ImageFacts needs: 1 for grey values, however stored."""
    if any(facts.is_colour for facts in images):
        return 3
    return 1 if images[0].channels == 3 else images[0].channels


def digest_of_set(survey, pairs):
    """A digest of the names and contents of all files of pairs."""
    contents = []
    for image, label in pairs:
        contents += [(canonical(image.name), survey.image(image).content),
                     (canonical(label.name), survey.label(label).content)]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()
