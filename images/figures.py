"""Matplotlib figures, drawn into files."""
import contextlib
import io

from command.files import atomic_write


def use_agg():
    """Matplotlib's pyplot for drawing into files; imported late because it takes a second."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    return pyplot


# ----------------------------------------------------------------------------------------------------------- the curves
@contextlib.contextmanager
def figure(path, rows, columns, size, dpi=100):
    """`with figure(...) as axes:` draw on the (rows, columns) array of axes; then it is written to `path`.

    path: a PNG file, or a BytesIO that receives an SVG without background; size: width and height in inches.
    """
    pyplot = use_agg()
    made, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    try:
        yield axes
        if isinstance(path, io.BytesIO):
            made.savefig(path, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        else:
            with atomic_write(path) as temporary:
                made.savefig(temporary, dpi=dpi)
    finally:
        pyplot.close(made)
