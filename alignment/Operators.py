"""Where Jittor's own operators differ from PyTorch's, by how much, and what ours make of it.

    python alignment/Operators.py

Prints a table; ends with exit code 1 where ours are further from PyTorch than float32 explains.
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from command.errors import run
from command.flags import Parser

Parser("Print how far Jittor's own operators, and ours, are from PyTorch's.").parse_args()

import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from backend.operators import BatchNorm, MaxPool, NormReLU, Winograd, resize
from backend.optimizers import Adam
from backend.start import jt, nn
from Loss import weighted_cross_entropy

FLOAT32 = 1e-5  # relative distance that rounding alone explains in these small cases


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def distance(found, expected):
    """Largest difference of two arrays, relative to the largest value of the second."""
    found, expected = np.ravel(found).astype(np.float64), np.ravel(expected).astype(np.float64)
    return np.abs(found - expected).max() / np.abs(expected).max()


def batch_norms(images):
    """Jittor's own, ours and PyTorch's BatchNorm and ReLU after one batch in training: [(output, running variance)]."""
    own, ours, twin = nn.BatchNorm(images.shape[1]), BatchNorm(images.shape[1]), torch.nn.BatchNorm2d(images.shape[1])
    own_output = nn.relu(own(jt.array(images))).numpy()
    output, mean, variance = NormReLU.apply(jt.array(images), ours.weight, ours.bias, None, ours.eps)
    ours.remember(mean, variance, images.size // images.shape[1])
    expected = twin(torch.from_numpy(images)).relu().detach().numpy()
    return [(own_output, own.running_var.numpy()), (output.numpy(), ours.running_var.numpy()),
            (expected, twin.running_var.numpy())]


def running_variance():
    """Jittor keeps the variance over n pixels, PyTorch that over n - 1."""
    return (variance for _, variance in batch_norms(values(1, 4, 8, 8)))


def batch_norm_output():
    """Jittor takes E[x^2] - E[x]^2, which cancels where the mean is large against the spread."""
    return (output for output, _ in batch_norms(30 + values(1, 4, 256, 256)))


def adam_step():
    """Jittor adds epsilon before the bias correction of the second moment, PyTorch after it."""
    gradient, steps = 1e-8 * values(1000), []
    for optimizer in (jt.optim.Adam, Adam):
        parameter = jt.zeros(gradient.shape)
        optimizer = optimizer([parameter], 0.1)
        optimizer.step((parameter * jt.array(gradient)).sum())
        steps.append(parameter.numpy())
    parameter = torch.zeros(gradient.shape, requires_grad=True)
    parameter.grad = torch.from_numpy(gradient)
    torch.optim.Adam([parameter], 0.1).step()
    return [*steps, parameter.detach().numpy()]


def resized(height, width, align_corners):
    """The same formula; Jittor rounds the coordinates differently."""
    images = values(1, 3, 30, 40)
    expected = F.interpolate(torch.from_numpy(images), (height, width), mode="bilinear", align_corners=align_corners)
    own = nn.resize(jt.array(images), (height, width), "bilinear", align_corners)
    return own.numpy(), resize(jt.array(images), height, width, align_corners).numpy(), expected.numpy()


def pooled():
    """The same; but Jittor refuses a map of 2 x 2 px, hence U-2-Net's smallest side of 33 px."""
    images = values(1, 3, 31, 33)
    own = nn.MaxPool2d(2, stride=2, ceil_mode=True)(jt.array(images))
    expected = F.max_pool2d(torch.from_numpy(images), 2, 2, ceil_mode=True)
    return own.numpy(), MaxPool(ceil_mode=True)(jt.array(images)).numpy(), expected.numpy()


def convolved():
    """Jittor's own and PyTorch's sum the products (oneDNN), ours multiplies less (Winograd)."""
    images, weight = values(1, 64, 40, 40), values(32, 64, 3, 3, seed=1)
    own = nn.conv2d(jt.array(images), jt.array(weight), padding=1)
    ours = Winograd.apply(jt.array(images), jt.array(weight), None, 1, False)
    return own.numpy(), ours.numpy(), F.conv2d(torch.from_numpy(images), torch.from_numpy(weight), padding=1).numpy()


def cross_entropy():
    """Ours is a mean over pixels; Jittor's own mean divides by the sum of the weights, so it is taken without one."""
    logits, weights = 1e4 * values(1, 3, 20, 20), values(1, 20, 20) ** 2
    label = np.arange(400, dtype=np.int32).reshape(1, 20, 20) % 3
    own = nn.cross_entropy_loss(jt.array(logits), jt.array(label), reduction="none").numpy().reshape(weights.shape)
    ours = weighted_cross_entropy(jt.array(logits), jt.array(label), jt.array(weights)).numpy()
    expected = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(label).long(), reduction="none").numpy()
    return (own * weights).mean(), ours, (expected * weights).mean()


ROWS = {"BatchNorm: running variance, 8 x 8 px": running_variance,
        "BatchNorm: output, values of 30 +- 1": batch_norm_output,
        "Adam: first step, gradients of 1e-8": adam_step,
        "bilinear resize x 2": lambda: resized(60, 80, False),
        "bilinear resize x 2, align_corners": lambda: resized(60, 80, True),
        "bilinear resize to odd sizes": lambda: resized(77, 93, False),
        "2 x 2 max-pool, ceil_mode": pooled,
        "3 x 3 convolution": convolved,
        "cross entropy, logits of 1e4": cross_entropy}


def main():
    print(f"{'largest difference from PyTorch, relative':<44}{'Jittor alone':>14}{'ours':>12}")
    sound = True
    for name, row in ROWS.items():
        own, ours, expected = row()
        distances = distance(own, expected), distance(ours, expected)
        sound &= distances[1] <= FLOAT32
        print(f"{name:<44}{distances[0]:>14.1e}{distances[1]:>12.1e}")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(run(main))
