"""`python MakeData.py annotations`: what people draw, against brute force at pixel centres."""
import builtins
import json
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers import assert_refused
from PIL import Image
from pycocotools import mask as coco_mask
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi, roiwrite

from datasets.annotations import ANNOTATION_FORMATS, Labelled, Remarks, find_drawings
from datasets.shapes import Bounds, Ellipse, Patch, Polygon, Shape, draw_shapes
from images.formats import pixels_suffix

HEIGHT, WIDTH = 24, 31


# ------------------------------------------------------------------------------------- brute force
def is_inside(x, y, rings):
    """Whether a point is inside of rings of corners, by the even-odd rule."""
    inside = False
    for ring in rings:
        for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]]):
            if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
                inside = not inside
    return inside


def inside_of(rings):
    """The pixels of an image whose centres lie in rings of corners, in exact fractions."""
    rings = [[[Fraction(float(value)) for value in corner] for corner in ring] for ring in rings]
    half = Fraction(1, 2)
    return np.array([[is_inside(x + half, y + half, rings) for x in range(WIDTH)]
                     for y in range(HEIGHT)])


def on_top(masks, numbers=None):
    """The number of the smallest mask at each pixel, of two equally small ones the later."""
    label = np.zeros((HEIGHT, WIDTH), int)
    for y, x in np.ndindex(label.shape):
        found = [(mask.sum(), -k) for k, mask in enumerate(masks) if mask[y, x]]
        if found:
            k = -min(found)[1]
            label[y, x] = numbers[k] if numbers else k + 1
    return label


def polygon_of(seed, corners=7, grid=None):
    """A random polygon that reaches over the image's edges and may cross itself."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-6, (WIDTH + 6, HEIGHT + 6), (corners, 2))
    return np.round(points / grid) * grid if grid else points


def fill(part):
    patch, pixels = part.fill(HEIGHT, WIDTH), np.zeros((HEIGHT, WIDTH), bool)
    pixels[patch.place] = patch.mask
    return pixels


@pytest.mark.parametrize("grid", [None, 1, 0.5])  # on a grid edges lie on centres of pixels
@pytest.mark.parametrize("seed", range(6))
def test_polygons_against_brute_force(seed, grid):
    ring = polygon_of(seed, grid=grid)
    expected = inside_of([ring])
    assert expected.any() and np.array_equal(fill(Polygon((ring,))), expected)


def test_rings_within_rings_are_holes():
    rings = [polygon_of(seed, corners=5) for seed in (1, 2, 3)]
    assert np.array_equal(fill(Polygon(tuple(rings))), inside_of(rings))


@pytest.mark.parametrize("times", [255, 256, 257, 512])
def test_a_ring_that_is_drawn_many_times(times):
    assert fill(Polygon((SQUARE,) * times)).sum() == (times % 2) * 16 * 18


def test_neighbours_share_no_pixel_and_leave_none():
    """A fan of triangles around a point covers each pixel of its outline once."""
    centre, angles = np.array([14.25, 11.5]), np.linspace(0, 2 * np.pi, 10)[:-1]
    radius = np.random.default_rng(0).uniform(5, 20, 9)
    corners = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    times = sum(fill(Polygon((np.array([centre, a, b]),))).astype(int)
                for a, b in zip(corners, np.roll(corners, -1, axis=0)))
    assert times.max() == 1 and np.array_equal(times == 1, fill(Polygon((corners,))))


@pytest.mark.parametrize("bounds", [(3, 2, 20, 15), (-5.5, -3, 8, 40), (10.2, 5.1, 11.4, 9)])
def test_ellipses_against_brute_force(bounds):
    left, top, right, bottom = bounds
    expected = [[((2 * x + 1 - left - right) / (right - left)) ** 2
                 + ((2 * y + 1 - top - bottom) / (bottom - top)) ** 2 < 1 for x in range(WIDTH)]
                for y in range(HEIGHT)]
    assert np.any(expected) and np.array_equal(fill(Ellipse(Bounds(*bounds))), expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_smaller_shape_lies_on_top(seed):
    rings = [polygon_of(10 * seed + k, corners=4) for k in range(6)]
    rings.append(rings[2])  # as large as another one: it lies on top of it
    masks = [inside_of([ring]) for ring in rings]
    shapes = [Shape("", (Polygon((ring,)),), f"shape {k}") for k, ring in enumerate(rings)]
    drawn = draw_shapes(shapes, range(1, len(shapes) + 1), HEIGHT, WIDTH)
    expected = on_top(masks)
    assert np.array_equal(drawn.label, expected)
    assert drawn.contested == (np.sum(masks, axis=0) > 1).sum() > 0
    assert drawn.empty == {k for k, mask in enumerate(masks) if not mask.any()}
    assert drawn.hidden == {k for k, mask in enumerate(masks)
                            if mask.any() and k + 1 not in expected} >= {2}


# ------------------------------------------------------------------------------------- the command
@pytest.fixture
def scans(tmp_path):
    """Five images, no two alike."""
    (tmp_path / "scans").mkdir()
    for k, stem in enumerate("abcde"):
        pixels = np.random.default_rng(k).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "scans" / f"{stem}.png")
    (tmp_path / "drawn").mkdir()
    return tmp_path / "scans"


@pytest.fixture
def annotations(make_data, scans, tmp_path):
    """The command, with its flags for the format, the kind, and more."""
    return lambda name, kind, *more: make_data(
        "annotations", "--images", scans, "--annotations", tmp_path / "drawn", "--from", name,
        "--label_kind", kind, "--Data_directory", tmp_path / "set", *more)


def labels_in(folder):
    """{stem: values} of the set's labels, both splits, each of which has its image."""
    found = {}
    for split in ("train", "test"):
        for path in (folder / split / "labels").iterdir():
            assert (folder / split / "imgs" / f"{path.stem}.png").exists()
            with Image.open(path) as image:
                found[path.stem] = np.asarray(image)
    return found


RINGS = {stem: [polygon_of(100 + 10 * k + j, corners=5) for j in range(3)]
         for k, stem in enumerate("abcde")}
NAMES = ["tumour", "stroma", "tumour"]  # in alphabetical order: 1 is stroma, 2 tumour
NUMBERS = [2, 1, 2]


@pytest.fixture(scope="module")
def masks():
    """What each ring covers."""
    return {stem: [inside_of([ring]) for ring in rings] for stem, rings in RINGS.items()}


def labelme(rings, names, **more):
    shapes = [{"label": name, "points": ring.tolist(), "shape_type": "polygon", "group_id": None}
              for ring, name in zip(rings, names)]
    return {"version": "5.4.1", "shapes": shapes, "imageHeight": HEIGHT, "imageWidth": WIDTH,
            "imageData": None, **more}


def write_labelme(folder):
    for stem, rings in RINGS.items():
        (folder / f"{stem}.json").write_text(json.dumps(labelme(rings, NAMES)))


def feature(name, kind, coordinates):
    properties = {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}}
    return {"type": "Feature", "id": "x", "properties": properties if name else {},
            "geometry": {"type": kind, "coordinates": coordinates}}


def write_geojson(folder):
    """As QuPath writes it: rings are closed; collections, or lists."""
    for stem, rings in RINGS.items():
        features = [feature(name, "Polygon", [[*ring.tolist(), ring[0].tolist()]])
                    for ring, name in zip(rings, NAMES)]
        content = features if stem in "ab" else {"type": "FeatureCollection", "features": features}
        (folder / f"{stem}.png.geojson").write_text(json.dumps(content))


def write_rois(folder):
    for stem, rings in RINGS.items():
        regions = [ImagejRoi.frompoints(ring, name=name)
                   for ring, name in zip(rings, ("tumour", "stroma", "tumour-1"))]
        roiwrite(folder / f"{stem}.zip", regions)


def coco(annotations, categories=("tumour", "stroma")):
    return {"images": [{"id": 7 + k, "file_name": f"images/{stem}.png", "height": HEIGHT,
                        "width": WIDTH} for k, stem in enumerate("abcde")],
            "annotations": annotations,
            "categories": [{"id": k, "name": name} for k, name in enumerate(categories, 1)]}


def write_coco(folder):
    annotations = [{"id": 3 * k + j, "image_id": 7 + k, "category_id": 1 + (NAMES[j] == "stroma"),
                    "segmentation": [ring.ravel().tolist()], "iscrowd": 0}
                   for k, rings in enumerate(RINGS.values()) for j, ring in enumerate(rings)]
    folder.rmdir()
    folder.write_text(json.dumps(coco(annotations)))


WRITERS = {"labelme": write_labelme, "geojson": write_geojson, "imagej_roi": write_rois,
           "coco": write_coco}


@pytest.mark.parametrize("kind", ["objects", "classes"])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_sound_set(annotations, masks, tmp_path, snapshot, name, kind):
    assert set(WRITERS) == {row.name for row in ANNOTATION_FORMATS}
    WRITERS[name](tmp_path / "drawn")
    code, output, error = annotations(name, kind)
    assert (code, error) == (0, ""), output
    found = labels_in(tmp_path / "set")
    several = 0
    for stem, label in found.items():
        layers = masks[stem]
        expected = on_top(layers, NUMBERS if kind == "classes" else None)
        assert label.dtype == (np.uint16 if kind == "objects" else np.uint8)
        assert np.array_equal(label, expected), stem
        if kind == "objects":
            several += (np.sum(layers, axis=0) > 1).sum()
        else:
            several += ((layers[0] | layers[2]) & layers[1]).sum()
    assert found.keys() == masks.keys()
    assert ("warning: pixels that lie in several shapes belong to the smallest one: "
            f"{several:,}, in 5 of the images") in output
    assert output.count("lies partly outside of") == sum(
        (ring.min() < -0.5) or (ring > (WIDTH + 0.5, HEIGHT + 0.5)).any()
        for rings in RINGS.values() for ring in rings)
    assert "\n5 pairs, sound\n" in output
    table = tmp_path / "set" / "classes.csv"
    if kind == "classes":
        assert "classes: 0 background, 1 stroma, 2 tumour\n" in output
        assert table.read_text() == "class,name\n0,background\n1,stroma\n2,tumour\n"
        assert "--n_classes 3" in output.splitlines()[-1]
    else:
        assert not table.exists()
        assert "--n_classes 2 --label_kind objects " in output.splitlines()[-1]
    before = snapshot(tmp_path / "set")
    code, output, _ = annotations(name, kind)
    assert code == 0 and "used as they are" in output and snapshot(tmp_path / "set") == before


# ------------------------------------------------------------------------ what each format can hold
SQUARE = np.array([[2, 2], [20, 2], [20, 18], [2, 18]], float)
HOLE = np.array([[6.5, 5], [14, 5], [14, 12], [6.5, 12]], float)
TRIANGLE = np.array([[22, 1], [30, 5.5], [23, 20.2]], float)
IN_SQUARE, IN_HOLE, IN_TRIANGLE = (inside_of([ring]) for ring in (SQUARE, HOLE, TRIANGLE))


@pytest.fixture
def drawn_as(annotations, tmp_path):
    """A function that makes a set in which each image has these annotations: (label, output)."""
    def make(name, write, kind="objects"):
        for stem in "abcde":
            write(tmp_path / "drawn" / stem)
        code, output, error = annotations(name, kind, "--test_fraction", "0.4")
        assert (code, error) == (0, ""), output + error
        labels = labels_in(tmp_path / "set")
        assert all(np.array_equal(label, labels["a"]) for label in labels.values())
        return labels["a"], output
    return make


def writes_json(content, suffix=".json"):
    return lambda path: path.with_suffix(suffix).write_text(json.dumps(content))


def test_geojson_holes_and_many_polygons(drawn_as):
    rings = [SQUARE.tolist(), HOLE.tolist()]
    label, output = drawn_as("geojson", writes_json([
        feature("cell", "MultiPolygon", [rings, [TRIANGLE.tolist()]]),
        feature("cell", "Polygon", [(HOLE * 0.5 + 4).tolist()]),
        feature("cell", "LineString", TRIANGLE.tolist()), feature("cell", "Point", [3, 4]),
        {**feature("", "", []), "geometry": None}], ".geojson"))
    small = inside_of([HOLE * 0.5 + 4])
    expected = (IN_SQUARE & ~IN_HOLE | IN_TRIANGLE).astype(int)
    expected[small] = 2
    assert np.array_equal(label, expected)
    for line in ("feature 3 is a LineString, which has no area: left out", "feature 4 is a Point",
                 "feature 5 is a nothing"):
        assert output.count(line) == 5, line


def test_labelme_rectangles_circles_and_groups(drawn_as):
    shapes = [("cell", "rectangle", [[20, 18], [2, 2]], None), ("cell", "polygon", TRIANGLE, 4),
              ("cell", "circle", [[10, 9.5], [13, 9.5]], 4), ("nucleus", "circle", [[5, 5], [5, 7]],
                                                              4),
              ("cell", "line", [[1, 2], [3, 4]], None), ("cell", "points", [[1, 2]], None)]
    content = {"shapes": [{"label": label, "shape_type": kind, "group_id": group,
                           "points": np.asarray(points).tolist()}
                          for label, kind, points, group in shapes]}
    label, output = drawn_as("labelme", writes_json(content))
    y, x = np.indices((HEIGHT, WIDTH)) + 0.5
    circle, small = (x - 10) ** 2 + (y - 9.5) ** 2 < 9, (x - 5) ** 2 + (y - 5) ** 2 < 4
    expected = on_top([IN_SQUARE, IN_TRIANGLE | circle, small])
    assert np.array_equal(label, expected) and 2 in label[circle] and 2 in label[IN_TRIANGLE]
    for line in ("shape 5 is a line, which is not read: left out", "shape 6 is a points"):
        assert output.count(line) == 5


def rle(mask, compressed):
    """A mask as COCO stores its runs; compressed by COCO's own library."""
    if compressed:
        stored = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": stored["size"], "counts": stored["counts"].decode()}
    values, counts = mask.T.ravel(), [0]
    for k, value in enumerate(values):
        if value != (len(counts) % 2 == 0):
            counts.append(0)
        counts[-1] += 1
    return {"size": [*mask.shape], "counts": counts}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("compressed", [True, False])
def test_coco_runs(annotations, tmp_path, compressed, seed):
    rng = np.random.default_rng(seed)
    shapes = [rng.random((HEIGHT, WIDTH)) < share for share in (0.9, 0.5, 0.02)]
    shapes[1][0, 0], shapes[2][:, 5:28] = True, False  # a run of 0 pixels first; long runs
    shapes.append(np.ones((HEIGHT, WIDTH), bool))
    write_coco_of(tmp_path / "drawn", [rle(mask, compressed) for mask in shapes])
    code, output, error = annotations("coco", "objects")
    assert (code, error) == (0, ""), output
    expected = on_top(shapes)
    expected = np.searchsorted(np.unique(np.append(expected, 0)), expected)
    for label in labels_in(tmp_path / "set").values():
        assert np.array_equal(label, expected)


def write_coco_of(place, segmentations, **more):
    """The same annotations for each image."""
    annotations = [{"id": 10 * k + j, "image_id": 7 + k, "category_id": 1, "segmentation": each,
                    **more} for k in range(5) for j, each in enumerate(segmentations)]
    place.rmdir()
    place.write_text(json.dumps(coco(annotations)))


def test_coco_joins_the_parts_of_an_annotation(annotations, tmp_path):
    parts = [ring.ravel().tolist() for ring in (SQUARE, HOLE, TRIANGLE)]
    write_coco_of(tmp_path / "drawn", [parts, []])
    code, output, _ = annotations("coco", "objects")
    assert code == 0 and output.count("has no segmentation: left out") == 5
    for label in labels_in(tmp_path / "set").values():
        assert np.array_equal(label, IN_SQUARE | IN_TRIANGLE), "joined, no hole"


@pytest.mark.parametrize("kind, times", [("objects", 5), ("classes", 0)])
def test_a_crowd_is_drawn_and_said(annotations, tmp_path, kind, times):
    """Some tools mark each object that was drawn by a brush as a crowd."""
    write_coco_of(tmp_path / "drawn", [rle(IN_SQUARE, False)], iscrowd=1)
    code, output, _ = annotations("coco", kind)
    assert code == 0 and output.count("is marked as a crowd: drawn as one object") == times
    assert np.array_equal(labels_in(tmp_path / "set")["a"], IN_SQUARE)


def test_coco_names_an_ome_tiff(tmp_path):
    content = coco([])
    content["images"] = [{**content["images"][0], "file_name": "slides/a.ome.tif"}]
    (tmp_path / "drawn").write_text(json.dumps(content))
    row, remarks = next(row for row in ANNOTATION_FORMATS if row.name == "coco"), Remarks()
    images = {"a": tmp_path / "a.ome.tif"}
    assert find_drawings(row, tmp_path / "drawn", images, remarks).keys() == {"a"}
    assert not remarks.lines and not remarks.errors


def test_no_shape_at_all(annotations, tmp_path):
    write_coco_of(tmp_path / "drawn", [None])
    assert_refused(annotations("coco", "objects"), "no shape that can be drawn on any of these")
    assert not (tmp_path / "set").exists()


def test_shapes_are_drawn_on_images_as_they_are_shown(annotations, scans, tmp_path):
    """A camera's file that is turned by its EXIF data: labelme shows it, and measures, upright."""
    write_labelme(tmp_path / "drawn")
    stored = np.random.default_rng(9).integers(0, 256, (WIDTH, HEIGHT), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter of a turn
    Image.fromarray(stored).save(scans / "c.png", exif=exif)
    code, output, error = annotations("labelme", "objects")
    assert code == 0, output + error
    masks = [inside_of([ring]) for ring in RINGS["c"]]
    assert np.array_equal(labels_in(tmp_path / "set")["c"], on_top(masks))
    exif[0x0112] = 1
    Image.fromarray(stored).save(scans / "c.png", exif=exif)
    assert_refused(annotations("labelme", "objects", "--Data_directory", tmp_path / "other"),
                   "c.json: 24 x 31 px (height x width), but its image", "has 31 x 24 px")


def test_imagej_regions_of_each_kind(drawn_as):
    path = []  # a composite: 0 is "move to", 1 "line to", 4 "close", as in java.awt.geom
    for ring in (SQUARE, HOLE):
        path += [0, *ring[0], *(value for corner in ring[1:] for value in (1, *corner)), 4]
    composite = ImagejRoi(roitype=ROI_TYPE.RECT, shape_roi_size=len(path), name="cell",
                          multi_coordinates=np.array(path, np.float32), left=2, top=2, right=20,
                          bottom=18)
    corners = dict(left=21, top=3, right=28, bottom=12)
    exact = dict(xd=5.25, yd=19.75, widthd=9.5, heightd=3.25, left=5, top=19, right=15, bottom=23,
                 options=ROI_OPTIONS.SUB_PIXEL_RESOLUTION)
    regions = [composite, ImagejRoi(roitype=ROI_TYPE.OVAL, name="cell-1", **corners),
               ImagejRoi(roitype=ROI_TYPE.RECT, name="0012-0034", **exact),
               ImagejRoi(roitype=ROI_TYPE.LINE, name="axis", x1=1, y1=2, x2=3, y2=4),
               ImagejRoi(roitype=ROI_TYPE.RECT, subtype=ROI_SUBTYPE.TEXT, name="word", **corners)]
    label, output = drawn_as("imagej_roi", lambda place: roiwrite(place.with_suffix(".zip"),
                                                                  regions))
    y, x = np.indices((HEIGHT, WIDTH)) + 0.5
    oval = ((x - 24.5) / 3.5) ** 2 + ((y - 7.5) / 4.5) ** 2 < 1
    box = (x > 5.25) & (x < 14.75) & (y > 19.75) & (y < 23)
    assert np.array_equal(label, on_top([IN_SQUARE & ~IN_HOLE, oval, box]))
    assert output.count("region 4 (axis) is a line, which has no area: left out") == 5
    assert output.count("region 5 (word) is a text") == 5


def test_classes_of_imagej_regions(drawn_as):
    """`cell` and `cell-1` are one class, `type-1` and `type-2` two; a number is no name."""
    names = ["cell", "cell-1", "type-1", "type-2", "0012-0034"]
    regions = [ImagejRoi.frompoints([[4 * k, 1], [4 * k + 3, 1], [4 * k + 3, 4], [4 * k, 4]],
                                    name=name) for k, name in enumerate(names)]

    def write(place):
        roiwrite(place.with_suffix(".zip"), regions)
    label, output = drawn_as("imagej_roi", write, kind="classes")
    assert label[2, 1::4].tolist() == [1, 1, 2, 3, 0, 0, 0, 0]
    assert "classes: 0 background, 1 cell, 2 type-1, 3 type-2\n" in output
    assert output.count("region 5 has no class: left out") == 5


# ------------------------------------------------------------------------------ what may be odd
def test_each_odd_thing_has_a_line(annotations, scans, tmp_path):
    write_labelme(tmp_path / "drawn")
    (tmp_path / "drawn" / "e.json").unlink()
    (tmp_path / "drawn" / "f.json").write_text("{}")
    outside = SQUARE + (WIDTH, 0)
    rings = [SQUARE, outside, SQUARE + (14, 0), SQUARE * 0.02, SQUARE]
    rings += [SQUARE - (2.5, 2.25)]  # half a pixel outside, where no pixel has its centre
    content = labelme(rings, ["cell"] * 4 + ["", "cell"])
    (tmp_path / "drawn" / "d.json").write_text(json.dumps(content))
    code, output, _ = annotations("labelme", "classes")
    assert code == 0
    file = tmp_path / "drawn" / "d.json"
    for line in (f"{scans / 'e.png'}: no annotations, its label is empty",
                 f"{tmp_path / 'drawn' / 'f.json'}: no image of this name",
                 f"{file}: shape 2 lies outside of {scans / 'd.png'}: left out",
                 f"{file}: shape 3 lies partly outside of {scans / 'd.png'}: cut off at its edge",
                 f"{file}: shape 4 lies on no pixel's centre: left out",
                 f"{file}: shape 5 has no class: left out"):
        assert f"warning: {line}\n" in output, line
    assert f"{file}: shape 6" not in output and f"{file}: shape 1" not in output
    label = labels_in(tmp_path / "set")
    assert not label["e"].any()
    assert np.array_equal(label["d"] == 1, inside_of([SQUARE]) | inside_of([rings[2]])
                          | inside_of([rings[5]]))


def test_a_hidden_object_leaves_no_gap_in_the_numbers(annotations, tmp_path):
    write_coco_of(tmp_path / "drawn", [rle(mask, True) for mask in (
        IN_SQUARE, IN_HOLE, IN_HOLE, IN_TRIANGLE)])
    code, output, _ = annotations("coco", "objects")
    assert code == 0 and output.count("lies whole under smaller shapes") == 5
    label = labels_in(tmp_path / "set")["a"]
    assert np.array_equal(label, IN_SQUARE * 1 + IN_HOLE * 1 + IN_TRIANGLE * 3)


class Dot(NamedTuple):
    """A part of a shape: one pixel."""
    place: int  # in reading order

    def fill(self, height, width):
        return Patch(self.place // width, self.place % width, np.ones((1, 1), bool))


@pytest.mark.parametrize("count, dtype, suffix", [(65535, np.uint16, ".png"),
                                                  (65536, np.uint32, ".tif")])
def test_more_objects_than_16_bits_number(count, dtype, suffix):
    shapes = [Shape("", (Dot(place),), "") for place in range(count)]
    label = Labelled(Path("a.png"), ".png", (257, 257), shapes, None).draw().label
    assert label.dtype == dtype and pixels_suffix(label) == suffix
    assert np.array_equal(label.ravel(), np.r_[1:count + 1, [0] * (257 ** 2 - count)])


def test_many_lines_are_counted(make_data, tmp_path):
    (tmp_path / "scans").mkdir()
    (tmp_path / "drawn").mkdir()
    for k in range(30):
        pixels = np.random.default_rng(k).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "scans" / f"{k:02d}.png")
    for k in (0, 1, 2, 3):
        (tmp_path / "drawn" / f"{k:02d}.json").write_text(json.dumps(labelme([SQUARE], "a")))
    code, output, _ = make_data(
        "annotations", "--images", "scans", "--annotations", "drawn", "--from", "labelme",
        "--label_kind", "objects", "--Data_directory", "set")
    lines = [line for line in output.splitlines() if "no annotations, its label is empty" in line]
    assert len(lines) == 20
    assert "warning: and 6 more images without annotations\n" in output


# -------------------------------------------------------------------------- what is wrong enough
def change(**more):
    """Write c.json anew with something changed."""
    def write(folder):
        (folder / "c.json").write_text(json.dumps({**labelme(RINGS["c"], NAMES), **more}))
    return write


def text(words):
    return lambda folder: (folder / "c.json").write_text(words)


NOT_READABLE = "c.json: not a readable labelme file"


@pytest.mark.parametrize("spoil, words", [
    (text("{"), NOT_READABLE), (text("[" * 100_000), NOT_READABLE), (text("[]"), NOT_READABLE),
    (text('{"shapes": 3}'), NOT_READABLE), (text("{}"), "(no 'shapes')"),
    (lambda folder: (folder / "c.json").write_bytes(b"\xff\xfe{"), NOT_READABLE),
    (change(shapes=[{"label": "a", "points": [[1, "x"]]}]), NOT_READABLE),
    (change(shapes=[{"label": "a", "points": [[1, float("nan")], [2, 3]]}]), "no places in"),
    (change(shapes=[{"label": "a", "points": [[1, 1e300], [2, 3]]}]), "no places in"),
    (change(shapes=[{"label": "a", "points": []}]), "no places in"),
    (change(shapes=[{"label": "a", "points": [[1, 2, 3]]}]), NOT_READABLE),
    (change(shapes=[{"label": "a", "points": [[1, 2]], "shape_type": "circle"}]), NOT_READABLE),
    (change(imageWidth=HEIGHT, imageHeight=WIDTH), f"c.json: {WIDTH} x {HEIGHT} px"),
    (lambda folder: (folder.parent / "scans" / "c.png").write_text("GIF"), "c.png: not a readable"),
])
@pytest.mark.parametrize("kind", ["objects", "classes"])
def test_a_file_that_is_damaged_ends_it(annotations, tmp_path, spoil, words, kind):
    write_labelme(tmp_path / "drawn")
    spoil(tmp_path / "drawn")
    assert_refused(annotations("labelme", kind), words)
    assert not (tmp_path / "set").exists()


def test_several_damaged_files_have_a_line_each(annotations, tmp_path):
    write_labelme(tmp_path / "drawn")
    for stem in "bd":
        (tmp_path / "drawn" / f"{stem}.json").write_text("{")
    result = annotations("labelme", "objects")
    assert_refused(result, "2 annotations or images cannot be used")
    assert "no annotations" not in result[1]
    for stem in "bd":
        assert f"\n{tmp_path / 'drawn' / stem}.json: not a readable labelme file" in result[1]
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("segmentation, words", [
    ({"size": [WIDTH, HEIGHT], "counts": [WIDTH * HEIGHT]}, "is drawn on 31 x 24 px"),
    ({"size": [HEIGHT, WIDTH], "counts": [3, 4]}, "do not add up"),
    ({"size": [HEIGHT, WIDTH], "counts": [-3, WIDTH * HEIGHT + 3]}, "do not add up"),
    ({"size": [HEIGHT, WIDTH], "counts": []}, "do not add up"),
    ({"size": [HEIGHT, WIDTH], "counts": ""}, "do not add up"),
    ({"size": [HEIGHT, WIDTH], "counts": "0;230"}, "do not add up"),
    ({"size": [HEIGHT, WIDTH], "counts": "o" * 50 + "0"}, "do not add up"),
    ({"size": [HEIGHT, WIDTH], "counts": "~~ ~"}, "damaged"),
    ({"size": [HEIGHT, WIDTH], "counts": "\u2028"}, "damaged"),
    ({"size": [HEIGHT, WIDTH]}, "(no 'counts')"), ([[1, 2, 3]], "not a readable COCO file"),
    ([3, 4], "not a readable COCO file"), ([[1, 2, 3, None, 5, 6]], "not a readable COCO file"),
])
def test_coco_that_is_damaged(annotations, tmp_path, segmentation, words):
    write_coco_of(tmp_path / "drawn", [segmentation])
    code, output, error = annotations("coco", "objects")
    assert code == 1 and words in (output + error) and str(tmp_path / "drawn") in error + output
    assert not (tmp_path / "set").exists()


def test_rois_that_are_damaged(annotations, tmp_path):
    write_rois(tmp_path / "drawn")
    path = tmp_path / "drawn" / "c.zip"
    path.write_bytes(path.read_bytes()[:-30])
    assert_refused(annotations("imagej_roi", "objects"), path, "not a readable file of ImageJ")
    path.unlink()
    path.with_suffix(".roi").write_bytes(b"Iout" + bytes(20))
    assert_refused(annotations("imagej_roi", "objects"), path.with_suffix(".roi"))
    assert not (tmp_path / "set").exists()


def test_what_is_missing_is_named(annotations, scans, tmp_path, monkeypatch):
    assert_refused(annotations("coco", "objects"), "drawn: no such file; --from coco reads one")
    assert_refused(annotations("labelme", "objects"), "drawn: no annotation of an image in", scans)
    (tmp_path / "drawn" / "a.roi").write_bytes(b"")
    (tmp_path / "drawn" / "a.zip").write_bytes(b"")
    assert_refused(annotations("imagej_roi", "objects"), "a.zip: a.roi has the same name")
    (tmp_path / "drawn" / "a.zip").unlink()
    monkeypatch.setattr(builtins, "__import__", partial(without_roifile, builtins.__import__))
    assert_refused(annotations("imagej_roi", "objects"), "a.roi",
                   "`pip install -r requirements/annotations.txt`")
    monkeypatch.undo()
    (tmp_path / "drawn" / "a.roi").unlink()
    (tmp_path / "drawn").rmdir()
    assert_refused(annotations("labelme", "objects"), "drawn: no such folder; --from labelme reads")
    for path in scans.iterdir():
        path.unlink()
    assert_refused(annotations("labelme", "objects"), scans, "no images here")


def without_roifile(real, name, *more):
    if name == "roifile":
        raise ImportError
    return real(name, *more)


def test_shapes_without_names_are_no_classes(annotations, tmp_path):
    for stem in "abcde":
        content = [feature("", "Polygon", [SQUARE.tolist()])]
        (tmp_path / "drawn" / f"{stem}.geojson").write_text(json.dumps(content))
    assert_refused(annotations("geojson", "classes"), "--label_kind objects")
    assert annotations("geojson", "objects")[0] == 0


@pytest.mark.parametrize("flags", [
    ("--from", "labelme"), ("--label_kind", "objects"),
    ("--from", "cvat", "--label_kind", "objects"), ("--from", "coco", "--label_kind", "things")])
def test_mistakes_in_the_flags(make_data, tmp_path, flags):
    code, output, error = make_data("annotations", "--images", "scans", "--annotations", "drawn",
                                    "--Data_directory", "set", *flags)
    assert code == 2 and error.count("\n") == 1 and not output
