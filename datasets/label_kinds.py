"""Whether the labels' values are classes or numbers of objects, and what the border takes of these.

Main.py and `MakeData.py check` ask here, so that both say the same.
"""
from contextlib import suppress
from typing import NamedTuple

from command.bars import map_in_threads
from command.errors import DataError
from command.names import canonical_path
from datasets.copies import Manifest
from datasets.label_values import MOST_USUAL, LabelKind, foreground_of
from datasets.labels import load_objects
from datasets.objects import BORDER, border_loss, count_pieces
from datasets.survey import Survey, values_of
from images.reading import is_lossy

FEWEST = 3     # values above 0 that may number objects
MOSTLY = 0.95  # least share of a set's objects that are one piece


class ObjectFacts(NamedTuple):
    """How many objects labels number, each file for itself."""
    all: int       # a number in two files is two objects
    whole: int     # of these, in one 8-connected piece
    vanished: int  # of which the separation border leaves nothing
    parted: int    # that it leaves in more pieces than before


def decide_kind(survey, labels, label_kind=None, n_classes=None, ignore_label=None):
    """The LabelKind of label files: as a flag says, or as the values look.

    survey: a datasets.survey.Survey.  labels: paths.  label_kind, n_classes: of the flags, or None.

    Numbers of objects are more than MOST_USUAL values above 0, nearly all of them one piece in each
    file.  Fewer may be either, and count as classes.  More than two classes are classes.
    """
    if label_kind:
        return LabelKind(label_kind)
    counts = values_of(survey, labels, ignore_label)
    if sum(value > 0 for value in counts) >= FEWEST:
        labels = without_copies(survey, labels)
        counts = values_of(survey, labels, ignore_label)
    return recognise_kind(counts, labels, n_classes,
                          lambda: object_facts(survey, labels, ignore_label))


def looks_numbered(label):
    """Whether the values of one label file look as if they number objects, for a preview.

    A preview does without what a training refuses, such as a number that is too large.
    """
    with suppress(DataError):
        return decide_kind(Survey(), [label]).kind == "objects"
    return False


def recognise_kind(counts, labels, n_classes, count_all):
    """The LabelKind of label files as their values look.

    counts: their `total_values`.  labels: their paths.  n_classes: of a flag, or None.  count_all:
    a function that gives the ObjectFacts of all; it is called where the values do not say it.
    """
    values = sum(value > 0 for value in counts)
    if (n_classes not in (None, 2) or values < FEWEST or foreground_of(counts).is_certain
            or any(map(is_lossy, labels))):
        return LabelKind("classes")
    facts = count_all()
    look_alike = facts.whole >= MOSTLY * facts.all
    share = f"{values} values above 0, {facts.whole / facts.all:.0%} in one piece in each label"
    if values > MOST_USUAL and look_alike:
        return LabelKind("objects", f"{share}; if these are classes: --label_kind classes")
    if look_alike:
        return LabelKind("classes", f"{share}; if these number objects: --label_kind objects")
    return LabelKind("classes")


def without_copies(survey, labels):
    """Label files without DataAugmentation.py's copies, which show objects twice at their edges."""
    known = {}
    for folder in {path.parent for path in labels}:
        known.update(Manifest(folder.parent / "imgs", folder).hashes)
    originals = [path for path in labels
                 if survey.label(path).content not in known.get(canonical_path(path), ())]
    return originals or labels


def object_facts(survey, labels, ignore_label):
    """The ObjectFacts of label files together; the survey keeps those of each file."""
    name = f"objects, border {BORDER}, without {ignore_label}"

    def recall(path):
        words = survey.label(path).notes.get(name, "").split()
        is_whole = len(words) == len(ObjectFacts._fields) and all(map(str.isdecimal, words))
        return ObjectFacts(*map(int, words)) if is_whole else None
    missing = [path for path in labels if not recall(path)]
    found = map_in_threads(lambda path: count_objects(load_objects(path, ignore_label)), missing,
                           "counting objects", unit="label")
    for path, facts in zip(missing, found):
        survey.note(path, name, " ".join(map(str, facts)))
    survey.save()
    return ObjectFacts(*map(sum, zip(*map(recall, labels))))


def count_objects(objects):
    """The ObjectFacts of a label's numbers, (H, W) int32."""
    pieces = count_pieces(objects)
    return ObjectFacts(len(pieces), sum(each == 1 for each in pieces.values()),
                       *border_loss(objects))


def describe_border(facts):
    """What the border takes from the objects of ObjectFacts, in one line."""
    line = f"{facts.all:,} objects to train on; where two touch, each loses {BORDER} px"
    losses = []
    if facts.vanished:
        losses.append(f"{facts.vanished:,} lost")
    if facts.parted:
        losses.append(f"{facts.parted:,} in more pieces")
    return f"{line}: {', '.join(losses)}" if losses else line
