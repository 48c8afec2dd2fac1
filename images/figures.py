"""Matplotlib figures, drawn into files.

    with figure("picture.png", 1, 2, (11, 4)) as axes:
        axes[0, 0].plot([1, 2, 3])
"""
import contextlib
import io

from command.files import atomic_write


@contextlib.contextmanager
def figure(target, rows, columns, size, dpi=100):
    """`with figure(...) as axes:` draw on the (rows, columns) array of axes.  Then it is written.

    target: the path of a PNG file, or a BytesIO, which receives an SVG without background; size:
    width and height in inches; dpi: pixels of the PNG per inch.  `axes[0, 0].figure` is the whole
    figure, for a title or a colour bar.  A file is written whole or not at all: where drawing
    fails, an older one stays.  Nothing else holds the figure, as pyplot would: it needs no closing.
    """
    from matplotlib.figure import Figure  # imported late: it takes half a second
    made = Figure(figsize=size, layout="constrained")
    yield made.subplots(rows, columns, squeeze=False)
    if isinstance(target, io.BytesIO):
        made.savefig(target, format="svg", transparent=True,
                     metadata={"Date": None, "Creator": None})
    else:
        with atomic_write(target) as temporary:
            made.savefig(temporary, dpi=dpi)
