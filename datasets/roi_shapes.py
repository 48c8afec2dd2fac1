"""ImageJ's regions of interest, `.roi` files and `.zip` archives of them.  Needs roifile."""
import logging
import re

from command.errors import DataError
from command.names import canonical
from datasets.shapes import Bounds, Drawing, Ellipse, Polygon, Shape, ring_of

# What ImageJ, roifile and others call a region that nobody has named: numbers, or a UUID.
NO_NAME = re.compile(r"|\d{3,}(-\d{3,})+(-\d+)?|F\d+-C\w+|"
                     r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def read_rois(path):
    """The regions of an image, of a `.roi` or `.zip` file: Drawing.

    The class of a region is its name.  Where a file has `nucleus`, its `nucleus-1` is of the same
    class: ImageJ adds a number to the second region of a name.
    """
    try:
        from roifile import roiread
    except ImportError:
        raise DataError(f"{path}: ImageJ's regions need roifile: "
                        "`pip install -r requirements/annotations.txt`") from None
    logging.getLogger("roifile").setLevel(logging.CRITICAL)  # what it cannot read is said here
    shapes, left_out = [], []
    try:
        regions = roiread(path)
        regions = regions if isinstance(regions, list) else [regions]
        names = {region.name for region in regions}
        for count, region in enumerate(regions, start=1):
            place = f"region {count}"
            part = _part_of(region)
            if part is None:
                kind = region.subtype or region.roitype
                left_out.append(f"{place} ({region.name}) is a {kind.name.lower()}, "
                                "which has no area: left out")
                continue
            shapes.append(Shape(canonical(_class_of(region.name, names)), (part,), place))
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # noqa: BLE001 - roifile raises almost any for a damaged file
        raise DataError(f"{path}: not a readable file of ImageJ regions ({error}); "
                        "save it again") from None
    return Drawing(path, shapes, left_out)


def _class_of(name, names):
    """The class of the region `name`; names: of all regions of its file."""
    if NO_NAME.fullmatch(name):
        return ""
    first, _, number = name.rpartition("-")
    return first if number.isdigit() and first in names else name


def _part_of(region):
    """A roifile.ImagejRoi as part of a Shape; None where it has no area."""
    from roifile import ROI_SUBTYPE, ROI_TYPE
    with_area = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
    if region.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.ARROW, ROI_SUBTYPE.IMAGE):
        return None
    if region.composite or region.roitype in with_area:
        rings = tuple(ring_of(ring) for ring in region.coordinates(multi=True) if len(ring))
        return Polygon(rings) if rings else None
    if region.roitype not in (ROI_TYPE.RECT, ROI_TYPE.OVAL):
        return None
    left, top, right, bottom = region.left, region.top, region.right, region.bottom
    if region.subpixelrect:
        left, top = region.xd, region.yd
        right, bottom = left + region.widthd, top + region.heightd
    ring = ring_of([left, top, right, top, right, bottom, left, bottom])
    if region.roitype == ROI_TYPE.RECT:
        return Polygon((ring,))
    return Ellipse(Bounds(*ring[0], *ring[2]))
