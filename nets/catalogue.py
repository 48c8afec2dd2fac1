"""A row for each net: its options, the sizes that it takes, its memory, how its weights look.

Whatever differs from net to net stands here and in the net's class in Model.py.  The rest of the
project asks the row and never for a name.  NumPy only: nothing here needs Jittor.
"""
from dataclasses import dataclass
from typing import Callable, NamedTuple

from nets.geometry import U2NET, UNET_ALIGNED, UNET_BILINEAR, UNET_PADDED, UNET_TRANSPOSED


# Of the weights on a GPU: they, gradients and two moments; weights and moments of the last good
# state, and of the state that may become it.  Averages are one more in each of the three.
GPU_COPIES = 10
GPU_COPIES_OF_AVERAGES = 3


class Recognised(NamedTuple):
    """What names and shapes of weights tell of a net."""
    mode: str        # the row's name
    n_channels: int
    n_classes: int
    options: dict    # {option: value} for Model.build_model


@dataclass(frozen=True)
class Net:
    """What the project has to know of a net besides its class."""
    name: str                  # the word of --mode, and the key of Model.NETS
    flags: tuple               # the options of its class that a run's settings have
    training_options: dict     # options that it is always trained with
    unseen_options: tuple      # options that leave no trace in its weights
    geometry: Callable         # options -> the Geometry
    parameters: Callable       # options -> about how many numbers its weights are
    bytes_per_pixel: Callable  # options -> bytes that a training step on a CPU takes per pixel of
                               # its input (benchmarks/results/bench.txt)
    gpu_bytes_per_pixel: Callable  # the same on a GPU, without what GPU_COPIES and cuDNN take
                               # (as Jittor allocated them on the stand-in of tests/gpu)
    recognise: Callable        # shape(name) of weights -> Recognised, or None if they are others'
    first: str                 # its first convolution
    outputs: tuple             # its layers whose size is the number of classes
    encoder: tuple = ()        # its modules that --freeze encoder leaves as they are

    def options(self, flags):
        """The options to build it with, from {flag: value}."""
        return {**{name: flags[name] for name in self.flags}, **self.training_options}


# ------------------------------------------------------------------------------------------ U-Net
def unet_geometry(options):
    """The Geometry of a U-Net with these options, those of Model.UNet by default."""
    if options.get("padding"):
        return UNET_PADDED
    if not options.get("bilinear", True):
        return UNET_TRANSPOSED
    return UNET_ALIGNED if options.get("align_corners") else UNET_BILINEAR


def recognise_unet(shape):
    first, last = shape("inc.double_conv.0.weight"), shape("outc.conv.weight")
    if not (first and last):
        return None
    options = {"base_channels": first[0], "bilinear": shape("up1.up.weight") is None,
               "conv_bias": shape("inc.double_conv.0.bias") is not None}
    return Recognised("Unet", first[1], last[0], options)


# ---------------------------------------------------------------------------------------- U-2-Net
def recognise_u2net(name, middle_channels):
    """A function that recognises the U-2-Net whose first block has so many middle channels."""
    def recognise(shape):
        first, last = shape("stage1.rebnconvin.conv_s1.weight"), shape("outconv.weight")
        middle = shape("stage1.rebnconv1.conv_s1.weight")
        if not (first and middle and last) or middle[0] != middle_channels:
            return None
        return Recognised(name, first[1], last[0], {})
    return recognise


U2NET_LAYERS = {"first": "stage1.rebnconvin.conv_s1",
                "outputs": (*(f"side{k}" for k in range(1, 7)), "outconv"),
                "encoder": tuple(f"stage{k}" for k in range(1, 7))}


# ------------------------------------------------------------------------------------------- rows
CATALOGUE = {net.name: net for net in (
    Net("Unet", flags=("bilinear", "dropout_probs", "base_channels", "padding", "conv_bias",
                       "align_corners"),
        training_options={}, unseen_options=("padding", "align_corners"),
        geometry=unet_geometry,
        parameters=lambda options: (4_250 if options.get("bilinear", True) else 7_620)
        * options.get("base_channels", 64) ** 2,
        bytes_per_pixel=lambda options: 72 * options.get("base_channels", 64),
        gpu_bytes_per_pixel=lambda options: (120 if options.get("padding") else 95)
        * options.get("base_channels", 64),
        recognise=recognise_unet, first="inc.double_conv.0", outputs=("outc.conv",),
        encoder=("inc", "down1", "down2", "down3", "down4")),
    Net("U2net", flags=("align_corners",), training_options={"side_outputs": True},
        unseen_options=("align_corners",), geometry=lambda options: U2NET,
        parameters=lambda options: 44_100_000,
        bytes_per_pixel=lambda options: 10_000, gpu_bytes_per_pixel=lambda options: 10_300,
        recognise=recognise_u2net("U2net", 32), **U2NET_LAYERS),
    Net("U2netS", flags=("align_corners",), training_options={"side_outputs": True},
        unseen_options=("align_corners",), geometry=lambda options: U2NET,
        parameters=lambda options: 1_150_000,
        bytes_per_pixel=lambda options: 5_700, gpu_bytes_per_pixel=lambda options: 7_000,
        recognise=recognise_u2net("U2netS", 16), **U2NET_LAYERS),
)}
NET_FLAGS = tuple(dict.fromkeys(flag for net in CATALOGUE.values() for flag in net.flags))
