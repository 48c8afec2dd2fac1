"""backend/cuda_operators.py on the CPU: the same results as the operators of the CPU.

The kernels run in the emulator, as operators of Jittor with their gradients.
"""
import ctypes

import numpy as np
import pytest
from emulated_cuda import cuda_kernels_on_cpu, run_emulated
from emulated_updates import FakeRuntime
from expected import close, random

from backend.kernel_choice import CUDA_KERNEL_NAMES

pytestmark = pytest.mark.jittor


@pytest.fixture
def ours(jt):
    from backend import operators
    return operators


def both_ways(work):
    """[what work() returns by the CUDA kernels, by the CPU's], lists of arrays."""
    results = []
    for names in (CUDA_KERNEL_NAMES, None):
        if names is None:
            found = work()
        else:
            with cuda_kernels_on_cpu(names):
                found = work()
        results.append([var.numpy() for var in found])
    return results


def gradients_of(jt, y, variables, seed=9):
    return [y, *jt.grad((y * jt.array(random(*y.shape, seed=seed))).sum(), variables)]


@pytest.mark.parametrize("bias", [True, False])
def test_convolution(jt, ours, bias):
    def work():
        jt.set_global_seed(1)
        conv = ours.Conv(4, 6, 3, stride=2, padding=2, dilation=(1, 2), groups=2, bias=bias)
        x = jt.array(random(2, 4, 12, 15))
        variables = [x, conv.weight, *([conv.bias] if bias else [])]
        return gradients_of(jt, conv(x), variables)
    for found, expected in zip(*both_ways(work)):
        close(found, expected)


def test_a_layer_that_learns_no_weights(jt, ours):
    """A variable without gradient gets none, and the others have theirs."""
    def work():
        jt.set_global_seed(1)
        conv, norm = ours.Conv(3, 5, 3, padding=1), ours.BatchNorm(5)
        conv.weight.stop_grad()
        norm.bias.stop_grad()
        return gradients_of(jt, ours.conv_norm_relu(conv, norm, jt.array(random(2, 3, 9, 8))),
                            [norm.weight])
    for found, expected in zip(*both_ways(work)):
        close(found, expected, 2e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("n, height, width", [(2, 13, 17), (1, 136, 132)])
def test_a_layer(jt, ours, bias, n, height, width):
    """Value, gradients and running statistics in training, and the value in prediction."""
    def work():
        conv, norm = ours.Conv(3, 5, 3, padding=1, bias=bias), ours.BatchNorm(5)
        rng = np.random.default_rng(0)
        for module in (conv, norm):
            for var in module.state_dict().values():
                values = rng.uniform(0.5, 1.5, var.shape).astype(np.float32)
                var.assign(values * rng.choice([-1, 1], var.shape) if var.ndim == 4 else values)
        x = jt.array(random(n, 3, height, width))
        variables = [x, conv.weight, norm.weight, norm.bias, *([conv.bias] if bias else [])]

        def run():  # on a GPU nothing has to enter
            return ours.leave(ours.conv_norm_relu(conv, norm, ours.enter(x)))
        found = gradients_of(jt, run(), variables)
        found += norm.running_mean, norm.running_var
        norm.eval()
        return *found, run()
    for found, expected in zip(*both_ways(work)):
        close(found, expected, 2e-5)


@pytest.mark.parametrize("ceil_mode", [True, False])
def test_max_pool(jt, ours, ceil_mode):
    def work():
        x = jt.array(np.round(random(2, 3, 9, 14)))
        return gradients_of(jt, ours.MaxPool(ceil_mode)(x), [x])
    for found, expected in zip(*both_ways(work)):
        assert (found == expected).all()


@pytest.mark.parametrize("align_corners", [True, False])
def test_resize(jt, ours, align_corners):
    def work():
        x = jt.array(random(2, 3, 9, 14))
        return gradients_of(jt, ours.resize(x, 17, 28, align_corners), [x])
    for found, expected in zip(*both_ways(work)):
        close(found, expected)


@pytest.mark.parametrize("height, width", [(18, 28), (15, 21), (19, 29)])
def test_join(jt, ours, height, width):
    """A skip that fits, that is cropped, and one with a row and a column more than the rest."""
    def work():
        skip, x, more = (jt.array(random(*shape)) for shape in (
            (2, 4, 19, 29), (2, 3, 9, 14), (2, 1, 18, 28)))
        y = ours.join([skip, ours.Resized(x, 18, 28, False), more], height, width)
        return gradients_of(jt, y, [skip, x, more])
    for found, expected in zip(*both_ways(work)):
        close(found, expected)


@pytest.mark.parametrize("options, limit", [
    ({"mode": "Unet", "base_channels": 4, "padding": 1}, 1e-3),
    ({"mode": "Unet", "base_channels": 4}, 1e-3), ({"mode": "U2netS"}, 0.1)])
def test_a_whole_net(jt, options, limit):
    """The logits and all gradients.

    U-2-Net's deepest levels have 2x2 pixels here, whose BatchNorm makes much of little: Jittor's
    own operators and those of the CPU differ by 2 % in half of the gradients.
    """
    from Model import build_model

    def work():
        jt.set_global_seed(1)
        model = build_model(n_channels=1, n_classes=2, **options)
        model.train()
        side = model.next_valid_side(64)
        y = model(jt.array(random(1, 1, side, side)))
        weights = [var for var in model.parameters() if not var.is_stop_grad()]
        return gradients_of(jt, y, weights)
    for found, expected in zip(*both_ways(work)):
        assert np.linalg.norm(found - expected) <= limit * np.linalg.norm(expected) + 1e-6


@pytest.mark.parametrize("dilated", [False, True])
def test_a_block_of_u2net(jt, dilated):
    """A whole block, as deep as U-2-Net has them, on maps that no BatchNorm finds small."""
    from backend.operators import enter, leave
    from Model import RSU, Stage

    def work():
        jt.set_global_seed(1)
        block = RSU(3, Stage(4, 4, 6, dilated), align_corners=False)
        block.train()
        x = jt.array(random(2, 3, 45, 38))
        return gradients_of(jt, leave(block(enter(x))), [x, *block.parameters()])
    for found, expected in zip(*both_ways(work)):
        assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected) + 1e-6


# --------------------------------------------------------------------------------- the first start
@pytest.fixture
def check(jt):
    """`check_kernels` of the kernels that the emulator runs."""
    from backend import kernel_check

    def check(*names):
        with cuda_kernels_on_cpu(()):
            return kernel_check.check_kernels(names)
    return check


def test_each_kernel_is_checked(jt):
    from backend.kernel_check import KERNEL_CHECKS
    assert tuple(KERNEL_CHECKS) == CUDA_KERNEL_NAMES


def test_right_kernels_pass(check):
    names = "convolution", "batch_norm", "max_pool", "resize", "join"
    assert check(*names) == dict.fromkeys(names, "")


@pytest.fixture
def emulated_updates(monkeypatch):
    from backend import cuda_updates
    monkeypatch.setattr(cuda_updates, "load_runtime", FakeRuntime)
    monkeypatch.setattr(cuda_updates, "cuda_code", run_emulated)


def test_right_updates_pass(check, emulated_updates):
    assert check("update") == {"update": ""}


def test_a_kernel_that_was_not_launched_ends_the_step_that_misses_it(jt):
    from backend.cuda_updates import Slot
    runtime = FakeRuntime()
    runtime.last_error = 2  # of some time before
    slot = Slot(runtime)
    ctypes.c_longlong.from_address(slot.event).value = 1  # recorded
    assert slot.read() == [0, 0, 0]
    runtime.last_error = 9  # what a grid that is too large leaves
    with pytest.raises(RuntimeError, match="CUDA's error 9 in a training step"):
        slot.read()


def test_updates_that_do_not_refuse_are_named(check, emulated_updates, monkeypatch):
    from backend import updates
    monkeypatch.setattr(updates.ComposedVerdict, "choose", lambda self, new, old: new)
    assert check("update")["update"].startswith("adam, gradients up to any length, result 0: ")


@pytest.mark.parametrize("name, where", [
    ("batch_norm", "(2, 1, 3, 5), training, result 0: differs by"),
    ("max_pool", "(2, 3, 5, 7), ceil_mode True, result 0: differs by")])
def test_a_kernel_that_differs_is_named(check, monkeypatch, name, where):
    """Results that are wrong in the fourth digit."""
    from backend import cuda_operators, kernel_check
    with cuda_kernels_on_cpu(()):
        right = cuda_operators.cuda_code
        monkeypatch.setattr(cuda_operators, "cuda_code",
                            lambda *args, **data: [y * 1.0001 for y in right(*args, **data)])
        found = kernel_check.check_kernels([name])[name]
    assert found.startswith(where) and "\n" not in found


def test_a_batch_norm_that_loses_nan_is_named(jt, monkeypatch):
    from backend import cuda_operators, kernel_check
    with cuda_kernels_on_cpu(()):
        right = cuda_operators.cuda_code
        monkeypatch.setattr(cuda_operators, "cuda_code",
                            lambda *args, **data: [jt.ones(y.shape) for y in right(*args, **data)])
        found = kernel_check.lost_nan()
    assert "should fill its channel" in found
