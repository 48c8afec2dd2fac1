"""The table of a set's classes, `classes.csv`, and masks in colours."""
import csv
import io
from collections import Counter
from typing import NamedTuple

import numpy as np

from command.bars import progress_bar
from command.errors import DataError
from command.files import atomic_write
from images.reading import is_lossy, read_image

CLASS_TABLE = "classes.csv"   # the name of the table in the set's folder
MOST_COLOURS = 256            # beyond which masks are no masks: their edges are smooth
MOST_CLASS_COLOURS = 32       # and beyond which they may be none
MOST_COLOURS_SHOWN = 20
SMOOTH = ("smooth edges (anti-aliasing) and JPEG make colours that are no class: "
          "export the masks again without them")


class ClassColour(NamedTuple):
    """A row of a table: a class and a colour that stands for it."""
    number: int
    name: str
    colour: tuple  # red, green, blue, as stored


# ------------------------------------------------------------------------------------- the table
def list_classes(numbers):
    """A table of classes as text: columns class, name.  numbers: {name: 1, ...}."""
    return _as_csv([("class", "name"), (0, "background"),
                    *((number, name) for name, number in numbers.items())])


def list_colours(rows):
    """ClassColours as text: columns class, name, r, g, b."""
    return _as_csv([("class", "name", "r", "g", "b"),
                    *((row.number, row.name, *row.colour) for row in rows)])


def _as_csv(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_colours(path):
    """The ClassColours of a table: a list.

    It has the columns name, r, g, b, in any order, and perhaps class.  Without `class` the rows are
    the classes 0, 1, ...  Several colours may stand for one class.  Raises DataError for anything
    else.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text in UTF-8; save it as CSV in UTF-8") from None
    comma = ";" if lines and ";" in lines[0] else ","  # what spreadsheets write in some countries
    table = csv.DictReader(lines, delimiter=comma, skipinitialspace=True)
    missing = {"name", "r", "g", "b"} - set(table.fieldnames or ())
    if missing:
        raise DataError(f"{path}: no column {sorted(missing)[0]}; the first line has to be "
                        "name,r,g,b or class,name,r,g,b")
    rows = []
    for count, row in enumerate(table):
        try:
            number = int(row["class"]) if "class" in table.fieldnames else count
            colour = tuple(int(row[channel]) for channel in "rgb")
        except (TypeError, ValueError):
            number, colour = -1, (-1,)
        if min(number, *colour) < 0 or max(number, *colour) > 65535:
            raise DataError(f"{path}: line {table.line_num}: class, r, g and b have to be whole "
                            "numbers from 0 to 65535; correct it")
        rows.append(ClassColour(number, row["name"], colour))
    _check_table(path, rows)
    return rows


def _check_table(path, rows):
    """Raise DataError where a colour stands for two classes, or there is only one class."""
    for colour, times in Counter(row.colour for row in rows).items():
        if times > 1:
            raise DataError(f"{path}: the colour {colour} has {times} rows; keep one of them")
    if len({row.number for row in rows}) < 2:
        raise DataError(f"{path}: fewer than two classes; add a row for each class")


# ------------------------------------------------------------------------------ masks in colours
def read_packed(path):
    """A mask's colours, (H, W) int64, a number for each colour; errors as `read_image`."""
    if is_lossy(path):
        raise DataError(f"{path}: JPEG changes colours; store masks as PNG or TIFF")
    pixels = read_image(path, n_channels=3)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path}: values of {pixels.dtype}; store colours with 8 or 16 bits")
    red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
    return (red << 32) + (green << 16) + blue


def unpacked(number):
    """The colour of a number of `read_packed`: (red, green, blue)."""
    return tuple(int(number) >> shift & 65535 for shift in (32, 16, 0))


def read_classes(path, rows, table):
    """A mask in colours as class numbers: (H, W) uint8, or uint16 where a number needs it.

    rows: ClassColours; table: their file, for messages.  Raises DataError for a colour that no row
    has, as a smooth edge makes them.
    """
    rows = sorted(rows, key=lambda row: row.colour)
    known = np.array([(row.colour[0] << 32) + (row.colour[1] << 16) + row.colour[2]
                      for row in rows])
    numbers = np.array([row.number for row in rows])
    packed = read_packed(path)
    place = np.minimum(np.searchsorted(known, packed), len(known) - 1)
    strange = packed[known[place] != packed]
    if len(strange):
        (colour, pixels), *others = _frequent_first(Counter(dict(zip(
            *np.unique(strange, return_counts=True)))))
        more = f" (and {len(others):,} more colours in {len(strange) - pixels:,})" if others else ""
        raise DataError(f"{path}: the colour {unpacked(colour)} of {pixels:,} pixels{more} is not "
                        f"in {table}; add a row for it; {SMOOTH}")
    return numbers.astype(np.min_scalar_type(max(numbers.max(), 1)))[place]


def _frequent_first(pixels):
    """[(packed colour, pixels), ...], the most frequent first, of equals the darker."""
    return sorted(pixels.items(), key=lambda item: (-item[1], item[0]))


# ---------------------------------------------------------------------------------- the template
def write_template(paths, table):
    """Print the colours of masks and write them, as a table to be edited, to the Path `table`.

    Black is class 0, else the most frequent colour.  Raises DataError for masks of more than
    MOST_COLOURS colours.
    """
    pixels = Counter()
    for path in progress_bar(paths, "colours", unit="mask"):
        for colour, count in zip(*np.unique(read_packed(path), return_counts=True)):
            pixels[int(colour)] += int(count)
        if len(pixels) > MOST_COLOURS:
            raise DataError(f"{path}: {len(pixels):,} colours in the masks up to this one, more "
                            f"than {MOST_COLOURS}; {SMOOTH}")
    found, total = _frequent_first(pixels), pixels.total()
    for colour, count in found[:MOST_COLOURS_SHOWN]:
        print(f"{unpacked(colour)}: {count:,} pixels, {count / total:.2%}")
    if len(found) > MOST_COLOURS_SHOWN:
        print(f"and {len(found) - MOST_COLOURS_SHOWN} more colours")
    if len(found) > MOST_CLASS_COLOURS:
        print(f"warning: {len(found)} colours are many; {SMOOTH}")
    found.sort(key=lambda item: item[0] != 0)  # black first, the rest as it is
    rows = [ClassColour(k, f"class {k}" if k else "background", unpacked(colour))
            for k, (colour, _) in enumerate(found)]
    with atomic_write(table) as temporary:
        temporary.write_text(list_colours(rows))
    print(f"{table}: written, with a class for each of {len(rows)} colours in {len(paths)} masks")
