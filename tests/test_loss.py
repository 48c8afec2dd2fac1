"""Loss.py: the losses and their gradients against NumPy in double precision."""
import numpy as np
import pytest

from Loss import (
    LOSSES,
    cross_entropy_and_dice,
    deep_supervision_loss,
    soft_dice_loss,
    weighted_cross_entropy,
)

pytestmark = pytest.mark.jittor


def expected(logits, label, weight_map):
    """Loss and gradient in float64.

    The loss is the mean of w * (log sum exp - logit of the label), the gradient
    w * (softmax - one-hot) / pixels.
    """
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    total = np.exp(shifted).sum(1, keepdims=True)
    one_hot = np.arange(logits.shape[1])[:, None, None] == label[:, None]
    loss = np.mean(weight_map * (np.log(total) - (shifted * one_hot).sum(1, keepdims=True))[:, 0])
    return loss, weight_map[:, None] * (np.exp(shifted) / total - one_hot) / label.size


def problem(classes=2, scale=3.0, batch=2, size=(6, 7), seed=0):
    rng = np.random.default_rng(seed)
    return ((rng.standard_normal((batch, classes, *size)) * scale).astype(np.float32),
            rng.integers(0, classes, (batch, *size)).astype(np.int32),
            (rng.random((batch, *size)) * 10).astype(np.float32))


def in_jittor(logits, label, weight_map):
    """Loss and gradient as Loss.py computes them."""
    from backend.start import jt
    logits = jt.array(logits)
    loss = weighted_cross_entropy(logits, jt.array(label), jt.array(weight_map))
    return loss.item(), jt.grad(loss, logits).numpy()


def compare(*arguments):
    loss, gradient = in_jittor(*arguments)
    true_loss, true_gradient = expected(*arguments)
    assert loss == pytest.approx(true_loss, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(gradient, true_gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("classes, scale", [(2, 3.0), (5, 3.0), (2, 0.0), (2, 1e4), (5, 1e4)])
def test_equals_numpy(classes, scale):
    compare(*problem(classes, scale))


def test_pixels_of_no_class_and_no_weight_have_no_gradient():
    logits, label, weight_map = problem()
    label[:, 2:4], weight_map[:, 2:4] = -1, 0
    compare(logits, label, weight_map)
    assert not in_jittor(logits, label, weight_map)[1][:, :, 2:4].any()


@pytest.mark.parametrize("right", [True, False])
def test_extreme_logits(right):
    _, label, weight_map = problem()
    sign = np.where((np.arange(2)[:, None, None] == label[:, None]) == right, 1, -1)
    compare((sign * 1e4).astype(np.float32), label, weight_map)


def test_gradient_equals_finite_differences():
    logits, label, weight_map = problem(size=(2, 2), batch=1)
    _, gradient = in_jittor(logits, label, weight_map)
    for index in np.ndindex(logits.shape):
        step = np.zeros(logits.shape)
        step[index] = 1e-4
        above, below = (expected(logits + sign * step, label, weight_map)[0] for sign in (1, -1))
        slope = (above - below) / 2e-4
        assert gradient[index] == pytest.approx(slope, abs=1e-5)


def test_pixels_of_weight_zero_do_not_count():
    logits, label, weight_map = problem()
    weight_map[:, :3] = 0
    loss, gradient = in_jittor(logits, label, weight_map)
    assert not gradient[:, :, :3].any() and gradient[:, :, 3:].all()
    logits[:, :, :3], label[:, :3] = 50, 1 - label[:, :3]
    assert in_jittor(logits, label, weight_map)[0] == pytest.approx(loss, rel=1e-6)


def test_logits_are_left_as_they_were():
    from backend.start import jt
    logits, label, weight_map = problem()
    given = jt.array(logits)
    for _ in range(2):  # the same Var, as when a loss is computed twice
        loss = weighted_cross_entropy(given, jt.array(label), jt.array(weight_map))
        gradient, (_, true_gradient) = jt.grad(loss, given), expected(logits, label, weight_map)
        np.testing.assert_allclose(gradient.numpy(), true_gradient, rtol=1e-4, atol=1e-7)
    assert (given.numpy() == logits).all()


def test_deep_supervision_is_the_sum():
    from backend.start import jt
    _, label, weight_map = problem()
    sides = [problem(seed=seed)[0] for seed in range(7)]
    variables = [jt.array(logits) for logits in sides]
    loss = deep_supervision_loss(variables, jt.array(label), jt.array(weight_map))
    gradients = jt.grad(loss, variables)
    each = [expected(logits, label, weight_map) for logits in sides]
    assert loss.item() == pytest.approx(sum(value for value, _ in each), rel=1e-5)
    for gradient, (_, true_gradient) in zip(gradients, each):
        np.testing.assert_allclose(gradient.numpy(), true_gradient, rtol=1e-4, atol=1e-7)


def soft_dice_by_hand(logits, label, weight_map):
    logits = logits.astype(np.float64)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    probability, known = odds / odds.sum(1, keepdims=True), weight_map > 0
    losses = []
    for k in range(1, logits.shape[1]):
        predicted, true = probability[:, k][known], (label == k)[known]
        losses.append(1 - (2 * predicted[true].sum() + 1) / (predicted.sum() + true.sum() + 1))
    return np.mean(losses)


@pytest.mark.parametrize("classes, scale", [(2, 3.0), (5, 3.0), (2, 0.0), (4, 1e4)])
def test_soft_dice(classes, scale):
    from backend.start import jt
    logits, label, weight_map = problem(classes, scale)
    weight_map[:, :2], label[:, :2] = 0, -1
    given = jt.array(logits)
    loss = soft_dice_loss(given, jt.array(label), jt.array(weight_map))
    assert loss.item() == pytest.approx(soft_dice_by_hand(logits, label, weight_map), rel=1e-5)
    gradient = jt.grad(loss, given).numpy()
    assert np.isfinite(gradient).all() and not gradient[:, :, :2].any()
    if scale == 3:
        step = np.zeros(logits.shape)
        step[0, 1, 3, 3] = 1e-4
        above, below = (soft_dice_by_hand(logits + sign * step, label, weight_map)
                        for sign in (1, -1))
        slope = (above - below) / 2e-4
        assert gradient[0, 1, 3, 3] == pytest.approx(slope, rel=1e-3)


def test_soft_dice_of_a_class_that_nobody_saw_is_right():
    from backend.start import jt
    logits = np.zeros((1, 3, 4, 4), np.float32)
    label = np.zeros((1, 4, 4), np.int32)
    label[0, :2], logits[0, 0, 2:], logits[0, 1, :2] = 1, 50, 50
    weight_map = np.ones((1, 4, 4), np.float32)
    loss = soft_dice_loss(*map(jt.array, (logits, label, weight_map)))
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_cross_entropy_and_dice_are_added():
    from backend.start import jt
    parts = [jt.array(part) for part in problem()]
    expected = weighted_cross_entropy(*parts).item() + soft_dice_loss(*parts).item()
    both = LOSSES["ce_dice"].compute
    assert both(*parts).item() == pytest.approx(expected, rel=1e-6)
    loss = deep_supervision_loss(parts[:1] * 3, *parts[1:], both)
    assert loss.item() == pytest.approx(3 * expected, rel=1e-6)


def test_rows():
    """The weight map belongs to the paper's loss alone."""
    assert {name: row.compute for name, row in LOSSES.items()} == {
        "weighted_ce": weighted_cross_entropy, "ce": weighted_cross_entropy,
        "ce_dice": cross_entropy_and_dice}
    assert [name for name, row in LOSSES.items() if row.wants_weight_map] == ["weighted_ce"]
    assert len({row.title for row in LOSSES.values()}) == len(LOSSES)


def test_refuses_shapes_that_do_not_fit():
    from backend.start import jt
    logits, label, weight_map = (jt.array(part) for part in problem())
    for wrong in ((logits, label[:1], weight_map), (logits, label, weight_map[:, :5]),
                  (logits[:, :, :5], label, weight_map)):
        for loss in (weighted_cross_entropy, soft_dice_loss):
            with pytest.raises(ValueError):
                loss(*wrong)
