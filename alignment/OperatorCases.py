"""Small cases in which Jittor's own operators, ours and PyTorch's are compared.

OPERATOR_CASES names them all.  Each case is a function that returns the OperatorResults.
"""
import functools
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from backend.adam import Adam
from backend.operators import BatchNorm, Conv, MaxPool, conv_norm_relu, enter, leave, resize
from backend.start import jt, nn
from Loss import weighted_cross_entropy


class OperatorResults(NamedTuple):
    """What the three make of the same input."""
    jittor: np.ndarray   # Jittor's own operator
    ours: np.ndarray
    pytorch: np.ndarray


class NormResult(NamedTuple):
    """What a BatchNorm and a ReLU make of one batch in training."""
    output: np.ndarray    # (N, C, H, W)
    variance: np.ndarray  # (C,), the running variance afterwards


def normal_values(*shape, seed=0):
    """Gaussian float32 values of a shape."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def relative_distance(found, expected):
    """Largest difference of two arrays, relative to the largest value of the second."""
    found, expected = np.ravel(found).astype(np.float64), np.ravel(expected).astype(np.float64)
    return np.abs(found - expected).max() / np.abs(expected).max()


# -------------------------------------------------------------------------------------- BatchNorm
def jittor_norm(images):
    norm = nn.BatchNorm(images.shape[1])
    output = nn.relu(norm(jt.array(images))).numpy()
    return NormResult(output, norm.running_var.numpy())


def our_norm(images):
    norm = BatchNorm(images.shape[1])
    output = conv_norm_relu(identity(images.shape[1]), norm, enter(jt.array(images)))
    return NormResult(leave(output).numpy(), norm.running_var.numpy())


def identity(channels):
    """A 3x3 convolution that changes nothing: our BatchNorm takes its statistics from one."""
    conv, weight = Conv(channels, channels, 3, padding=1, bias=False), np.zeros((channels,) * 2)
    np.fill_diagonal(weight, 1)
    conv.weight.assign(np.pad(weight[:, :, None, None], [(0, 0)] * 2 + [(1, 1)] * 2)
                       .astype(np.float32))
    return conv


def torch_norm(images):
    norm = torch.nn.BatchNorm2d(images.shape[1])
    output = norm(torch.from_numpy(images)).relu().detach().numpy()
    return NormResult(output, norm.running_var.numpy())


def compare_norm_variances():
    """Jittor keeps the variance over n pixels, PyTorch that over n - 1."""
    images = normal_values(1, 4, 8, 8)
    return OperatorResults(*(norm(images).variance for norm in (jittor_norm, our_norm, torch_norm)))


def compare_norm_outputs():
    """Jittor takes E[x^2] - E[x]^2, which loses digits where the mean is large."""
    images = 30 + normal_values(1, 4, 256, 256)
    return OperatorResults(*(norm(images).output for norm in (jittor_norm, our_norm, torch_norm)))


# ---------------------------------------------------------------------------- the other operators
def compare_adam_steps():
    """Jittor adds epsilon before the bias correction of the second moment, PyTorch after it."""
    gradient, parameters = 1e-8 * normal_values(1000), []
    for kind in (jt.optim.Adam, Adam):
        parameter = jt.zeros(gradient.shape)
        optimizer = kind([parameter], 0.1)
        optimizer.step((parameter * jt.array(gradient)).sum())
        parameters.append(parameter.numpy())
    parameter = torch.zeros(gradient.shape, requires_grad=True)
    parameter.grad = torch.from_numpy(gradient)
    torch.optim.Adam([parameter], 0.1).step()
    return OperatorResults(*parameters, parameter.detach().numpy())


def compare_resizes(height, width, align_corners):
    """The formula is the same; Jittor rounds the coordinates differently."""
    images = normal_values(1, 3, 30, 40)
    return OperatorResults(
        nn.resize(jt.array(images), (height, width), "bilinear", align_corners).numpy(),
        leave(resize(enter(jt.array(images)), height, width, align_corners)).numpy(),
        F.interpolate(torch.from_numpy(images), (height, width), mode="bilinear",
                      align_corners=align_corners).numpy())


def compare_pools():
    """The results are the same.

    But Jittor refuses a map of 2 x 2 px; hence U-2-Net's smallest side of 33 px.
    """
    images = normal_values(1, 3, 31, 33)
    return OperatorResults(
        nn.MaxPool2d(2, stride=2, ceil_mode=True)(jt.array(images)).numpy(),
        leave(MaxPool(ceil_mode=True)(enter(jt.array(images)))).numpy(),
        F.max_pool2d(torch.from_numpy(images), 2, 2, ceil_mode=True).numpy())


def compare_convolutions():
    """Jittor and PyTorch add the products up (oneDNN); ours multiplies less (Winograd)."""
    images, weight = normal_values(1, 64, 40, 40), normal_values(32, 64, 3, 3, seed=1)
    ours = Conv(64, 32, 3, padding=1, bias=False)
    ours.weight.assign(weight)
    return OperatorResults(
        nn.conv2d(jt.array(images), jt.array(weight), padding=1).numpy(),
        leave(ours(enter(jt.array(images)))).numpy(),
        F.conv2d(torch.from_numpy(images), torch.from_numpy(weight), padding=1).numpy())


def compare_cross_entropies():
    """Ours is a mean over pixels.

    The mean of Jittor's own divides by the sum of the weights, so its losses are taken pixel by
    pixel here.
    """
    logits, weights = 1e4 * normal_values(1, 3, 20, 20), normal_values(1, 20, 20) ** 2
    label = np.arange(400, dtype=np.int32).reshape(1, 20, 20) % 3
    jittor = nn.cross_entropy_loss(jt.array(logits), jt.array(label), reduction="none").numpy()
    ours = weighted_cross_entropy(jt.array(logits), jt.array(label), jt.array(weights)).numpy()
    pytorch = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(label).long(),
                              reduction="none").numpy()
    return OperatorResults((jittor.reshape(weights.shape) * weights).mean(), ours,
                           (pytorch * weights).mean())


OPERATOR_CASES = {
    "BatchNorm: running variance, 8 x 8 px": compare_norm_variances,
    "BatchNorm: output, values of 30 +- 1": compare_norm_outputs,
    "Adam: first step, gradients of 1e-8": compare_adam_steps,
    "bilinear resize x 2": functools.partial(compare_resizes, 60, 80, False),
    "bilinear resize x 2, align_corners": functools.partial(compare_resizes, 60, 80, True),
    "bilinear resize to odd sizes": functools.partial(compare_resizes, 77, 93, False),
    "2 x 2 max-pool, ceil_mode": compare_pools,
    "3 x 3 convolution": compare_convolutions,
    "cross entropy, logits of 1e4": compare_cross_entropies}
