"""What the machine can do, what the nets ask of it, and which software does it."""
import contextlib
import importlib.metadata
import os
import platform
import re
import sys
import time

from Worker import contender_options, contender_tile

from nets.catalogue import CATALOGUE

SGEMM_SIDE = 2048         # of the square matrices that are multiplied
COPY_FLOATS = 64_000_000  # that are copied: 256 MB
BEST_OF = 8               # runs; the ceiling is what the machine can do, so the fastest counts


def shortest(function):
    """The shortest of BEST_OF runs after one that does not count, in seconds."""
    seconds = []
    for _ in range(BEST_OF + 1):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def measure_ceiling():
    """Measure matrix products in single precision (GFLOP/s) and copies (GB/s read and written).

    Returns a dict with the keys sgemm_gflops and copy_gbs.
    """
    import torch
    one, other, product = torch.randn(3, SGEMM_SIDE, SGEMM_SIDE)
    source, target = torch.ones(2, COPY_FLOATS)
    multiply_s = shortest(lambda: torch.mm(one, other, out=product))
    copy_s = shortest(lambda: target.copy_(source))
    found = {"sgemm_gflops": 2e-9 * SGEMM_SIDE ** 3 / multiply_s,
             "copy_gbs": 8e-9 * COPY_FLOATS / copy_s}
    print(f"machine: matrix product {found['sgemm_gflops']:.0f} GFLOP/s, "
          f"copy {found['copy_gbs']:.1f} GB/s", file=sys.stderr, flush=True)
    return found


def count_multiply_adds(mode, contender, side, base_channels):
    """Multiply-adds of the convolutions in one image's forward pass; side: of the image, px.

    They are counted on the PyTorch twin, without computing anything.
    """
    import torch

    from alignment.TorchModel import build_model
    options, tile, counts = contender_options(mode, base_channels), contender_tile(contender), []
    sides = tile.input_sides(CATALOGUE[mode].geometry(options), side, side)

    def count(conv, _inputs, output):
        counts.append(output.numel() * conv.weight[0].numel())

    with torch.device("meta"):
        inputs = torch.empty(tile.inputs_per_image, 1, *sides)
        model = build_model(mode, 1, 2, **options)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    model(inputs)
    return sum(counts)


def software_versions():
    """The software's versions, and what the environment says of threads: {name: text}."""
    import torch
    found = {"Python": platform.python_version()}
    for name, package in (("NumPy", "numpy"), ("Jittor", "jittor"), ("PyTorch", "torch"),
                          ("oneDNN of Jittor", "onednn-cpu-gomp")):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(package)
    onednn = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    if onednn:
        found["oneDNN of PyTorch"] = onednn.group(1)
    found["threads of PyTorch"] = str(torch.get_num_threads())
    for name, value in os.environ.items():
        if name.startswith(("OMP_", "GOMP_", "MKL_")):
            found[name] = value
    return found
