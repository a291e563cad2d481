"""What all figures share: their look, and how they are written."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
from typing import Any

from nested_fad_tf.report import files

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("figures need matplotlib: pip install 'nested-fad-tf[plots]'") from error

__all__ = [
    "AFTER",
    "BEFORE",
    "GUIDE",
    "SERIES",
    "SHADE",
    "Axes",
    "Figure",
    "Path",
    "end_of",
    "look",
    "save",
]

Path = str | os.PathLike[str]

# Okabe and Ito's colours, which colour-blind readers tell apart.
BEFORE, AFTER = "#E69F00", "#0072B2"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# 800 pixels wide: what most pages show.
_DPI = 100
_LONGEST_NAME = 46
SHADE, GUIDE = "#F0F0F0", "#BBBBBB"
# Same input, same file: no random ids, no date; and the text stays text.
_STYLE: Any = {
    "svg.hashsalt": "nested_fad_tf",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def look() -> contextlib.AbstractContextManager[None]:
    """A block in which figures get this look, whatever the user has set."""
    return matplotlib.rc_context(_STYLE)


def end_of(name: str) -> str:
    """The end of a long name: the scopes at its beginning tell least.

    Args:
        name: A name with slashes.

    Returns:
        The name, with dots for its beginning where it is too long to be shown.
    """
    return name if len(name) <= _LONGEST_NAME else f"...{name[3 - _LONGEST_NAME :]}"


def save(figure: Figure, folder: Path, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes a figure as SVG and as PNG.

    Examples:
        >>> import matplotlib.pyplot as plt
        >>> figure, axes = plt.subplots()
        >>> [path.name for path in nfad.plots.save(figure, "figures", "empty")]
        ['empty.svg', 'empty.png']

    Args:
        figure: The figure.
        folder: Where to; made if it isn't there.
        name: Name of the files, without an ending.

    Returns:
        The files. They appear once they are complete, and replace what has their name.
    """
    target = pathlib.Path(folder)
    contents = {ending: io.BytesIO() for ending in ("svg", "png")}
    with look():
        figure.savefig(contents["svg"], format="svg", metadata={"Date": None})
        figure.savefig(contents["png"], format="png", dpi=_DPI)
    target.mkdir(parents=True, exist_ok=True)
    for ending, content in contents.items():
        files.write(target / f"{name}.{ending}", content.getvalue())
    return target / f"{name}.svg", target / f"{name}.png"
