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


def whole_objects(class_map, border):
    """Number the objects of a class map without their separation border: (H, W) -> (H, W) int32.

    class_map: classes above 0 are objects, `border` px smaller where they touch.  An object is an
    8-connected component, with the border's pixels given back.
    """
    return give_back_border(connected_components(class_map > 0), border)


def connected_components(mask):
    """Number the 8-connected components of a mask: (H, W) -> (H, W) int32, 0 outside, 1 ... n."""
    return scipy.ndimage.label(mask, np.ones((3, 3)))[0]
