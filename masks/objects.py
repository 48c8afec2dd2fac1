"""The objects of a mask: its components, and touching objects parted."""
import numpy as np
import scipy  # its parts load when they are first used: so --help stays fast

from datasets.objects import give_back_border

NECK = 0.75       # two objects touch where one narrows to less than this share of its own width
WIDTH_OFFSET = 3  # px, added to half widths: so the pixels' steps along a thin object are no necks


def instances(class_map):
    """Number the objects of a class map: (H, W) uint8 -> (H, W) int32, 0 background, 1 ... n.

    An object is 8-connected pixels of one class.  Objects that touch are parted by a watershed on
    the distance to the outside (Beucher and Lantuejoul 1979), which has a maximum in the middle of
    each.  Two maxima are two objects if every way between them narrows to less than NECK of the
    width at the lower one.  On the logarithm of the distance this is a valley of a given depth,
    whatever the size of the objects.
    """
    from scipy.ndimage import distance_transform_edt, label
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed
    eight = np.ones((3, 3), int)
    found, count = np.zeros(class_map.shape, np.int32), 0
    for value in np.unique(class_map[class_map > 0]):
        inside = class_map == value
        distance = distance_transform_edt(inside).astype(np.float32)
        heights = np.where(inside, np.log(distance + WIDTH_OFFSET), 0)
        without_necks = reconstruction(heights + np.log(NECK), heights, footprint=eight)
        markers, n = label(local_maxima(without_necks), eight)
        markers[markers > 0] += count
        found += watershed(-distance, markers, connectivity=2, mask=inside).astype(np.int32)
        count += n
    return found


def whole_objects(class_map, border, smallest=0):
    """Number the objects of a class map without their separation border: (H, W) -> (H, W) int32.

    class_map: classes above 0 are objects, `border` px smaller where they touch.  An object is an
    8-connected component, with the border's pixels given back.  Components of fewer than `smallest`
    px, without the border, are no objects.
    """
    components = connected_components(class_map > 0)
    numbers = number_large(np.bincount(components.ravel()), smallest)
    return numbers[give_back_border(components, border)]


def without_small(class_map, smallest):
    """A class map without its components of fewer than `smallest` px: (H, W) -> (H, W)."""
    if smallest < 2:
        return class_map
    return np.where(whole_objects(class_map, 0, smallest) > 0, class_map, 0)


def number_large(pixels, smallest):
    """The new numbers, (n + 1,) int32, of components 0 ... n of so many `pixels`.

    0 for background, which is 0, and for components of fewer than `smallest` px; else 1, 2, ...
    """
    is_large = np.asarray(pixels) >= smallest
    is_large[0] = False
    return np.where(is_large, np.cumsum(is_large), 0).astype(np.int32)


def connected_components(mask):
    """Number the 8-connected components of a mask: (H, W) -> (H, W) int32, 0 outside, 1 ... n."""
    return scipy.ndimage.label(mask, np.ones((3, 3)))[0]
