"""backend/operators.py against NumPy in double precision: values, gradients, every kind of edge."""
import numpy as np
import pytest
from expected import pool_windows, random, resize_matrix

pytestmark = pytest.mark.jittor
# batch, channels, height, width, outputs.  Less than a panel of tiles, several rows in a panel, odd
# sides, several panels.
SHAPES = [(1, 1, 3, 3, 1), (2, 3, 9, 11, 5), (1, 4, 40, 37, 9), (3, 2, 5, 6, 3), (1, 7, 50, 3, 4),
          (1, 16, 35, 70, 8), (1, 5, 4, 140, 12)]


@pytest.fixture
def kernels(jt):
    from backend import operators
    return operators


def taps(x, pad):
    """The nine shifted views of zero-padded images, float64.

    (9, N, C, H + 2 pad - 2, W + 2 pad - 2).
    """
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    height, width = x.shape[2] - 2, x.shape[3] - 2
    return np.stack([x[:, :, r:r + height, q:q + width] for r in range(3) for q in range(3)])


def close(found, expected, limit=1e-5):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= limit * np.abs(expected).max() + 1e-12


# ------------------------------------------------------------------------------------- convolution
@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("n, c, height, width, k", SHAPES)
def test_winograd_equals_the_sum(jt, kernels, n, c, height, width, k, pad):
    x, weight, bias = random(n, c, height, width), random(k, c, 3, 3), random(k)
    views = taps(x, pad)
    gradient = random(n, k, *views.shape[3:], seed=1)
    variables = jt.array(x), jt.array(weight), jt.array(bias)
    y = kernels.Winograd.apply(*variables, pad, False)
    expected = np.einsum("tnchw,kct->nkhw", views, weight.reshape(k, c, 9)) + bias[:, None, None]
    close(y.numpy(), expected)
    gradients = jt.grad((y * jt.array(gradient)).sum(), list(variables))
    of_x, of_weight, of_bias = (var.numpy() for var in gradients)
    expected = np.einsum("tnchw,nkhw->kct", views, gradient.astype(np.float64))
    close(of_weight, expected.reshape(weight.shape))
    close(of_bias, gradient.astype(np.float64).sum((0, 2, 3)))
    flipped = weight[:, :, ::-1, ::-1].reshape(k, c, 9)
    close(of_x, np.einsum("tnkhw,kct->nchw", taps(gradient, 2 - pad), flipped))


def test_winograd_without_bias_and_with_relu(jt, kernels):
    x, weight, bias = (jt.array(random(*shape)) for shape in ((1, 3, 20, 20), (4, 3, 3, 3), (4,)))
    plain, shifted, cut = (kernels.Winograd.apply(x, weight, b, 1, relu).numpy()
                           for b, relu in ((None, False), (bias, False), (bias, True)))
    close(shifted, plain + bias.numpy()[:, None, None])
    assert (cut == np.maximum(shifted, 0)).all() and (cut == 0).any()


def test_both_ways_of_a_convolution(jt, kernels):
    """Where there are few outputs and many channels Jittor's own runs: the results are the same."""
    for side, channels in ((6, 80), (40, 80)):
        conv = kernels.Conv(channels, channels, 3, padding=1)
        x = jt.array(random(1, channels, side, side))
        found = conv(x).numpy()
        with kernels.without_kernels():
            close(found, conv(x).numpy())


@pytest.mark.parametrize("options", [
    {"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2}, {"padding": 2}])
def test_other_convolutions_are_jittors(jt, kernels, options):
    conv, x = kernels.Conv(4, 6, 3, **options), jt.array(random(2, 4, 40, 40))
    assert (conv(x).numpy() == jt.nn.Conv.execute(conv, x).numpy()).all()


# -------------------------------------------------------------------- convolution, BatchNorm, ReLU
def layer(jt, kernels, bias, seed=0):
    conv, norm = kernels.Conv(3, 5, 3, padding=1, bias=bias), kernels.BatchNorm(5)
    rng = np.random.default_rng(seed)
    for module in (conv, norm):
        for var in module.state_dict().values():
            values = rng.uniform(0.5, 1.5, var.shape).astype(np.float32)
            var.assign(values * rng.choice([-1, 1], var.shape) if var.ndim == 4 else values)
    return conv, norm


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_training(jt, kernels, bias):
    """Value, gradients and running statistics are those of the layers one by one.

    The bias has no gradient.
    """
    x, gradient, results = random(2, 3, 30, 41), jt.array(random(2, 5, 30, 41, seed=1)), []
    for plain in (False, True):
        conv, norm = layer(jt, kernels, bias)
        variables = [jt.array(x), conv.weight, norm.weight, norm.bias]
        if bias:
            variables.append(conv.bias)
        if plain:
            with kernels.without_kernels():
                y = kernels.conv_norm_relu(conv, norm, variables[0])
        else:
            y = kernels.conv_norm_relu(conv, norm, variables[0])
        gradients = jt.grad((y * gradient).sum(), variables)
        found = y, *gradients[:4], norm.running_mean, norm.running_var
        results.append([var.numpy() for var in found])
        if bias and not plain:
            assert not gradients[4].numpy().any()
    for found, expected in zip(*results):
        close(found, expected, 2e-5)
    assert 0.05 < (results[0][0] == 0).mean() < 0.8


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_prediction(jt, kernels, bias):
    conv, norm = layer(jt, kernels, bias)
    norm.eval()
    x = jt.array(random(2, 3, 30, 41))
    found = kernels.conv_norm_relu(conv, norm, x).numpy()
    with kernels.without_kernels():
        close(found, kernels.conv_norm_relu(conv, norm, x).numpy())


def test_batch_norm_keeps_its_digits(jt, kernels):
    """Values of 1000 +- 1, for which E[x^2] - E[x]^2 would leave nothing in single precision."""
    x = 1000 + random(1, 2, 300, 300)
    y, mean, variance = kernels.NormReLU.apply(jt.array(x), jt.ones(2), jt.zeros(2), None, 1e-5)
    exact = x.astype(np.float64)
    close(mean.numpy(), exact.mean((0, 2, 3)), 1e-7)
    close(variance.numpy(), exact.var((0, 2, 3)), 1e-4)
    centred, variances = exact - exact.mean((2, 3), keepdims=True), exact.var((2, 3), keepdims=True)
    normalised = centred / np.sqrt(variances + 1e-5)
    close(y.numpy(), np.maximum(normalised, 0), 1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_lost(jt, kernels, value):
    """A ReLU by maximum would make 0 of NaN, and a damaged image would train the net unseen."""
    conv, norm = layer(jt, kernels, True)
    x = random(1, 3, 30, 41)
    x[0, 1, 5, 5] = value
    assert not np.isfinite(kernels.conv_norm_relu(conv, norm, jt.array(x)).numpy()).any()
    norm.eval()
    norm = layer(jt, kernels, True)[1].eval()
    assert not np.isfinite(kernels.conv_norm_relu(conv, norm, jt.array(x)).numpy()).all()


# --------------------------------------------------------------------------------- pool and resize
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("height, width", [(2, 2), (3, 5), (8, 70), (33, 34), (5, 101)])
def test_max_pool(jt, kernels, height, width, ceil_mode):
    """Against windows taken one by one; equal values: the first of the window gets the gradient."""
    x = np.round(random(2, 3, height, width))
    sides = [(side + ceil_mode) // 2 for side in (height, width)]
    gradient = random(2, 3, *sides, seed=1)
    expected, of_x = pool_windows(x, gradient)
    var = jt.array(x)
    y = kernels.MaxPool(ceil_mode)(var)
    assert (y.numpy() == expected).all()
    assert (jt.grad((y * jt.array(gradient)).sum(), var).numpy() == of_x).all()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size, out", [
    ((4, 5), (8, 10)), ((7, 9), (13, 17)), ((1, 1), (32, 3)), ((20, 30), (9, 7)),
    ((33, 17), (34, 33))])
def test_resize(jt, kernels, size, out, align_corners):
    """Both directions are products with the matrices of the rows and of the columns."""
    x, gradient = random(2, 3, *size), random(2, 3, *out, seed=1)
    rows, columns = (resize_matrix(length, side, align_corners) for length, side in zip(size, out))
    var = jt.array(x)
    y = kernels.resize(var, *out, align_corners)
    close(y.numpy(), rows @ x @ columns.T)
    close(jt.grad((y * jt.array(gradient)).sum(), var).numpy(), rows.T @ gradient @ columns)


# ---------------------------------------------------------------------------------------- the rest
def test_a_net_without_kernels_is_the_same(jt, kernels, build):
    """One step of a whole net: its loss and gradients, with and without the kernels."""
    x, results = jt.array(random(1, 1, 48, 64)), []
    for plain in (False, True):
        jt.set_global_seed(1)
        model = build("U2netS", 1, 2)
        model.train()
        if plain:
            with kernels.without_kernels():
                y = model(x)
        else:
            y = model(x)
        results.append([y.numpy(), jt.grad(y.sqr().mean(), model.outconv.weight).numpy()])
    for found, expected in zip(*results):
        close(found, expected, 1e-3)
