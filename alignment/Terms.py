"""What a program has to know of an exported net, and pictures to try the net on."""
import json
from dataclasses import dataclass

import numpy as np

from command.version import VERSION
from datasets.drawn import make_pair
from images.channels import as_pixels, as_planes, is_scaled
from images.values import normalise
from nets.trained import TrainedNet

CHECKED = ((1, 37), (22, 5), (40, 64))  # px beyond the smallest input that a net is checked with


@dataclass(frozen=True)
class Terms:
    """The terms on which an exported net answers: raw pixels -> probabilities.

    Raw pixels are (C, H, W), the values that the training images' files had.
    """
    net: TrainedNet

    # ----------------------------------------------------------------------------------- its pixels
    @property
    def dtype(self):
        """The dtype of the raw pixels: the training images', for programs that know no float16.

        Where nobody knows theirs, floats from 0 to 1.
        """
        trained = self.net.statistics.dtype
        return np.dtype("float32" if trained in ("", "float16") else trained)

    @property
    def white(self):
        """The raw value that is 1 for the net's mean and standard deviation."""
        return float(np.iinfo(self.dtype).max) if is_scaled(self.dtype) else 1.0

    @property
    def raw_range(self):
        """(smallest, largest) raw value; (None, None) of floats in units of their own."""
        if self.dtype.kind != "f":
            limits = np.iinfo(self.dtype)
            return limits.min, limits.max
        return (None, None) if self.net.statistics.dtype else (0, 1)

    def draw(self, height, width):
        """A drawn picture, raw pixels (C, height, width), as bright as the training images."""
        def drawn(index):
            pixels = make_pair(0, 1, index, max(height, width))[0][:height, :width]
            return (pixels - pixels.mean()) / pixels.std()
        common, statistics = drawn(0), self.net.statistics
        raw = self.white * np.stack(
            [mean + std * (0.9 * common + 0.4 * drawn(channel))  # channels differ, as in colours
             for channel, (mean, std) in enumerate(zip(statistics.mean, statistics.std), 1)])
        if self.raw_range != (None, None):
            raw = raw.clip(*self.raw_range)
        return (raw if self.dtype.kind == "f" else np.rint(raw)).astype(self.dtype)

    def prepare(self, raw):
        """Raw pixels as training prepares them: (C, H, W) float32, normalised."""
        return normalise(as_planes(as_pixels(raw)), self.net.statistics)

    # ------------------------------------------------------------------------------------ its sizes
    @property
    def margin(self):
        """Input side - output side, px."""
        return self.net.geometry.margin

    @property
    def step(self):
        """Input sides grow in steps of so many pixels; nets that keep the size take any side."""
        return self.net.geometry.multiple if self.margin else 1

    @property
    def minimum(self):
        """The smallest input side, px."""
        return self.net.geometry.smallest + self.margin

    @property
    def halo(self):
        """Pixels of the input, on each side, that the output does not show."""
        return self.margin // 2

    def side(self, extra):
        """An input side that the net takes, up to `extra` px above the smallest."""
        return self.minimum + extra - extra % self.step

    def pictures(self):
        """Drawn pictures of three sizes, none of them square."""
        return [self.draw(self.side(height), self.side(width)) for height, width in CHECKED]

    # ----------------------------------------------------------------------------------- its answer
    @property
    def classes(self):
        """The names of the classes, in order."""
        if self.net.n_classes == 2:
            return ["background", "foreground"]
        return ["background", *(f"class_{k}" for k in range(1, self.net.n_classes))]

    def metadata(self):
        """{name: text} for the file; what is no text is JSON."""
        statistics, net = self.net.statistics, self.net
        told = {"net": str(net), "version": VERSION, "channels": net.n_channels,
                "classes": self.classes, "label_kind": net.label_kind, "border": net.border,
                "pixel_type": self.dtype.name,
                "mean": [self.white * value for value in statistics.mean],
                "std": [self.white * value for value in statistics.std],
                "input": "raw pixels as float32; mean and std are applied inside",
                "output": "probabilities of the classes, float32",
                "step": self.step, "minimum": self.minimum, "halo": self.halo,
                "threshold": net.threshold if net.n_classes == 2 else None,
                "smallest_object": net.smallest_object}
        return {name: value if isinstance(value, str) else json.dumps(value)
                for name, value in told.items()}
