"""What operators should give, computed in NumPy, for the tests of their kernels."""
import numpy as np


def random(*shape, seed=0):
    """float32 numbers, the same for the same shape and seed."""
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def close(found, expected, limit=1e-5):
    """Assert that two arrays differ by no more than a share of the largest number."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= limit * np.abs(expected).max() + 1e-12


def pool_windows(x, gradient):
    """(2x2 max-pool of x, the gradient of x), window by window.

    gradient: of the result, in its shape.  Of equal values the first one of a window gets it.
    """
    y, of_x = np.zeros_like(gradient), np.zeros_like(x)
    for n, c, i, j in np.ndindex(gradient.shape):
        window = x[n, c, 2 * i:2 * i + 2, 2 * j:2 * j + 2]
        y[n, c, i, j] = window.max()
        row, column = np.unravel_index(window.argmax(), window.shape)
        of_x[n, c, 2 * i + row, 2 * j + column] = gradient[n, c, i, j]
    return y, of_x


def resize_matrix(length, out, align_corners):
    """(out, length): every output's share of every input, in double precision."""
    if align_corners:
        at = np.arange(out) * ((length - 1) / max(1, out - 1))
    else:
        at = np.maximum((np.arange(out) + 0.5) * length / out - 0.5, 0)
    first = np.minimum(at.astype(int), length - 1)
    second, share = np.minimum(first + 1, length - 1), at - first
    matrix = np.zeros((out, length))
    np.add.at(matrix, (np.arange(out), first), 1 - share)
    np.add.at(matrix, (np.arange(out), second), share)
    return matrix
