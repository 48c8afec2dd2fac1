"""Write a checkpoint's net as ONNX, and as a package of the BioImage Model Zoo.

    python alignment/ToOnnx.py checkpoints/best_model.safetensors model.onnx
    python alignment/ToOnnx.py checkpoints/best_model.safetensors model.onnx \
        --bioimageio model.zip --name "Membranes" --authors "A. Author" --license CC-BY-4.0

The file takes raw pixels, as the training images had them, and answers with the probabilities of
the classes.  Its metadata says what a program has to know.  Before the file is there, ONNX Runtime
has given Jittor's answers to 1e-4 on pictures of three sizes.  Before the package is there,
bioimage.io's own test has passed.
"""
import argparse
import contextlib
import importlib
import re
import sys
from pathlib import Path

import numpy as np
import Root  # noqa: F401 - puts the repository's root on the path
from Terms import Terms

from backend import start
from command.errors import DataError, run
from command.files import atomic_write
from command.flags import Parser, file_named
from masks.answers import probabilities
from nets.checkpoint import read_weights
from nets.recognise import describe_net
from nets.trained import net_of_header

CLOSE = 1e-4  # largest difference of a probability
ONNX_PACKAGES = ("torch", "onnx", "onnxruntime")
OF_PACKAGE = ("name", "authors", "license")  # flags that --bioimageio needs
FROM_ALIGN = "pip install -r requirements/align.txt -c requirements/constraints.txt"


# --------------------------------------------------------------------------------------- the flags
def text_like(pattern, wanted):
    """A flag type: a text that a regular expression matches; wanted: that, in words."""
    def parse(text):
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {text!r}")
        return text
    parse.__name__ = "text"  # what --help shows
    return parse


def build_parser():
    parser = Parser("Write a checkpoint's net as ONNX, from raw pixels to probabilities. Before "
                    "that, check it against Jittor on pictures of three sizes.")
    parser.add_argument("checkpoint", type=Path, help="checkpoint of Main.py to read")
    parser.add_argument("output", type=file_named(".onnx"), help="file to write, .onnx")
    add = parser.add_argument_group("for a package of the BioImage Model Zoo").add_argument
    add("--bioimageio", type=file_named(".zip"),
        help="package to write too, .zip; needs --name, --authors and --license")
    add("--name", type=text_like(r"[A-Za-z0-9_+() -]{5,128}", "5 to 128 letters, digits, spaces "
                                                              "and _ + - ( )"),
        help="the model's name, for people: 5 to 128 letters, digits, spaces and _ + - ( )")
    add("--authors", type=text_like(r"[^/]*\w[^/]*", "a name without /"), nargs="+",
        metavar="NAME", help="who made the model")
    add("--license", metavar="SPDX",
        help="the licence of the weights, as https://spdx.org/licenses spells it: CC-BY-4.0, MIT")
    add("--description", help="what the model is for, in a sentence (default: its net and classes)")
    add("--cite", nargs=2, action="append", metavar=("TEXT", "DOI"), default=[],
        help="what to cite besides the net's paper: an article, a data set; may be repeated "
             "(default: nothing)")
    return parser


def refuse_contradictions(args, parser):
    """End with exit code 2 for flags that do not go together."""
    given = [name for name in (*OF_PACKAGE, "description", "cite") if getattr(args, name)]
    missing = [name for name in OF_PACKAGE if name not in given]
    if args.bioimageio and missing:
        parser.error(f"--bioimageio: needs --{missing[0]} too")
    if given and not args.bioimageio:
        parser.error(f"--{given[0]}: only with --bioimageio")
    for _, doi in args.cite:
        if not re.fullmatch(r"10\.\d{4}\S+", doi):
            parser.error(f"--cite: expected a DOI as 10.1000/name, got {doi!r}")


def check_packages(names):
    """Raise DataError where one of these packages cannot be imported."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise DataError(f"{name} cannot be imported ({error}); {FROM_ALIGN}") from None


def require_folder(path):
    """Raise DataError where the folder of a file to write is not there."""
    if not path.parent.is_dir():
        raise DataError(f"{path}: its folder does not exist; make it, or choose another")


# --------------------------------------------------------------------------------------- the work
def read_terms(path):
    """(Terms, {name: array}) of a checkpoint of Main.py; DataError for any other file."""
    weights, header = read_weights(path)
    if header is None:
        raise DataError(f"{path}: not a checkpoint of Main.py, so that nobody knows how its images "
                        "were normalised; train from these weights, and export that")
    return Terms(net_of_header(header, describe_net(weights, path), path)), weights


def build_ours(terms, weights, path):
    """Ours, in Jittor: a function from raw pixels (N, C, H, W) to probabilities.

    Raises DataError, which names `path`, where weights are missing or too many.
    """
    from Process import trained_forward
    forward = trained_forward(terms.net, weights, path)
    return lambda raw: probabilities(forward(np.stack([terms.prepare(each) for each in raw])))


def write_file(terms, weights, path):
    """Write the twin with these weights, and the metadata, to `path`."""
    import onnx
    import torch
    import TorchModel
    from Traced import INPUT, OUTPUT, FromPixels, write_onnx
    net, statistics = terms.net, terms.net.statistics
    twin = TorchModel.build_model(net.mode, net.n_channels, net.n_classes, **net.options)
    TorchModel.load_arrays(twin, weights)
    model = FromPixels(twin, terms.white, statistics.mean, statistics.std).eval()
    less = f" - {terms.margin}" if terms.margin else ""
    axes = {INPUT: {0: "batch", 2: "height", 3: "width"},
            OUTPUT: {0: "batch", 2: f"height{less}", 3: f"width{less}"}}
    example = torch.from_numpy(terms.pictures()[0].astype(np.float32)[None])
    write_onnx(model, example, str(path), axes=axes)
    written = onnx.load(path)
    onnx.helper.set_model_props(written, terms.metadata())
    onnx.save(written, path)


def open_file(path):
    """An ONNX file in ONNX Runtime: a function from raw pixels (N, C, H, W) to probabilities."""
    import onnxruntime
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda raw: session.run(None, {name: raw.astype(np.float32)})[0]


def compare(terms, ours, exported):
    """Print how far the file's answers are from Jittor's; DataError where that is beyond CLOSE.

    ours, exported: functions from raw pixels to probabilities.
    """
    print("input (images, channels, height, width)  largest difference of a probability")
    for count, picture in enumerate(terms.pictures(), 1):
        raw = np.stack([np.roll(picture, 9 * k, axis=2) for k in range(count)])
        expected, found = ours(raw), exported(raw)
        difference = np.inf
        if found.shape == expected.shape:
            difference = np.abs(found - expected).max()
        print(f"{str(raw.shape):39}  {difference:.1e}", flush=True)
        if not difference <= CLOSE:
            raise DataError(f"the file differs from Jittor by {difference:.1e}, and {CLOSE:.0e} is "
                            "allowed; nothing is written")


def main():
    parser = build_parser()
    args = parser.parse_args()
    refuse_contradictions(args, parser)
    terms, weights = read_terms(args.checkpoint)
    wanted = [args.output, args.bioimageio] if args.bioimageio else [args.output]
    for path in wanted:
        require_folder(path)
    check_packages(ONNX_PACKAGES)
    if args.bioimageio:
        check_packages(["bioimageio.core"])
        from ZooPackage import ModelCard, check_license, write_package
        check_license(args.license)
        described = f"{terms.net.mode} that segments images: {', '.join(terms.classes)}"
        card = ModelCard(args.name, args.authors, args.license, args.description or described,
                         args.cite)
    start.import_jittor("cpu")
    ours = build_ours(terms, weights, args.checkpoint)
    with contextlib.ExitStack() as stack:  # all files or none
        temporary = [stack.enter_context(atomic_write(path)) for path in wanted]
        write_file(terms, weights, temporary[0])
        compare(terms, ours, open_file(temporary[0]))
        if args.bioimageio:
            write_package(terms, card, ours, *temporary)
    print(f"Wrote {' and '.join(map(str, wanted))}: {terms.net}")
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
