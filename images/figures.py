"""Matplotlib figures, drawn into files.

    with figure("picture.png", 1, 2, (11, 4)) as axes:
        axes[0, 0].plot([1, 2, 3])
"""
import contextlib
import io
import logging
import os
import warnings

from command.files import atomic_write

# File names stand in pictures.  Two dollar signs in one are no formula.
PLAIN_TEXT = {"text.parse_math": False, "text.usetex": False}


def import_matplotlib():
    """The module Matplotlib, for pictures in files.  Imported late: it takes half a second.

    MPLBACKEND names what opens windows.  A notebook hands its own on to the commands that it
    starts, where it may not be installed.  So it does not count here.  What Matplotlib says about
    its settings and folders does not concern who draws a curve.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    before = os.environ.get("MPLBACKEND")
    os.environ["MPLBACKEND"] = "agg"
    try:
        import matplotlib
    finally:
        del os.environ["MPLBACKEND"]
        if before is not None:
            os.environ["MPLBACKEND"] = before
    return matplotlib


@contextlib.contextmanager
def figure(target, rows, columns, size, dpi=100):
    """`with figure(...) as axes:` draw on the (rows, columns) array of axes.  Then it is written.

    target: the path of a PNG file, or a BytesIO, which receives an SVG without background; size:
    width and height in inches; dpi: pixels of the PNG per inch.  `axes[0, 0].figure` is the whole
    figure, for a title or a colour bar.  A file is written whole or not at all: where drawing
    fails, an older one stays.  Nothing else holds the figure, as pyplot would: it needs no closing.
    """
    matplotlib = import_matplotlib()
    from matplotlib.figure import Figure
    made = Figure(figsize=size, layout="constrained")
    with matplotlib.rc_context(PLAIN_TEXT), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that its font lacks
        yield made.subplots(rows, columns, squeeze=False)
        if isinstance(target, io.BytesIO):
            made.savefig(target, format="svg", transparent=True,
                         metadata={"Date": None, "Creator": None})
        else:
            with atomic_write(target) as temporary:
                made.savefig(temporary, dpi=dpi)
