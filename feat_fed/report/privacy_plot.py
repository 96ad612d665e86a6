"""Epsilon against the choices of a plan, as a picture of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from feat_fed.errors import ConfigError
from feat_fed.report.drawing import COLOURS, INK, STYLE

FORMATS = (".svg", ".png")

_PANEL_INCHES = (4.2, 3.6)
_DPI = 150


@dataclass(frozen=True)
class Panel:
    """One picture of epsilon: pairs of a choice and an epsilon, and which is chosen."""

    x_label: str
    y_label: str
    rdp: Sequence[tuple[float, float]]
    prv: Sequence[tuple[float, float]]
    chosen: tuple[float, float]


def require_format(path: Path) -> None:
    """Raise :class:`ConfigError` unless the file's name says a format that can be drawn."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path} is no picture that can be drawn; name it {' or '.join(FORMATS)}")


def write_panels(path: Path, panels: Sequence[Panel]) -> None:
    """Draw the panels side by side into an SVG or PNG file.

    Raises
    ------
    ConfigError
        If the file is of another kind, or cannot be written.
    """
    require_format(path)
    width, height = _PANEL_INCHES
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * len(panels), height), layout="constrained")
        for index, panel in enumerate(panels, start=1):
            _draw(figure.add_subplot(1, len(panels), index), panel)
        figure.axes[0].legend(frameon=False)
        try:
            figure.savefig(path, format=path.suffix[1:], dpi=_DPI)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _draw(axes: Any, panel: Panel) -> None:  # noqa: ANN401
    for pairs, look in (
        (panel.rdp, {"color": INK, "label": "RDP, enforced"}),
        (panel.prv, {"color": COLOURS[0], "label": "PRV, closer", "marker": "o", "ls": ""}),
        ([panel.chosen], {"color": COLOURS[1], "label": "chosen", "marker": "D", "ls": ""}),
    ):
        axes.plot([x for x, _ in pairs], [y for _, y in pairs], **look)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
