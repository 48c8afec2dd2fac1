"""Objects of a mask."""

import numpy as np
import scipy  # its parts load when they are first used, which keeps --help fast

NECK = 0.75             # a neck narrower than this part of the narrower side's own width parts two instances
GRID = 3                # px: added to half widths, so that the pixels' steps along a thin object are no necks


# -------------------------------------------------------------------------------------------------- instances, overlays
def instances(class_map):
    """Objects of a class map, (H, W) uint8 -> (H, W) int32: 0 background, 1 ... n 8-connected pixels of one class.

    Touching objects are parted by a watershed on the distance to the outside (Beucher and Lantuejoul 1979).  Two of its
    maxima are two objects where every way between them narrows to less than NECK of the lower one, whatever their size:
    on the logarithm of the distance that is a valley of a given depth.
    """
    from scipy.ndimage import distance_transform_edt, label
    from skimage.morphology import local_maxima, reconstruction
    from skimage.segmentation import watershed
    eight = np.ones((3, 3), int)
    found, count = np.zeros(class_map.shape, np.int32), 0
    for value in np.unique(class_map[class_map > 0]):
        inside = class_map == value
        distance = distance_transform_edt(inside).astype(np.float32)
        heights = np.where(inside, np.log(distance + GRID), 0)
        markers, n = label(local_maxima(reconstruction(heights + np.log(NECK), heights, footprint=eight)), eight)
        markers[markers > 0] += count
        found += watershed(-distance, markers, connectivity=2, mask=inside).astype(np.int32)
        count += n
    return found


def connected_components(mask):
    """The 8-connected components of a mask (H, W), numbered from 1: (H, W) int32, 0 outside.  As in `WeightMap`."""
    return scipy.ndimage.label(mask, np.ones((3, 3)))[0]
