"""A package of the BioImage Model Zoo, https://bioimage.io: the ONNX file, described for programs.

Format 0.5.  Needs bioimageio.core.  Its pictures are drawn: nothing in a package is a photograph.
"""
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from bioimageio.core import test_model
from bioimageio.spec import save_bioimageio_package
from bioimageio.spec.common import FileDescr
from bioimageio.spec.model import v0_5
from pydantic import ValidationError
from Traced import INPUT, OPSET, OUTPUT

from command.errors import DataError
from command.version import VERSION
from images.formats import write_png

TEST_SIDES = 128, 160  # px of the test picture's output, about
UNET_PAPER = ("Ronneberger, Fischer, Brox: U-Net: Convolutional Networks for Biomedical Image "
              "Segmentation. MICCAI 2015", "10.1007/978-3-319-24574-4_28")
U2NET_PAPER = ("Qin et al.: U2-Net: Going Deeper with Nested U-Structure for Salient Object "
               "Detection. Pattern Recognition 106, 2020", "10.1016/j.patcog.2020.107404")
PAPERS = {"Unet": UNET_PAPER, "U2net": U2NET_PAPER, "U2netS": U2NET_PAPER}  # {net: (text, DOI)}

DOCUMENTATION = """# {name}

{description}

{net}, trained in Jittor by U-Net and U-2-Net in Jittor {version}, as ONNX.

## Input

Raw pixels, {pixels}: {channels}. The values are those that the files have. The model itself
subtracts the training images' mean and divides by their standard deviation. {size}

## Output

The probabilities of the classes {classes}. {answer}

## Validation

`test_input.npy` is drawn, not photographed. `test_output.npy` is what Jittor answers to it. ONNX
Runtime answers the same to 1e-4. To validate the model on images of your own, compare its answer
with labels that had no part in training.
"""


class ModelCard(NamedTuple):
    """What people have to say of a model."""
    name: str
    authors: list
    license: str      # of SPDX
    description: str
    cite: list        # of (text, DOI), besides the net's paper


# ---------------------------------------------------------------------------------- what it says
def check_license(name):
    """Raise DataError where SPDX has no licence of this name."""
    try:
        v0_5.LicenseId(name)
    except ValidationError:
        raise DataError(f"--license {name}: no name of a licence in https://spdx.org/licenses; "
                        "spell it as there") from None


def input_axes(terms):
    """The axes of raw pixels."""
    names = {1: ["grey"], 3: ["red", "green", "blue"]}.get(
        terms.net.n_channels, [f"channel_{k}" for k in range(terms.net.n_channels)])
    size = v0_5.ParameterizedSize(min=terms.minimum, step=terms.step)
    return [v0_5.BatchAxis(), v0_5.ChannelAxis(channel_names=names),
            *(v0_5.SpaceInputAxis(id=v0_5.AxisId(name), size=size) for name in "yx")]


def output_axes(terms):
    """The axes of the probabilities; valid convolutions make them shorter by the margin."""
    def size(name):
        return v0_5.SizeReference(tensor_id=v0_5.TensorId(INPUT), axis_id=v0_5.AxisId(name),
                                  offset=-terms.margin)
    return [v0_5.BatchAxis(), v0_5.ChannelAxis(channel_names=terms.classes),
            *(v0_5.SpaceOutputAxis(id=v0_5.AxisId(name), size=size(name)) for name in "yx")]


def describe_sizes(terms):
    """What sizes the model takes, for people."""
    if not terms.margin:
        return (f"Height and width may be any from {terms.minimum} px on. The answer has the "
                "input's size. Give it whole images: at the edges of tiles it sees less.")
    return (f"Height and width must be {terms.minimum} px or {terms.step} px, {2 * terms.step} px "
            f"... more. The answer shows the middle: {terms.halo} px less on each side. So mirror "
            f"the image there by {terms.halo} px first.")


def describe_answer(terms):
    """What to make of the probabilities, for people."""
    if terms.net.n_classes > 2:
        return "A pixel belongs to its likeliest class."
    net = terms.net
    told = f"A pixel is foreground where the foreground's probability is above {net.threshold:g}."
    if net.smallest_object:
        told += f" Pieces smaller than {net.smallest_object} px are background."
    if net.label_kind == "objects":
        told += (f" Objects that touch are {net.border} px smaller there: number the pieces, then "
                 "give them these pixels back.")
    return told


def write_documentation(terms, card, path):
    low, high = terms.raw_range
    limits = "" if low is None else f" from {low:g} to {high:g}"
    path.write_text(DOCUMENTATION.format(
        name=card.name, description=card.description, net=terms.net, version=VERSION,
        pixels=f"{terms.dtype.name}{limits}", size=describe_sizes(terms),
        channels=f"{terms.net.n_channels} channel(s)",
        classes=", ".join(terms.classes), answer=describe_answer(terms)), "utf-8")


def draw_cover(terms, raw, probability):
    """The test picture beside the probability of all but background: (H, 2 H, 3) uint8.

    raw: (C, H, W); probability: (K, H', W') of its middle.
    """
    mean, std = (terms.white * np.array(values)[:, None, None]
                 for values in (terms.net.statistics.mean, terms.net.statistics.std))
    side, halo = min(probability.shape[1:]), terms.halo
    seen = ((raw - mean) / (5 * std) + 0.5)[:, halo:halo + side, halo:halo + side]
    seen = seen if len(seen) == 3 else seen[:1].repeat(3, axis=0)
    answer = (1 - probability[:1, :side, :side]).repeat(3, axis=0)
    both = np.concatenate([seen, answer], axis=2).clip(0, 1)
    return np.rint(255 * both).astype(np.uint8).transpose(1, 2, 0)


# -------------------------------------------------------------------------------------- the package
def describe_model(terms, card, folder):
    """The ModelDescr of the files in a folder."""
    as_floats = v0_5.EnsureDtypeDescr(kwargs=v0_5.EnsureDtypeKwargs(dtype="float32"))
    image = v0_5.InputTensorDescr(
        id=v0_5.TensorId(INPUT), description="raw pixels", axes=input_axes(terms),
        data=v0_5.IntervalOrRatioDataDescr(type=terms.dtype.name, range=terms.raw_range),
        preprocessing=[as_floats], test_tensor=FileDescr(source=folder / "test_input.npy"))
    probabilities = v0_5.OutputTensorDescr(
        id=v0_5.TensorId(OUTPUT), description="of the classes", axes=output_axes(terms),
        data=v0_5.IntervalOrRatioDataDescr(type="float32", range=(0, 1)),
        test_tensor=FileDescr(source=folder / "test_output.npy"))
    weights = v0_5.OnnxWeightsDescr(source=folder / "weights.onnx", opset_version=OPSET)
    return v0_5.ModelDescr(
        name=card.name, description=card.description, license=v0_5.LicenseId(card.license),
        authors=[v0_5.Author(name=name) for name in card.authors],
        cite=[v0_5.CiteEntry(text=text, doi=v0_5.Doi(doi))
              for text, doi in (PAPERS[terms.net.mode], *card.cite)],
        tags=["2d", "segmentation", terms.net.mode.lower(), "onnx"],
        documentation=FileDescr(source=folder / "README.md"),
        covers=[FileDescr(source=folder / "cover.png")],
        inputs=[image], outputs=[probabilities], weights=v0_5.WeightsDescr(onnx=weights))


def write_package(terms, card, answer, onnx_path, path):
    """Write the package to `path`, and have bioimage.io's own test try it.

    answer: a function from raw pixels (N, C, H, W) to the probabilities that the ONNX file is to
    give.  Raises DataError where the test does not pass.
    """
    raw = terms.draw(*map(terms.net.geometry.input_side, TEST_SIDES))
    probability = answer(raw[None])[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "test_input.npy", raw[None])
        np.save(folder / "test_output.npy", probability[None])
        write_png(folder / "cover.png", draw_cover(terms, raw, probability))
        write_documentation(terms, card, folder / "README.md")
        (folder / "weights.onnx").write_bytes(onnx_path.read_bytes())
        save_bioimageio_package(describe_model(terms, card, folder), output_path=path)
    summary = test_model(path)
    if summary.status != "passed":
        wrong = [error.msg for detail in summary.details for error in detail.errors]
        raise DataError(f"the package: bioimage.io's test does not pass: {wrong[0]}")
