"""Our CUDA kernels compared with Jittor's own operators on this card, forward and backward.

A kernel counts as right only on a device.  `check_kernels` runs small and odd shapes: sides that
are no multiples of 4 or 32, one channel, several samples, planes that need several blocks.
"""
from typing import Callable, NamedTuple

import numpy as np

from backend import operators
from backend.device_optimizer import DeviceOptimizer, build_updates
from backend.kernel_choice import trying_cuda_kernels, without_kernels
from backend.optimizers import OPTIMIZERS
from backend.start import jt
from backend.updates import BatchStatistics, Limits

DIGITS = 2e-5    # differences allowed, as a share of the largest number
LONG_SUM = 1e-3  # the same where Jittor's own sums are so long that they lose digits
TF32 = 1e-2      # cuDNN may round the factors of products to 11 bits, here otherwise than there


class Case(NamedTuple):
    """Some work that has the same results with and without the kernels."""
    name: str           # what differs, if it does
    work: Callable      # () -> list of Vars
    limit: float = DIGITS


def check_kernels(names=None):
    """{name: "" or one line that says where it differs} of the kernels in KERNEL_CHECKS.

    names: these alone.  Jittor has to run on a GPU.  It compiles about 60 operators.
    """
    found = {}
    for name in KERNEL_CHECKS if names is None else names:
        try:
            found[name] = first_difference(name)
        except Exception as error:  # noqa: BLE001 - whatever Jittor raises for one that fails
            found[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}"
    return found


def first_difference(name):
    """"" or one line: where the results of a kernel differ."""
    cases = KERNEL_CHECKS[name]()
    with trying_cuda_kernels([name]):
        ours = [case.work() for case in cases]
    with without_kernels():
        expected = [case.work() for case in cases]
    # all at once: Jittor then compiles several operators at a time
    jt.sync([var for results in (*ours, *expected) for var in results])
    lines = (difference(*results) for results in zip(cases, ours, expected))
    line = next(filter(None, lines), "")
    return line or (lost_nan() if name == "batch_norm" else "")


def difference(case, ours, expected):
    """"" or one line: how far the Vars `ours` are from `expected`."""
    for k, (one, other) in enumerate(zip(ours, expected)):
        one, other = one.numpy(), other.numpy()
        if one.shape != other.shape:
            return f"{case.name}, result {k}: {one.shape} instead of {other.shape}"
        share = np.abs(one - other).max() / max(np.abs(other).max(), 1e-6)
        if not share <= case.limit:  # NaN too
            return f"{case.name}, result {k}: differs by {share:.1e}, allowed are {case.limit:.0e}"
    return ""


def lost_nan():
    """"" or one line: whether BatchNorm loses a NaN, in one block and in several."""
    for shape in ((2, 3, 9, 11), (1, 3, 150, 151)):
        x = random_away_from_zero(shape)
        x[0, 1, 2, 3] = np.nan
        with trying_cuda_kernels(["batch_norm"]):
            y = operators.conv_norm_relu(BiasAlone(3), operators.BatchNorm(3), jt.array(x)).numpy()
        if np.isfinite(y[:, 1]).any() or not np.isfinite(y[:, [0, 2]]).all():
            return f"{shape} with a NaN: it should fill its channel, and no other"
    return ""


# ------------------------------------------------------------------------------------- the numbers
def random_away_from_zero(shape, seed=0):
    """Numbers of either sign, 0.6 ... 1.4: rounding opens or closes no ReLU behind BatchNorm."""
    rng = np.random.default_rng([seed, *shape])
    signs = rng.choice(np.float32([-1, 1]), shape)
    return rng.uniform(0.6, 1.4, shape).astype(np.float32) * signs


def with_gradients(y, variables):
    """[y, the gradients of the variables] of a sum of y with random factors."""
    factors = jt.array(random_away_from_zero(y.shape, seed=1))
    return [y, *jt.grad((y * factors).sum(), list(variables))]


# -------------------------------------------------------------------------------------- the cases
def convolution_cases():
    def run(shape, outputs, side, padding, dilation):
        x = jt.array(random_away_from_zero(shape))
        conv = operators.Conv(shape[1], outputs, side, padding=padding, dilation=dilation)
        for var in (conv.weight, conv.bias):
            var.assign(random_away_from_zero(var.shape))
        return with_gradients(conv(x), [x, conv.weight, conv.bias])
    return [Case(f"{shape} to {outputs} channels, {side}x{side}, padding {padding}, dilation "
                 f"{dilation}",
                 lambda case=(shape, outputs, side, padding, dilation): run(*case), TF32)
            for shape, outputs, side, padding, dilation in (
                ((2, 3, 13, 18), 5, 3, 1, 1), ((1, 4, 21, 16), 2, 3, 0, 1),
                ((1, 5, 19, 23), 3, 3, 4, 4), ((2, 6, 9, 7), 2, 1, 0, 1))]


class BiasAlone:
    """Stands where a convolution stands before BatchNorm, and adds a bias."""

    def __init__(self, channels):
        self.weight, self.bias = None, jt.array(random_away_from_zero((channels,)))

    def __call__(self, x):
        return x + self.bias.broadcast(x, [0, 2, 3])

    def without_bias(self, x):
        return x


def batch_norm_cases():
    def run(shape, training):
        x, conv, norm = (jt.array(random_away_from_zero(shape)), BiasAlone(shape[1]),
                         operators.BatchNorm(shape[1]))
        norm.weight.assign(random_away_from_zero(norm.weight.shape, seed=2))
        norm.bias.assign(random_away_from_zero(norm.bias.shape, seed=3) * np.float32(0.2))
        if not training:
            norm.eval()
            return [operators.conv_norm_relu(conv, norm, x)]
        y = operators.conv_norm_relu(conv, norm, x)
        return [*with_gradients(y, [x, norm.weight, norm.bias]),
                norm.running_mean, norm.running_var]
    return [Case(f"{shape}, {'training' if training else 'prediction'}",
                 lambda case=(shape, training): run(*case), limit)
            for training in (True, False)
            for shape, limit in (((2, 1, 3, 5), DIGITS), ((2, 3, 7, 9), DIGITS),
                                 ((3, 5, 33, 32), DIGITS), ((1, 64, 20, 20), DIGITS),
                                 ((1, 3, 130, 131), LONG_SUM), ((2, 2, 128, 132), LONG_SUM),
                                 ((1, 2, 500, 516), LONG_SUM))]


def max_pool_cases():
    def run(shape, ceil_mode):
        values = np.random.default_rng(0).permutation(int(np.prod(shape)))  # none twice
        x = jt.array(values.astype(np.float32).reshape(shape))
        return with_gradients(operators.MaxPool(ceil_mode)(x), [x])
    return [Case(f"{shape}, ceil_mode {ceil_mode}", lambda case=(shape, ceil_mode): run(*case))
            for ceil_mode in (True, False)
            for shape in ((2, 3, 5, 7), (1, 1, 34, 33), (1, 5, 130, 128))]


def resize_cases():
    def run(shape, sides, align_corners):
        x = jt.array(random_away_from_zero(shape))
        return with_gradients(operators.resize(x, *sides, align_corners), [x])
    return [Case(f"{shape} to {sides}, align_corners {align_corners}",
                 lambda case=(shape, sides, align_corners): run(*case))
            for align_corners in (False, True)
            for shape, sides in (((2, 3, 7, 9), (13, 17)), ((1, 1, 33, 17), (66, 34)),
                                 ((1, 2, 3, 4), (96, 100)), ((1, 2, 20, 31), (9, 7)))]


def join_cases():
    def run(shapes, sides, resized):
        parts = [jt.array(random_away_from_zero(shape, seed)) for seed, shape in enumerate(shapes)]
        last = operators.Resized(parts[-1], *resized, False) if resized else parts[-1]
        return with_gradients(operators.join([*parts[:-1], last], *sides), parts)
    return [Case(f"{shapes} in {sides}, resized {resized}",
                 lambda case=(shapes, sides, resized): run(*case))
            for shapes, sides, resized in (
                (((2, 3, 12, 15), (2, 2, 4, 5)), (8, 10), (8, 10)),     # cropped
                (((1, 3, 9, 11), (1, 4, 4, 5)), (9, 11), (8, 10)),      # zeros added
                (((1, 2, 9, 11), (1, 3, 8, 10)), (9, 11), None),
                (tuple((2, 1, 33, 36) for _ in range(6)), (33, 36), None))]


def update_cases():
    """The end of a step: the second of three has an infinite loss, and must leave no trace."""
    def run(name, longest):
        parameters = [jt.array(random_away_from_zero(shape, seed))
                      for seed, shape in enumerate(((5, 3, 3, 3), (7,), (5,), (1, 1030)))]
        norm = operators.BatchNorm(5)
        found = [jt.array(np.abs(random_away_from_zero((5,), seed))) for seed in (7, 8, 9)]
        optimizer = DeviceOptimizer(parameters, 0.01, OPTIMIZERS[name].formula,
                                    build_updates(parameters[0]))
        averages = optimizer.updates.keep_values(parameters)
        for factor in (1.0, float("inf"), 0.5):
            loss = factor * sum((var * var).sum() for var in parameters)
            mean, variance, shift = found
            optimizer.step(loss, Limits(norm=longest),
                           [BatchStatistics(norm, mean, variance, 10, shift)])
            optimizer.updates.average(averages, parameters, 0.3)
        moments = [var for moment in optimizer.moments for var in moment]
        return [*parameters, *moments, *averages, optimizer.steps, norm.running_mean,
                norm.running_var]
    return [Case(f"{name}, gradients up to {longest or 'any length'}",
                 lambda case=(name, longest): run(*case))
            for name in OPTIMIZERS for longest in (0.0, 1.0)]


KERNEL_CHECKS = {"convolution": convolution_cases, "batch_norm": batch_norm_cases,
                 "max_pool": max_pool_cases, "resize": resize_cases, "join": join_cases,
                 "update": update_cases}
