"""backend/operators.py on a CPU, in NumPy's double precision: values, gradients, all edges."""
import numpy as np
import pytest
from expected import close, pool_windows, random, resize_matrix
from kernel_library import has_bf16

pytestmark = pytest.mark.jittor
# The most that a sum may be off, as a share of the sum of magnitudes.  A bf16 number has 8 bits.
# Winograd's algorithm rounds sums of four products' factors.
LIMITS = {"float32": 1e-6, "bfloat16": 2 ** -7}
ELEMENT_TYPES = ["float32", pytest.param("bfloat16", marks=pytest.mark.skipif(
    not has_bf16(), reason="this processor does not multiply bf16 numbers"))]
both_types = pytest.mark.parametrize("element", ELEMENT_TYPES)


@pytest.fixture
def kernels(jt):
    from backend import operators
    return operators


class Activation:
    """A random activation with the channels last, and what it holds, as NumPy has it."""

    def __init__(self, jt, shape, element, seed=0, values=None):
        from backend.operators import enter, leave
        values = random(*shape, seed=seed) if values is None else values
        self.var = jt.array(values)
        self.x = enter(self.var, element)
        self.values = leave(self.x).numpy()

    def gradients_of(self, jt, loss, *more):
        return [var.numpy() for var in jt.grad(loss, [self.var, *more])]


def rounded(jt, values, element):
    """Float32 numbers as an activation of this type has them."""
    return Activation(jt, None, element, values=values).values


def near(found, expected, size, element):
    """Assert that sums differ by no more than rounding allows.  size: the sums of magnitudes."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= LIMITS[element] * np.abs(size).max() + 1e-12


def taps(x, pad, dilation=1):
    """The nine shifted views of zero-padded images, float64: (9, N, C, h, w)."""
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    height, width = (side - 2 * dilation for side in x.shape[2:])
    return np.stack([x[:, :, r:r + height, q:q + width]
                     for r in range(0, 3 * dilation, dilation)
                     for q in range(0, 3 * dilation, dilation)])


# ------------------------------------------------------------------------------ in and out
@both_types
@pytest.mark.parametrize("shape", [(1, 1, 3, 5), (2, 3, 7, 9), (1, 16, 8, 8), (3, 37, 5, 17)])
def test_there_and_back(jt, kernels, shape, element):
    x = random(*shape)
    found = rounded(jt, x, element)
    assert (np.abs(found - x) <= (0 if element == "float32" else 2 ** -8) * np.abs(x)).all()
    values = kernels.enter(jt.array(x), element).values
    assert values.dtype == element and not values.numpy()[..., shape[1]:].any()
    var, gradient = jt.array(x), rounded(jt, random(*shape, seed=1), element)
    loss = (kernels.leave(kernels.enter(var, element)) * jt.array(gradient)).sum()
    assert (jt.grad(loss, var).numpy() == gradient).all()


def test_who_stays_outside(jt, kernels):
    """Double precision and a net without our kernels keep Jittor's layout."""
    for x in (jt.array(random(1, 2, 4, 4).astype(np.float64)).float64(), jt.zeros((1, 2, 4, 4))):
        with kernels.without_kernels():
            assert kernels.enter(x) is x
    assert kernels.enter(jt.zeros((1, 2, 4, 4)).float64()).dtype == "float64"
    assert kernels.leave(x) is x


# ------------------------------------------------------------------------------------- convolution
# Batch, channels, height, width, outputs: less than a block of tiles, odd sides, several blocks.
SHAPES = [(1, 1, 3, 3, 1), (2, 3, 9, 11, 5), (1, 20, 40, 37, 9), (3, 2, 5, 6, 33), (1, 7, 50, 3, 4),
          (1, 16, 35, 70, 16)]


@both_types
@pytest.mark.parametrize("pad, dilation", [(0, 1), (1, 1), (2, 2), (4, 4)])
@pytest.mark.parametrize("n, c, height, width, k", SHAPES)
def test_a_convolution_equals_the_sum(jt, kernels, n, c, height, width, k, pad, dilation, element):
    conv = kernels.Conv(c, k, 3, padding=pad, dilation=dilation)
    one = Activation(jt, (n, c, height, width), element)
    weight, bias, x = conv.weight.numpy().reshape(k, c, 9), conv.bias.numpy(), one.values
    views = taps(x, pad, dilation)
    y = kernels.leave(conv(one.x))
    gradient = rounded(jt, random(*y.shape, seed=1), element)
    of_x, of_weight, of_bias = one.gradients_of(jt, (y * jt.array(gradient)).sum(), conv.weight,
                                                conv.bias)

    def sums(absolute):
        """Of the output, the weight's gradient and the input's, or of their magnitudes."""
        v, w, g = (absolute(array.astype(np.float64)) for array in (views, weight, gradient))
        flipped = taps(g, 2 * dilation - pad, dilation)
        return (np.einsum("tnchw,kct->nkhw", v, w),
                np.einsum("tnchw,nkhw->kct", v, g).reshape(k, c, 3, 3),
                np.einsum("tnkhw,kct->nchw", flipped, w[:, :, ::-1]))
    (expected, gw, gx), (size, gw_size, gx_size) = sums(np.asarray), sums(np.abs)
    size, gx_size = size + np.abs(weight).max(), gx_size + np.abs(weight).max()  # of hidden taps
    near(y.numpy(), expected + bias[:, None, None], size + np.abs(bias).max(), element)
    near(of_weight, gw, gw_size, element)
    near(of_x, gx, gx_size, element)
    near(of_bias, gradient.astype(np.float64).sum((0, 2, 3)), np.abs(gradient).sum((0, 2, 3)),
         element)


@both_types
@pytest.mark.parametrize("sizes, whole, pad", [
    (((20, 24), (10, 12)), (10, 12), 0),   # the first one is cropped
    (((11, 14), (10, 12)), (11, 14), 1),   # the second one gets zeros
    (((11, 13), (12, 12), (9, 13)), (11, 13), 0)])
def test_a_convolution_of_parts(jt, kernels, sizes, whole, pad, element):
    """It sees what `join` says, without copying it, and gives each part its gradient."""
    channels = (5, 19, 2)[:len(sizes)]
    parts = [Activation(jt, (2, c, *size), element, seed)
             for seed, (c, size) in enumerate(zip(channels, sizes))]
    conv, results = kernels.Conv(sum(channels), 7, 3, padding=pad), []
    for plain in (False, True):
        inputs = [jt.array(part.values) for part in parts]
        if plain:
            with kernels.without_kernels():
                y = conv(kernels.join(inputs, *whole))
        else:
            entered = [kernels.enter(var, element) for var in inputs]
            y = kernels.leave(conv(kernels.join(entered, *whole)))
        gradient = jt.array(rounded(jt, random(*y.shape, seed=9), element))
        variables = [*inputs, conv.weight, conv.bias]
        results.append([var.numpy() for var in (y, *jt.grad((y * gradient).sum(), variables))])
    for found, expected in zip(*results):
        close(found, expected, 2e-5 if element == "float32" else 2e-2)


@pytest.mark.parametrize("options", [
    {"kernel_size": 3, "stride": 2}, {"kernel_size": 3, "groups": 2},
    {"kernel_size": 5, "padding": 2}, {"kernel_size": 1, "stride": 2},
    {"kernel_size": 3, "padding": (1, 0)}])
def test_other_convolutions_are_jittors(jt, kernels, options):
    conv, x = kernels.Conv(4, 6, **options), jt.array(random(2, 4, 40, 40))
    found = kernels.leave(conv(kernels.enter(x))).numpy()
    assert (found == jt.nn.Conv.execute(conv, x).numpy()).all()
    assert (conv(x).numpy() == found).all()


@both_types
@pytest.mark.parametrize("bias", [True, False])
def test_a_pointwise_convolution(jt, kernels, bias, element):
    conv, one = kernels.Conv(37, 5, 1, bias=bias), Activation(jt, (2, 37, 9, 11), element)
    y = kernels.leave(conv(one.x))
    gradient = rounded(jt, random(2, 5, 9, 11, seed=1), element)
    variables = [conv.weight] + ([conv.bias] if bias else [])
    of_x, of_weight, *of_bias = one.gradients_of(jt, (y * jt.array(gradient)).sum(), *variables)
    x, g = one.values.astype(np.float64), gradient.astype(np.float64)
    w = conv.weight.numpy()[:, :, 0, 0].astype(np.float64)
    shift = conv.bias.numpy()[:, None, None] if bias else 0
    near(y.numpy(), np.einsum("nchw,kc->nkhw", x, w) + shift,
         np.einsum("nchw,kc->nkhw", abs(x), abs(w)), element)
    near(of_x, np.einsum("nkhw,kc->nchw", g, w), np.einsum("nkhw,kc->nchw", abs(g), abs(w)),
         element)
    near(of_weight[:, :, 0, 0], np.einsum("nkhw,nchw->kc", g, x),
         np.einsum("nkhw,nchw->kc", abs(g), abs(x)), element)
    if bias:
        near(of_bias[0], g.sum((0, 2, 3)), abs(g).sum((0, 2, 3)), element)


@both_types
@pytest.mark.parametrize("bias", [True, False])
def test_a_transposed_convolution(jt, kernels, bias, element):
    conv = kernels.ConvTranspose(19, 6, 2, stride=2, bias=bias)
    one, results = Activation(jt, (2, 19, 5, 7), element), []
    gradient = jt.array(rounded(jt, random(2, 6, 10, 14, seed=1), element))
    for plain in (False, True):
        var = jt.array(one.values)
        y = conv(var) if plain else kernels.leave(conv(kernels.enter(var, element)))
        variables = [var, conv.weight] + ([conv.bias] if bias else [])
        results.append([found.numpy() for found in
                        (y, *jt.grad((y * gradient).sum(), variables))])
    for found, expected in zip(*results):
        close(found, expected, 1e-5 if element == "float32" else 1e-2)


def test_another_transposed_convolution_is_jittors(jt, kernels):
    conv, x = kernels.ConvTranspose(4, 6, 3, stride=2, padding=1), jt.array(random(2, 4, 9, 8))
    assert (kernels.leave(conv(kernels.enter(x))).numpy() == conv(x).numpy()).all()


# -------------------------------------------------------------------- convolution, BatchNorm, ReLU
def layer(jt, kernels, bias, channels=3, seed=0):
    conv = kernels.Conv(channels, 5, 3, padding=1, bias=bias)
    norm = kernels.BatchNorm(5)
    rng = np.random.default_rng(seed)
    for module in (conv, norm):
        for var in module.state_dict().values():
            values = rng.uniform(0.5, 1.5, var.shape).astype(np.float32)
            var.assign(values * rng.choice([-1, 1], var.shape) if var.ndim == 4 else values)
    return conv, norm


def run_layer(kernels, conv, norm, x, add, element):
    """`conv_norm_relu` of Vars: by our kernels, or with None as the element type by Jittor's."""
    if element is None:
        with kernels.without_kernels():
            return kernels.conv_norm_relu(conv, norm, x, add)
    x, add = (None if var is None else kernels.enter(var, element) for var in (x, add))
    return kernels.leave(kernels.conv_norm_relu(conv, norm, x, add))


@both_types
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_training(jt, kernels, bias, added, element):
    """Value, gradients and running statistics are those of the layers one by one.

    The bias has no gradient.
    """
    x, add = (rounded(jt, random(2, channels, 30, 41), element) for channels in (3, 5))
    gradient, results = jt.array(rounded(jt, random(2, 5, 30, 41, seed=1), element)), []
    for plain in (False, True):
        conv, norm = layer(jt, kernels, bias)
        variables = [jt.array(x), conv.weight, norm.weight, norm.bias]
        variables += [jt.array(add)] * added + [conv.bias] * bias
        y = run_layer(kernels, conv, norm, variables[0], variables[4] if added else None,
                      None if plain else element)
        gradients = jt.grad((y * gradient).sum(), variables)
        found = y, *gradients[:4 + added], norm.running_mean, norm.running_var
        results.append([var.numpy() for var in found])
        if bias and not plain:
            assert not gradients[-1].numpy().any()
    for found, expected in zip(*results):
        if element == "float32":
            close(found, expected, 2e-5)
        else:  # rounding opens or closes a ReLU here and there
            assert np.linalg.norm(found - expected) <= 0.04 * np.linalg.norm(expected)
    assert 0.05 < (results[1][0] == (add if added else 0)).mean() < 0.8


@both_types
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_prediction(jt, kernels, bias, added, element):
    """Its value, and where BatchNorm alone is frozen all gradients."""
    conv, norm = layer(jt, kernels, bias)
    norm.eval()
    x, add = (jt.array(rounded(jt, random(2, channels, 30, 41), element)) for channels in (3, 5))
    results, limit = [], 1e-5 if element == "float32" else 1e-2
    for kind in (element, None):
        variables = [x, conv.weight, norm.weight, norm.bias] + [conv.bias] * bias + [add] * added
        y = run_layer(kernels, conv, norm, x, add if added else None, kind)
        gradient = jt.array(rounded(jt, random(2, 5, 30, 41, seed=1), element))
        results.append([var.numpy() for var in (y, *jt.grad((y * gradient).sum(), variables))])
    for found, expected in zip(*results):
        close(found, expected, limit)
    with jt.no_grad():
        found = run_layer(kernels, conv, norm, x, add if added else None, element)
        close(found.numpy(), results[1][0], limit)


def test_prediction_sees_every_change(jt, kernels):
    """The packed filters are kept, but never beyond a change of what they are made of."""
    conv, norm = layer(jt, kernels, True)
    norm.eval()
    x, other = jt.array(random(1, 3, 12, 13)), layer(jt, kernels, True, seed=1)

    def predict(element="float32"):
        with jt.no_grad():
            return run_layer(kernels, conv, norm, x, None, element).numpy()
    predict()
    kept = conv._packed
    predict()
    assert conv._packed is kept
    close(predict("bfloat16"), predict(None), 2e-2)
    for module, source in zip((conv, norm), other):
        for name, var in module.state_dict().items():
            changes = (var.assign, var.update,
                       lambda value: module.load_parameters({name: value.numpy()}))
            for number, change in enumerate(changes):
                before = predict()
                change(source.state_dict()[name] + 0.1 * number)
                assert np.abs(predict() - before).max() > 1e-4
                close(predict(), predict(None))
    assert not [name for name in conv.state_dict() if "packed" in name]
    norm.train()
    predict()
    assert conv._packed is None  # training needs the memory


def test_batch_norm_keeps_its_digits(jt, kernels):
    """Values of 1000 +- 1, for which E[x^2] - E[x]^2 would leave nothing in single precision."""
    x, conv, norm = 1000 + random(1, 2, 300, 300), kernels.Conv(2, 2, 3, bias=False), None
    identity = np.zeros((2, 2, 3, 3), np.float32)
    identity[[0, 1], [0, 1], 1, 1] = 1
    conv.weight.assign(identity)
    norm = kernels.BatchNorm(2, momentum=1)
    y = run_layer(kernels, conv, norm, jt.array(x), None, "float32")
    exact = x.astype(np.float64)[:, :, 1:-1, 1:-1]
    close(norm.running_mean.numpy(), exact.mean((0, 2, 3)), 1e-6)
    close(norm.running_var.numpy(), exact.var((0, 2, 3), ddof=1), 1e-3)
    centred, variances = exact - exact.mean((2, 3), keepdims=True), exact.var((2, 3), keepdims=True)
    close(y.numpy(), np.maximum(centred / np.sqrt(variances + 1e-5), 0), 1e-3)


@both_types
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_lost(jt, kernels, value, element):
    """A ReLU by maximum would make 0 of NaN, and a damaged image would train the net unseen."""
    x = random(1, 3, 30, 41)
    x[0, 1, 5, 5] = value
    conv, norm = layer(jt, kernels, True)
    assert not np.isfinite(run_layer(kernels, conv, norm, jt.array(x), None, element).numpy()).any()
    norm = layer(jt, kernels, True)[1].eval()
    with jt.no_grad():
        y = run_layer(kernels, conv, norm, jt.array(x), None, element).numpy()
    assert not np.isfinite(y).all()


# ----------------------------------------------------------------------- pool, resize and dropout
@both_types
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("height, width", [(2, 2), (3, 5), (8, 70), (33, 34), (5, 101)])
def test_max_pool(jt, kernels, height, width, ceil_mode, element):
    """Against windows taken one by one; equal values: the first of the window gets the gradient."""
    one = Activation(jt, None, element, values=np.round(random(2, 19, height, width)))
    sides = [(side + ceil_mode) // 2 for side in (height, width)]
    gradient = rounded(jt, random(2, 19, *sides, seed=1), element)
    expected, of_x = pool_windows(one.values, gradient)
    y = kernels.leave(kernels.MaxPool(ceil_mode)(one.x))
    assert (y.numpy() == expected).all()
    assert (one.gradients_of(jt, (y * jt.array(gradient)).sum())[0] == of_x).all()


RESIZES = [((4, 5), (8, 10)), ((7, 9), (13, 17)), ((1, 1), (32, 3)), ((20, 30), (9, 7)),
           ((33, 17), (34, 33))]


@both_types
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size, out", RESIZES)
@pytest.mark.parametrize("channels", [3, 70])
def test_resize(jt, kernels, size, out, align_corners, channels, element):
    """Both directions are products with the matrices of the rows and of the columns."""
    one = Activation(jt, (2, channels, *size), element)
    gradient = rounded(jt, random(2, channels, *out, seed=1), element)
    rows, columns = (resize_matrix(length, side, align_corners) for length, side in zip(size, out))
    y = kernels.leave(kernels.resize(one.x, *out, align_corners))
    limit = 1e-5 if element == "float32" else 2 ** -8
    close(y.numpy(), rows @ one.values @ columns.T, limit)
    close(one.gradients_of(jt, (y * jt.array(gradient)).sum())[0], rows.T @ gradient @ columns,
          limit)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size, out", RESIZES)
def test_resize_of_planes(jt, kernels, size, out, align_corners):
    x, gradient = random(2, 3, *size), random(2, 3, *out, seed=1)
    rows, columns = (resize_matrix(length, side, align_corners) for length, side in zip(size, out))
    var = jt.array(x)
    y = kernels.resize(var, *out, align_corners)
    close(y.numpy(), rows @ x @ columns.T)
    close(jt.grad((y * jt.array(gradient)).sum(), var).numpy(), rows.T @ gradient @ columns)


def test_a_pointwise_convolution_of_planes(jt, kernels):
    """Of joined Vars, by our kernel and by Jittor's: several parts, samples and blocks."""
    arrays, conv, results = [random(2, c, 50, 61) for c in (2, 1, 4)], kernels.Conv(7, 3, 1), []
    gradient = jt.array(random(2, 3, 50, 61, seed=1))
    for plain in (False, True):
        inputs = [jt.array(array) for array in arrays]
        if plain:
            with kernels.without_kernels():
                y = conv(kernels.join(inputs, 50, 61))
        else:
            y = conv(kernels.join(inputs, 50, 61))
        found = jt.grad((y * gradient).sum(), [*inputs, conv.weight, conv.bias])
        results.append([var.numpy() for var in (y, *found)])
    for found, expected in zip(*results):
        close(found, expected)


@both_types
def test_dropout(jt, kernels, element):
    """The share is right, what stays grows, the gradient has the same places, seeds differ."""
    one, drop = Activation(jt, (2, 19, 90, 80), element), kernels.Dropout(0.3)
    assert drop.eval()(one.x) is one.x
    drop.train()
    first = drop(one.x)
    y = kernels.leave(first)
    found, gradient = y.numpy(), one.gradients_of(jt, y.sum())[0]
    stays = found != 0
    assert abs(stays.mean() - 0.7) < 4 * np.sqrt(0.21 / stays.size)
    limit = 1e-6 if element == "float32" else 2 ** -8
    close(found[stays], one.values[stays] / np.float32(0.7), limit)
    close(gradient, stays / np.float32(0.7), limit)
    for axis in range(4):  # no pattern along any axis
        side = np.moveaxis(stays, axis, 0)
        assert abs(np.mean(side[1:] == side[:-1]) - 0.58) < 0.01
    again = kernels.leave(drop(one.x)).numpy() != 0
    assert abs((again == stays).mean() - 0.58) < 0.01


# ------------------------------------------------------------------------------- several uses
@both_types
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_gradients_of_several_uses_add_up(jt, kernels, order, element):
    """Whatever the order in which a convolution, a pool and a resize read an activation."""
    one = Activation(jt, (1, 5, 12, 14), element)
    conv, pool = kernels.Conv(5, 4, 3, padding=1), kernels.MaxPool()
    uses = [conv, pool, lambda x: kernels.resize(x, 18, 21, False)]

    def gradient_of(numbers, x):
        outputs = [kernels.leave(uses[number](x)) for number in numbers]
        factors = [rounded(jt, random(*y.shape, seed=1), element) for y in outputs]
        loss = sum((y * jt.array(factor)).sum() for y, factor in zip(outputs, factors))
        return loss
    found, = one.gradients_of(jt, gradient_of(order, one.x))
    alone = 0
    for number in order:
        again = Activation(jt, None, element, values=one.values)
        alone = alone + again.gradients_of(jt, gradient_of([number], again.x))[0]
    close(found, alone, 1e-6 if element == "float32" else 2e-2)


def test_uses_without_gradient(jt, kernels):
    """An activation that comes from no parameter, and one in no_grad, may be used twice too."""
    x = kernels.enter(jt.array(random(1, 3, 8, 8)).stop_grad())
    conv, pool = kernels.Conv(3, 4, 3), kernels.MaxPool()
    loss = kernels.leave(conv(x)).sum() + kernels.leave(pool(x)).sum()
    assert jt.grad(loss, conv.weight).numpy().any()
    with jt.no_grad():
        first, second = (kernels.leave(conv(x)).numpy() for _ in range(2))
    assert (first == second).all()


# ---------------------------------------------------------------------------------------- the rest
@pytest.mark.parametrize("mode, options, side", [
    ("U2netS", {}, 96), ("Unet", {"base_channels": 4, "bilinear": False}, 188),
    ("Unet", {"base_channels": 4, "padding": 1}, 70)])
def test_a_net_without_kernels_is_the_same(jt, kernels, build, mode, options, side):
    """One step of a whole net: its loss and gradients, with and without the kernels."""
    x, results = jt.array(random(1, 1, side, side)), []
    for plain in (False, True):
        jt.set_global_seed(1)
        model = build(mode, 1, 2, **options)
        model.train()
        last = model.outconv if mode == "U2netS" else model.outc.conv
        if plain:
            with kernels.without_kernels():
                y = model(x)
        else:
            y = model(x)
        results.append([y.numpy(), jt.grad(y.sqr().mean(), last.weight).numpy()])
    for found, expected in zip(*results):
        close(found, expected, 1e-3)


@pytest.mark.skipif(not has_bf16(), reason="this processor does not multiply bf16 numbers")
@pytest.mark.parametrize("mode, options, side", [
    ("U2netS", {}, 160), ("Unet", {"base_channels": 8}, 252)])
def test_a_net_in_bfloat16_learns_too(jt, kernels, build, mode, options, side):
    """It begins as the same net in float32 does, and its loss falls as well."""
    from backend.optimizers import build_optimizer
    x, losses = jt.array(random(1, 1, side, side)), {}
    for element in LIMITS:
        jt.set_global_seed(1)
        model = build(mode, 1, 2, **options)
        model.element_type = element
        model.train()
        optimizer, losses[element] = build_optimizer("adam", model, 1e-3), []
        for _ in range(12):
            y = model(x)
            loss = (y - 1).sqr().mean()
            optimizer.step(loss)
            losses[element].append(loss.item())
        assert y.dtype == "float32" and losses[element][-1] < 0.8 * losses[element][0]
    assert losses["bfloat16"][0] == pytest.approx(losses["float32"][0], rel=0.1)
