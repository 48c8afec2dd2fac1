"""Stacks of images and labels, page by page, for `python MakeData.py folders --split_pages`."""
import math
from itertools import product

from command.errors import DataError
from command.names import without_ome
from images.formats import check_same_size, pixels_suffix
from images.reading import examine_file, label_pages_of, pages_of


class StackPair:
    """A stack of images and that of their labels.

    image, label: ImageFiles; stems: the name of each page's pair in the set.
    """

    def __init__(self, image_path, label_path):
        """Read both headers.  Raises DataError where they do not fit together."""
        self.image, self.label = examine_file(image_path), examine_file(label_path)
        check_same_size(image_path, (self.image.height, self.image.width),
                        label_path, (self.label.height, self.label.width))
        counts = [len(file.pages) for file in (self.image, self.label)]
        if counts[0] != counts[1]:
            raise DataError(f"{label_path}: has {counts[1]} pages, but its image {image_path} has "
                            f"{counts[0]}; save one label for each")
        order = [(file.axes, file.lengths) for file in (self.image, self.label)]
        if self.image.axes and self.label.axes and order[0] != order[1]:
            raise DataError(f"{label_path}: its pages run along {describe_axes(self.label)}, but "
                            f"those of its image along {describe_axes(self.image)}; save them "
                            "in one order")
        self.stems = page_stems(self.image if self.image.axes else self.label, image_path.stem)

    def contents(self):
        """Yield the contents for an Entry: the pixels of a page, then the values of its label."""
        for pixels, label in zip(pages_of(self.image), label_pages_of(self.label)):
            yield pixels[:]
            yield label

    def suffixes(self):
        """Read all pages: the suffixes of the files of an image and of a label, a list."""
        kinds = [set(), set()]
        for k, pixels in enumerate(self.contents()):
            kinds[k % 2].add(pixels_suffix(pixels))
        return [".tif" if ".tif" in found else ".png" for found in kinds]


def describe_axes(file):
    """The axes of an ImageFile, for people: "Z (3) and T (4)"."""
    return " and ".join(f"{axis} ({length})" for axis, length in zip(file.axes, file.lengths))


def page_stems(file, stem):
    """Names for the pages of an ImageFile: cell_z003_t001 by its axes, cell_p003 without any.

    stem: of its name; of `cell.ome.tif` the pages are no OME-TIFF, and are named as of `cell.tif`.
    Numbers begin with 1, as people count.
    """
    count = len(file.pages)
    if count == 1:
        return (stem,)
    axes, lengths = file.axes.lower(), file.lengths
    if math.prod(lengths) != count or not axes:
        axes, lengths = "p", (count,)
    digits = [max(3, len(str(length))) for length in lengths]
    name = without_ome(stem)
    return tuple(name + "".join(f"_{axis}{k + 1:0{width}d}"
                                for axis, k, width in zip(axes, place, digits))
                 for place in product(*map(range, lengths)))
