"""What every figure here shares: no display, PNG and SVG of the same name, the two colours."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmolre.errors import UserError
from mmolre.files import replacing

HIGHLIGHT, PLAIN = "#0072B2", "#666666"
"""What a figure is about, and what it is compared with (Okabe and Ito's blue, and grey)."""


def pyplot() -> Any:
    """matplotlib's pyplot, drawing into files alone.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("figures need matplotlib: pip install 'mmolre[plots]'") from None
    matplotlib.use("Agg")
    # Text stays text in SVG, and the same figure is the same file.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "mmolre"}
    import matplotlib.pyplot as plt

    return plt


def save(figure: Any, path: Path) -> list[Path]:
    """Write ``path`` with ``.png`` and ``.svg``, and close the figure."""
    figure.set_layout_engine("constrained")
    files: Sequence[Path] = [path.with_name(f"{path.name}.{kind}") for kind in ("png", "svg")]
    for file in files:
        buffer = io.BytesIO()
        kind = file.suffix[1:]
        figure.savefig(buffer, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else {})
        with replacing(file) as beside:
            beside.write_bytes(buffer.getvalue())
    pyplot().close(figure)
    return list(files)
