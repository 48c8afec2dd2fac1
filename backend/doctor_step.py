"""A training step of a small U-Net, which `python Model.py --doctor` takes in several ways.

Each way runs in a process of its own.  Weights, images and labels are the same for all, because
NumPy draws them.  Importing this module does not import Jittor.
"""
import json
import statistics
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from backend import start
from backend.cuda_proof import known_kernels
from backend.libraries import loaded_libraries

NET = {"base_channels": 16, "padding": 1}  # options of the U-Net
BATCH_SHAPE = (2, 1, 88, 72)               # images; 72 / 8 is odd, so that a pool drops a column
RATE = 1e-3                                # the learning rate
UPDATES = 4                                # the first one compiles, the others are timed
OPEN = 2.0    # BatchNorm's biases: most ReLUs are open then, and rounding switches few of them
SMALL = 0.01  # of all gradients' norm: a parameter whose gradient is smaller is compared with that


class Way(NamedTuple):
    """A way to compute the step, and how far from the CPU's its numbers may be, relative to them.

    Rounding alone was measured on a CPU.  By Jittor's operators: no difference of the loss, 4e-5 of
    a gradient, 2e-6 of the loss after the updates.  With all factors of convolutions rounded to
    TF32: 2e-6, 1.3e-2, 6e-5.  With activations in bf16: 5e-4, 5.3e-2, 5e-4.
    """
    title: str
    device: str            # of start.import_jittor
    exact: bool            # of start.import_jittor
    with_kernels: bool     # False: by Jittor's operators alone
    loss_limit: float      # of the loss before the updates
    gradient_limit: float  # of each parameter's gradient
    updated_limit: float   # of the loss after the updates
    element_type: str = "float32"  # of the net's activations


STEP_WAYS = {"cpu": Way("CPU", "cpu", True, True, 0.0, 0.0, 0.0),
             "jittor": Way("CPU, Jittor's operators alone", "cpu", True, False, 1e-5, 1e-3, 1e-3),
             "bf16": Way("CPU, bf16", "cpu", True, True, 5e-3, 0.3, 0.02, "bfloat16"),
             "float32": Way("GPU, float32", "cuda", True, True, 1e-5, 1e-3, 1e-3),
             "tf32": Way("GPU, TF32", "cuda", False, True, 1e-4, 1e-1, 1e-2)}


@dataclass(frozen=True)
class Taken:
    """What a way's process found."""
    loss: float          # before the updates
    updated_loss: float  # after them
    milliseconds: float  # of a step, the median
    libraries: dict      # {name: "version, path"} of libraries.LIBRARIES that ran
    kernels: dict        # {own CUDA kernel: "", or where it differs and so is not used}
    device: str          # for people
    gradients: dict      # {parameter: array}, before the updates


class Distance(NamedTuple):
    """How far one Taken is from another one, relative to that."""
    loss: float
    gradient: float      # the largest one of all parameters'
    parameter: str       # whose gradients are that far apart
    updated_loss: float

    def is_within(self, way):
        """Whether a Way may be that far from the CPU.  NaN is not."""
        return (self.loss <= way.loss_limit and self.gradient <= way.gradient_limit
                and self.updated_loss <= way.updated_limit)


def measure_distance(taken, reference):
    """The Distance of a Taken from another one."""
    norms = {name: np.linalg.norm(array) for name, array in reference.gradients.items()}
    least = SMALL * np.linalg.norm(list(norms.values()))
    with np.errstate(all="ignore"):  # a device that computes nothing leaves any bits
        apart = {name: float(np.linalg.norm(taken.gradients[name] - array)
                             / max(norms[name], least))
                 for name, array in reference.gradients.items()}
    worst = max(apart, key=lambda name: np.nan_to_num(apart[name], nan=np.inf))
    return Distance(abs(taken.loss / reference.loss - 1), apart[worst], worst,
                    abs(taken.updated_loss / reference.updated_loss - 1))


# ----------------------------------------------------------------------------------- in the process
def take_step(way, build_model):
    """Take the step, in the process whose Jittor runs on the way's device: a Taken.

    way: Way.  build_model: Model.build_model.
    """
    from backend.operators import without_kernels
    if way.with_kernels:
        return _take_step(build_model, way.element_type)
    with without_kernels():
        return _take_step(build_model, way.element_type)


def _take_step(build_model, element_type):
    from backend.optimizers import build_optimizer
    jt, rng = start.jt, np.random.default_rng(0)
    model = build_model("Unet", 1, 2, **NET)
    model.element_type = element_type
    _set_weights(model.state_dict(), rng)
    model.train()
    pixels = rng.normal(size=BATCH_SHAPE).astype(np.float32)
    images, labels = jt.array(pixels), jt.array((pixels[:, 0] > 0.5).astype(np.int32))

    def compute_loss():
        return start.nn.cross_entropy_loss(model(images), labels)

    loss = compute_loss()
    trained = {name: var for name, var in model.named_parameters() if not var.is_stop_grad()}
    gradients = dict(zip(trained, (each.numpy() for each in jt.grad(loss, [*trained.values()]))))
    optimizer, seconds = build_optimizer("adamw", model, RATE), []
    for _ in range(UPDATES):
        began = time.perf_counter()
        optimizer.step(compute_loss())
        jt.sync_all(True)
        seconds.append(time.perf_counter() - began)
    home = start.cuda_home()
    return Taken(loss.item(), compute_loss().item(), 1000 * statistics.median(seconds[1:]),
                 loaded_libraries(), known_kernels(home) if home else {}, start.device_name(),
                 gradients)


def _set_weights(state, rng):
    """Put weights that NumPy draws into a state dict; other numbers begin as 0 or 1."""
    for name, var in state.items():
        if var.ndim == 4:
            std = np.sqrt(2 / np.prod(var.shape[1:]))
            var.assign(rng.normal(0, std, var.shape).astype(np.float32))
        elif f"{name.removesuffix('bias')}running_var" in state:
            var.assign(np.full(var.shape, OPEN, np.float32))


# ----------------------------------------------------------------------- from process to process
def save_taken(path, taken):
    """Write a Taken, for `load_taken`."""
    facts = {name: value for name, value in vars(taken).items() if name != "gradients"}
    np.savez(path, **taken.gradients, facts=json.dumps(facts))


def load_taken(path):
    """The Taken that `save_taken` wrote."""
    with np.load(path) as file:
        arrays = dict(file)
    return Taken(**json.loads(arrays.pop("facts").item()), gradients=arrays)
