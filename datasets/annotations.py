"""Images with annotation files, as a data set, for `python MakeData.py annotations`.

A format is a row of ANNOTATION_FORMATS.  To add one, write a function that reads its files and add
a row.
"""
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np

from command.bars import progress_bar
from command.errors import DataError
from command.names import canonical, stem_of
from datasets.class_colours import CLASS_TABLE, list_classes
from datasets.entries import Entry
from datasets.folders import CONVERTED_SUFFIXES, check_no_copies, say_conversions
from datasets.json_shapes import read_coco, read_geojson, read_labelme
from datasets.layout import Source, content_of, lay_out, suffix_in_set
from datasets.roi_shapes import read_rois
from datasets.shapes import Drawing, draw_shapes
from images.channels import stored_channels
from images.formats import IMAGE_SUFFIXES, check_same_size, list_images, pixels_suffix
from images.reading import read_image

MOST_LINES = 20  # about one kind of thing; the rest is counted


class AnnotationFormat(NamedTuple):
    """How the annotation files of a format are found and read."""
    name: str           # what --from says
    suffixes: tuple     # of its files, in lower case, with the dot
    one_for_all: bool   # whether one file is about all images; else each image has its own
    read: Callable      # from a path to a Drawing; one_for_all: {file name of an image: Drawing}


ANNOTATION_FORMATS = (
    AnnotationFormat("labelme", (".json",), False, read_labelme),
    AnnotationFormat("coco", (".json",), True, read_coco),
    AnnotationFormat("geojson", (".geojson", ".json"), False, read_geojson),
    AnnotationFormat("imagej_roi", (".zip", ".roi"), False, read_rois),
)


class Remarks:
    """Lines about what is odd, by kind, and about what makes the set impossible."""

    def __init__(self):
        self.lines = {}     # {kind, in words that follow a number: [line, ...]}
        self.errors = []

    def add(self, kind, line):
        self.lines.setdefault(kind, []).append(line)

    def show(self):
        """Print the lines.  Raises DataError where there are errors."""
        for kind, lines in self.lines.items():
            for line in lines[:MOST_LINES]:
                print(f"warning: {line}")
            if len(lines) > MOST_LINES:
                print(f"warning: and {len(lines) - MOST_LINES} more {kind}")
        if len(self.errors) == 1:
            raise DataError(self.errors[0])
        for line in self.errors:
            print(line)
        if self.errors:
            raise DataError(f"{len(self.errors)} annotations or images cannot be used (each has "
                            "a line above); mend them, or move them away")


class LabelWish(NamedTuple):
    """What the labels should show, and the images have."""
    classes: Optional[dict]    # {name: number}; None: objects
    n_channels: Optional[int]  # None: any number


class Labelled(NamedTuple):
    """An image with the shapes that its label shows."""
    image: Path
    suffix: str                # of its name in the set
    size: tuple                # (height, width) in pixels
    shapes: list               # of Shape
    classes: Optional[list]    # the class number of each shape; None: they are objects

    def draw(self):
        """Its shapes as a Drawn; of objects the label has the numbers 1 ... N of those seen."""
        if self.classes is not None:
            drawn = draw_shapes(self.shapes, self.classes, *self.size)
            return drawn._replace(label=_in_few_bits(drawn.label, np.uint8))
        drawn = draw_shapes(self.shapes, range(1, len(self.shapes) + 1), *self.size)
        seen = np.union1d([0], drawn.label)
        label = np.searchsorted(seen, drawn.label)
        return drawn._replace(label=_in_few_bits(label, np.uint16))


def _in_few_bits(label, at_least):
    """Whole numbers from 0 in the dtype `at_least`, or in more bits where these are needed."""
    return label.astype(np.promote_types(at_least, np.min_scalar_type(int(label.max()))))


# ------------------------------------------------------------------------------------- the files
def find_drawings(source_format, place, images, remarks):
    """The Drawings of the images: {stem: Drawing}; without those of which no file says anything.

    source_format: an AnnotationFormat; place: its file or folder; images: {stem: Path}.  A file
    that is damaged is an error among the `remarks`, and its Drawing is None.  Raises DataError
    where no image has a file.
    """
    if source_format.one_for_all:
        drawings = _read_one_for_all(source_format, place)
    else:
        drawings = _find_files(source_format, place)
    by_stem = {}
    for name, drawing in drawings.items():
        name = canonical(name)
        stem = next((stem for stem in (name, stem_of(name)) if stem in images), None)
        if stem is None:
            where = f"{place}: {name}" if source_format.one_for_all else drawing
            remarks.add("annotations without an image", f"{where}: no image of this name")
        elif stem in by_stem:
            remarks.errors.append(f"{place}: {name}: a second annotation of {images[stem].name}; "
                                  "keep one of the two")
        else:
            by_stem[stem] = drawing
    if not by_stem and not remarks.errors:
        raise DataError(f"{place}: no annotation of an image in {images.popitem()[1].parent}; "
                        "an annotation file has the name of its image")
    if source_format.one_for_all:
        return by_stem
    read = {}
    for stem, path in progress_bar(by_stem.items(), "annotations", unit="file"):
        try:
            read[stem] = source_format.read(path)
        except DataError as error:
            read[stem] = None
            remarks.errors.append(str(error))
    return read


def _read_one_for_all(source_format, path):
    if not path.is_file():
        raise DataError(f"{path}: no such file; --from {source_format.name} reads one file for all "
                        "images")
    return source_format.read(path)


def _find_files(source_format, folder):
    """{name without the format's suffix: Path} of a folder's annotation files, as `list_images`."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --from {source_format.name} reads a folder "
                        "with one file for each image")
    return list_images(folder, suffixes=source_format.suffixes)


# ------------------------------------------------------------------------------------- the labels
def choose_shapes(image, drawing, wish, remarks):
    """The Labelled of an image; None where there is an error.

    drawing: of the image, or None; wish: a LabelWish.  A shape without a number is left out.
    Errors and what is odd go to the `remarks`.
    """
    classes = wish.classes
    try:
        pixels = read_image(image, stored_channels(wish.n_channels))
        height, width, *_ = pixels.shape
        if drawing and drawing.size:
            check_same_size(image, (height, width), drawing.path, drawing.size)
    except DataError as error:
        remarks.errors.append(str(error))
        return None
    shapes = []
    if drawing is None or not drawing.shapes + drawing.left_out:
        remarks.add("images without annotations", f"{image}: no annotations, its label is empty")
        drawing = Drawing(image, [], [])
    for line in drawing.left_out:
        remarks.add("annotations that are left out", f"{drawing.path}: {line}")
    for shape in drawing.shapes:
        where = f"{drawing.path}: {shape.place}"
        if classes is not None and shape.name not in classes:
            remarks.add("shapes without a class", f"{where} has no class: left out")
            continue
        if classes is None and shape.is_crowd:
            remarks.add("crowds", f"{where} is marked as a crowd: drawn as one object")
        shapes.append(shape)
    numbers = None if classes is None else [classes[shape.name] for shape in shapes]
    return Labelled(image, suffix_in_set(image, pixels), (height, width), shapes, numbers)


def check_drawn(labelled, path, remarks):
    """Draw a Labelled once: Drawn, or None where there is an error.

    path: of the annotation file.  Errors and what is odd go to the `remarks`.
    """
    try:
        drawn = labelled.draw()
    except ValueError as error:
        remarks.errors.append(f"{path}: {error}; export it again")
        return None
    for k, shape in enumerate(labelled.shapes):
        outside = any(part.bounds.reach_outside(*labelled.size) for part in shape.parts)
        where = f"{path}: {shape.place} lies"
        if outside and k in drawn.empty:
            remarks.add("shapes outside", f"{where} outside of {labelled.image}: left out")
        elif outside:
            remarks.add("shapes partly outside", f"{where} partly outside of {labelled.image}: "
                                                 "cut off at its edge")
        elif k in drawn.empty:
            remarks.add("shapes without a pixel", f"{where} on no pixel's centre: left out")
        elif k in drawn.hidden:
            remarks.add("shapes hidden", f"{where} whole under smaller shapes")
    return drawn


def number_classes(drawings, place):
    """The class number of each name in Drawings: {name: 1, ...}, in the order of the names.

    Raises DataError where no shape has a name.  place: of the annotation files, for the message.
    """
    names = sorted({shape.name for drawing in drawings for shape in drawing.shapes} - {""})
    if not names:
        raise DataError(f"{place}: no shape has the name of a class; "
                        "--label_kind objects numbers shapes without names")
    return {name: number for number, name in enumerate(names, start=1)}


# --------------------------------------------------------------------------------------- the import
def make_labelled(labelled):
    """The contents of an Entry: an image and its label, drawn."""
    return [content_of(labelled.image, read_image), labelled.draw().label]


def draw_sources(images, drawings, wish, remarks):
    """Draw the label of each image once: a list of Source.

    images: {stem: Path}; drawings: as `find_drawings` gives them; wish: a LabelWish.  Errors and
    what is odd go to the `remarks`.
    """
    sources, contested, is_empty = [], [], True
    for stem, image in progress_bar(images.items(), "drawing", unit="image"):
        drawing = drawings.get(stem)
        if stem in drawings and drawing is None:
            continue  # its file is damaged; it is no image without annotations
        labelled = choose_shapes(image, drawing, wish, remarks)
        drawn = labelled and check_drawn(labelled, drawing and drawing.path, remarks)
        if drawn:
            is_empty = is_empty and not drawn.label.any()
            contested += [drawn.contested] if drawn.contested else []
            suffixes = [labelled.suffix, pixels_suffix(drawn.label)]
            sources.append(Source(image, (stem,), suffixes, partial(make_labelled, labelled)))
    if contested:
        remarks.add("overlaps", "pixels that lie in several shapes belong to the smallest one: "
                                f"{sum(contested):,}, in {len(contested):,} of the images")
    if is_empty and not remarks.errors:
        remarks.errors.append(f"{image.parent}: no shape that can be drawn on any of these images; "
                              "export polygons")
    return sources


def import_annotations(image_folder, place, format_name, folder, rule, label_kind,
                       n_channels=None):
    """Write images with annotations into the set `folder`; returns its number of classes.

    place: the file or the folder of the format, a row of ANNOTATION_FORMATS; rule: a SplitRule;
    label_kind: "objects" numbers shapes from 1, "classes" gives a shape the number of its name;
    n_channels: that the images should have, or None.
    Raises DataError, before anything is written, for what is no data set.
    """
    suffixes = IMAGE_SUFFIXES + CONVERTED_SUFFIXES
    images = list_images(image_folder, suffixes=suffixes)
    if not images:
        raise DataError(f"{image_folder}: no images here ({', '.join(suffixes)})")
    check_no_copies(image_folder)
    source_format = next(row for row in ANNOTATION_FORMATS if row.name == format_name)
    remarks = Remarks()
    drawings = find_drawings(source_format, place, images, remarks)
    classes, tables = None, []
    if label_kind == "classes" and not remarks.errors:
        classes = number_classes(drawings.values(), place)
        tables = [Entry((folder / CLASS_TABLE,), lambda: [list_classes(classes)], count=0)]
    sources = draw_sources(images, drawings, LabelWish(classes, n_channels), remarks)
    remarks.show()
    say_conversions(images.values())
    if classes:
        shown = [f"{number} {name}" for name, number in classes.items()]
        more = f" and {len(shown) - MOST_LINES} more" if len(shown) > MOST_LINES else ""
        print(f"classes: 0 background, {', '.join(shown[:MOST_LINES])}{more}")
    lay_out(sources, folder, rule, tables)
    return 1 + len(classes) if classes else 2
