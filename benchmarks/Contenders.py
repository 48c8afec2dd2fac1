"""Who races, a row for each contender, in what, and why one may be left out here."""
import importlib.util
from typing import NamedTuple

from backend.precision import has_bf16


class Racer(NamedTuple):
    """A way to train and to predict."""
    title: str
    is_bf16: bool = False   # whether it multiplies in bfloat16, with sums in float32
    package: str = ""       # that it needs besides PyTorch
    kinds: tuple = ("train", "predict")
    is_ours: bool = False


EXPORTED = ("predict",)  # what an exported net can do
CONTENDERS = {
    "ours": Racer("ours, float32", is_ours=True),
    "ours_bf16": Racer("ours, bf16", is_bf16=True, is_ours=True),
    "reference": Racer("PyTorch, reference protocol"),
    "full": Racer("PyTorch, eager"),
    "channels_last": Racer("PyTorch, channels_last"),
    "compiled": Racer("PyTorch, compiled"),
    "autocast_full": Racer("PyTorch, bf16", is_bf16=True),
    "autocast": Racer("PyTorch, bf16, channels_last", is_bf16=True),
    "compiled_bf16": Racer("PyTorch, bf16, compiled", is_bf16=True),
    "onnx": Racer("ONNX Runtime", package="onnxruntime", kinds=EXPORTED),
    "openvino_f32": Racer("OpenVINO, float32", package="openvino", kinds=EXPORTED),
    "openvino": Racer("OpenVINO, as it comes", is_bf16=True, package="openvino",
                          kinds=EXPORTED),
}
GPU_CONTENDERS = {"ours": "ours", "full": "PyTorch, eager, TF32",
                  "channels_last": "PyTorch, channels_last, TF32",
                  "compiled": "PyTorch, compiled, TF32",
                  "autocast": "PyTorch, channels_last, bf16 autocast"}
RACE_KINDS = {"train": "training", "predict": "prediction"}
RACE_SIDE = 512  # px, of the images that are raced on
BF16_MISSING = "this processor has no avx512_bf16"


def find_left_out():
    """Why contenders cannot race here: {name: reason}."""
    reasons, multiplies_bf16 = {}, has_bf16()
    for name, row in CONTENDERS.items():
        needed = [row.package, "onnx"] if row.package else []
        missing = [package for package in needed if not importlib.util.find_spec(package)]
        if missing:
            reasons[name] = (f"{missing[0]} is not installed; "
                             "pip install -r requirements/rivals.txt")
        elif row.is_bf16 and not multiplies_bf16:
            reasons[name] = BF16_MISSING
    return reasons


def contenders_of(kind, names, left_out):
    """Those of `names` that race in a kind of race; left_out: find_left_out's."""
    return tuple(name for name in names
                 if kind in CONTENDERS[name].kinds and name not in left_out)
