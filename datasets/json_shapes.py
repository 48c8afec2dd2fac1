"""Annotation files in JSON: labelme's, COCO's, and GeoJSON as QuPath writes it."""
import contextlib
from pathlib import Path

import numpy as np

from command.errors import DataError
from command.files import parse_json
from command.names import canonical
from datasets.shapes import Bounds, Drawing, Ellipse, Polygon, Runs, Shape, ring_of


@contextlib.contextmanager
def _content_of(path, kind):
    """`with _content_of(path, "COCO") as content:` the values of a JSON file.

    Whatever is wrong with the file, or found missing within the block, is a DataError.
    """
    try:
        yield parse_json(Path(path).read_text("utf-8-sig"))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        detail = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{path}: not a readable {kind} file ({detail}); "
                        "export it again") from None


# ------------------------------------------------------------------------------------------ labelme
def read_labelme(path):
    """labelme's file of an image: Drawing.  Shapes of one label and one group are one Shape."""
    shapes, left_out = {}, []
    with _content_of(path, "labelme") as content:
        for count, stored in enumerate(content["shapes"], start=1):
            kind, place = stored.get("shape_type") or "polygon", f"shape {count}"
            part = _labelme_part(kind, ring_of(stored["points"]))
            if part is None:
                left_out.append(f"{place} is a {kind}, which is not read: left out")
                continue
            name, group = canonical(str(stored["label"] or "")), stored.get("group_id")
            key = (name, count, None) if group is None else (name, None, group)
            known = shapes.get(key, Shape(name, (), place))
            shapes[key] = known._replace(parts=(*known.parts, part))
        size = content.get("imageHeight"), content.get("imageWidth")
    return Drawing(path, [*shapes.values()], left_out, size if all(size) else None)


def _labelme_part(kind, points):
    """The part of a Shape that labelme's points mean; None for a kind without an area."""
    if kind == "polygon" or kind == "rectangle" and len(points) > 2:
        return Polygon((points,))
    if kind == "rectangle":
        (left, top), (right, bottom) = points
        return Polygon((ring_of([left, top, right, top, right, bottom, left, bottom]),))
    if kind == "circle":
        centre, on_edge = points
        radius = np.hypot(*(on_edge - centre))
        return Ellipse(Bounds(*(centre - radius), *(centre + radius)))
    return None


# ------------------------------------------------------------------------------------------ GeoJSON
def read_geojson(path):
    """A GeoJSON file of an image, as QuPath writes it: Drawing.

    A shape's class is properties.classification.name.  The file may be a FeatureCollection, a list
    of features, or one feature.
    """
    shapes, left_out = [], []
    with _content_of(path, "GeoJSON") as content:
        if isinstance(content, dict):
            content = content["features"] if "features" in content else [content]
        for count, feature in enumerate(content, start=1):
            place, geometry = f"feature {count}", feature["geometry"] or {"type": "nothing"}
            kind = geometry["type"]
            if kind not in ("Polygon", "MultiPolygon"):
                left_out.append(f"{place} is a {kind}, which has no area: left out")
                continue
            stored = geometry["coordinates"]
            parts = [Polygon(tuple(ring_of([point[:2] for point in ring]) for ring in polygon))
                     for polygon in ([stored] if kind == "Polygon" else stored) if polygon]
            if not parts:
                left_out.append(f"{place} is an empty {kind}: left out")
                continue
            kind_of_thing = (feature.get("properties") or {}).get("classification") or ""
            if isinstance(kind_of_thing, dict):
                kind_of_thing = kind_of_thing.get("name") or ": ".join(
                    kind_of_thing.get("names") or ())
            shapes.append(Shape(canonical(str(kind_of_thing)), tuple(parts), place))
    return Drawing(path, shapes, left_out)


# --------------------------------------------------------------------------------------------- COCO
def read_coco(path):
    """COCO's one file for all images: {file name of an image: Drawing}.

    The parts of an annotation are joined.  An annotation whose category the file does not name
    has no name.
    """
    with _content_of(path, "COCO") as content:
        names = {each["id"]: canonical(str(each["name"])) for each in content.get("categories", ())}
        found = {}
        for image in content["images"]:
            size = image.get("height"), image.get("width")
            found[image["id"]] = (
                canonical(Path(str(image["file_name"]).replace("\\", "/")).name),
                Drawing(path, [], [], size if all(size) else None))
        for count, stored in enumerate(content["annotations"], start=1):
            place = f"annotation {stored.get('id', count)}"
            _, drawing = found[stored["image_id"]]
            try:
                parts = _coco_parts(stored.get("segmentation"))
            except ValueError as error:
                raise ValueError(f"{place} {error}") from None
            if not parts:
                drawing.left_out.append(f"{place} has no segmentation: left out")
                continue
            drawing.shapes.append(Shape(names.get(stored.get("category_id"), ""), parts, place,
                                        bool(stored.get("iscrowd"))))
        drawings = dict(found.values())
        if len(drawings) < len(found):
            raise ValueError("two images of one file name")
    return drawings


def _coco_parts(segmentation):
    """The parts of a Shape that a segmentation means: flat lists of corners, or runs of pixels."""
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        lengths = segmentation["counts"]
        lengths = lengths.encode() if isinstance(lengths, str) else tuple(map(int, lengths))
        return (Runs(lengths, int(height), int(width)),)
    return tuple(Polygon((ring_of(corners),)) for corners in segmentation or () if corners)
