"""Which compressions of TIFF change values; WebP and JPEG 2000 can do both."""

JPEG = (6, 7, 33007, 34892)  # numbers of TIFF's compressions
JPEG2000 = (33003, 33004, 33005, 34712)
WEBP = (34927, 50001)


def is_lossy_webp(start):
    """Whether a WebP image is lossy, by its first bytes."""
    return b"VP8L" not in start


def is_lossy_jpeg2000(start):
    """Whether a JPEG 2000 image has the irreversible wavelet, by its first bytes.

    The marker COD is followed by its length (2 bytes), a style (1), the order, layers and colours
    (4), the levels (1), the blocks (3) and the wavelet: 0 the irreversible one, 1 the reversible.
    """
    place = start.find(b"\xff\x52")
    return place < 0 or start[place + 13:place + 14] != b"\1"
