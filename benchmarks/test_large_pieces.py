"""LargeImages.py in small: its large images are made of its small files."""
import LargeImages
import numpy as np


def test_large_images_are_pieces_of_the_small_files(tmp_path, monkeypatch):
    for name, value in (("PIECE", 64), ("PIECES", 3), ("LARGE_SIDE", 150), ("LARGE_IMAGES", 2)):
        monkeypatch.setattr(LargeImages, name, value)
    LargeImages.write_images(tmp_path)
    small, large = (LargeImages.make_dataset(tmp_path, LargeImages.Contender(name, limit, 1))
                    for name, limit in (("small", 0), ("large", 1)))
    assert (len(small), len(large), len(large.decoded.names)) == (3, 2, 4)
    pieces = {small.pixels(k).tobytes(): small.label(k) for k in range(3)}
    image, label = large.pixels(1), large.label(1)
    assert image.shape == (3, 150, 150)
    for top, left in ((0, 0), (0, 64), (64, 0), (64, 64)):
        here = np.s_[top:top + 64, left:left + 64]
        assert np.array_equal(pieces[image[:, *here].tobytes()], label[here])
