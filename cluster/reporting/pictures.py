"""Pictures: weights, safety and utility of a run by round; several runs side by side and as a heat map."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

from actors.messages import EvaluationReport, Proportion, RoundReport

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

_MALICIOUS, _BENIGN, _GREY = "#D55E00", "#0072B2", "#999999"
"""Okabe-Ito colours, which colour-blind readers can tell apart."""

Grid = Mapping[str, Mapping[str, float | None]]
"""Row -> column -> value."""


def draw_run(
    folder: Path, rounds: Sequence[RoundReport], evaluations: Sequence[EvaluationReport], malicious: Collection[str]
) -> Path:
    """Write run.png: a client x round map of weights above the measures by round."""
    num_clients = len({client.client_id for report in rounds for client in report.clients})
    height = min(14.0, 1.5 + 0.28 * num_clients)
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(max(7.0, 2.5 + 0.35 * len(rounds)), height + 3.2), height_ratios=[height, 3], layout="constrained"
    )
    _draw_weights(above, rounds, malicious)
    _draw_measures(below, rounds, evaluations)
    return _save(figure, folder / "run.png")


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def draw_comparison(folder: Path, panels: Mapping[str, Grid]) -> Path:
    """Write comparison.png: a heat map per panel, side by side, with the number in every cell. The longer axis runs down.

    Args:
        panels: Title -> row -> column -> a share; None is shown as failed, and the cell of an absent one stays empty.
    """
    if len(_columns(panels)) > len(next(iter(panels.values()))):
        panels = {title: _turned(grid) for title, grid in panels.items()}
    columns, rows = _columns(panels), list(dict.fromkeys(row for grid in panels.values() for row in grid))
    longest = max(len(line) for column in columns for line in _heading(column).split("\n"))
    width = len(panels) * len(columns) * max(0.9, 0.08 * longest) + 0.1 * max(map(len, rows)) + 1.6
    figure, plots = plt.subplots(
        1, len(panels), figsize=(max(6.0, width), 2.2 + 0.34 * len(rows)), squeeze=False, sharey=True, layout="constrained"
    )
    images = [_draw_grid(axes, grid, rows, columns) for axes, grid in zip(plots[0], panels.values(), strict=True)]
    for axes, title in zip(plots[0], panels, strict=True):
        axes.set_title(title, fontsize=10, loc="left")
    figure.colorbar(images[-1], ax=plots[0], pad=0.01)
    return _save(figure, folder / "comparison.png")


def _columns(panels: Mapping[str, Grid]) -> list[str]:
    return list(dict.fromkeys(column for grid in panels.values() for cells in grid.values() for column in cells))


def _turned(grid: Grid) -> Grid:
    return {column: {row: grid[row][column] for row in grid if column in grid[row]} for column in _columns({"": grid})}


def _heading(label: str) -> str:
    """A label over several lines: one for each level of a composition, and one for the number of attackers."""
    return label.replace(", ", "\n").replace("+", "+\n")


def _draw_grid(axes: Axes, grid: Grid, rows: Sequence[str], columns: Sequence[str]) -> AxesImage:
    cells = [grid.get(row, {}) for row in rows]
    axes.set_facecolor("#DDDDDD")  # where there is no number
    image = _draw_map(axes, [[line.get(column) for column in columns] for line in cells])
    for (y, line), (x, column) in itertools.product(enumerate(cells), enumerate(columns)):
        if column in line:
            value = line[column]
            colour = "white" if value is not None and value < 0.5 else "black"  # the dark half of the scale, and the light one
            axes.text(x, y, "failed" if value is None else f"{value:.3f}", ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(columns)), [_heading(column) for column in columns], fontsize=8)
    axes.set_yticks(range(len(rows)), rows)
    return image


def _draw_map(axes: Axes, values: Sequence[Sequence[float | None]]) -> AxesImage:
    """None becomes NaN, which Matplotlib leaves out."""
    numbers = np.array(values, dtype=float)
    return axes.imshow(numbers, vmin=0, vmax=1, cmap="cividis", aspect="auto", interpolation="nearest")


def draw_curves(folder: Path, curves: Mapping[str, Sequence[tuple[int, float]]]) -> Path:
    """Write safety_by_round.png, a line per run. `curves`: label -> (rounds done, share refused)."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (label, points), style in zip(curves.items(), itertools.cycle(["o-", "s--", "^:", "d-."]), strict=False):
        axes.plot([x for x, _ in points], [y for _, y in points], style, label=label)
    axes.set(xlabel="rounds done", ylabel="restricted prompts refused", ylim=(-0.03, 1.03), title="Safety by round")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return _save(figure, folder / "safety_by_round.png")


def _draw_weights(axes: Axes, rounds: Sequence[RoundReport], malicious: Collection[str]) -> None:
    clients = sorted({client.client_id for report in rounds for client in report.clients}, key=lambda c: (c in malicious, c))
    weights = [{client.client_id: client.weight for client in report.clients} for report in rounds]
    for column, report in enumerate(rounds):
        for client in report.clients:
            if not client.admitted:
                axes.text(column, clients.index(client.client_id), "x", ha="center", va="center", color="black")
    image = _draw_map(axes, [[column.get(client) for column in weights] for client in clients])
    axes.set_xticks([x - 0.5 for x in range(1, len(rounds))], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, len(clients))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="minor", length=0)
    axes.figure.colorbar(image, ax=axes, label="weight", pad=0.01)
    axes.set_yticks(range(len(clients)), clients)
    for label in axes.get_yticklabels():
        label.set_color(_MALICIOUS if label.get_text() in malicious else "black")
    step = max(1, len(rounds) // 20)
    labels = [str(report.round + 1) + ("" if report.outcome == "aggregated" else f"\n{report.outcome}") for report in rounds]
    shown = [i for i, report in enumerate(rounds) if i % step == 0 or report.outcome != "aggregated"]
    axes.set_xticks(shown, [labels[i] for i in shown], fontsize=8)
    axes.set_ylim(len(clients) - 0.5, -0.5)
    axes.set_title("Weight of every client by round (malicious ones in orange; x: not admitted)", fontsize=10, loc="left")


def _draw_measures(axes: Axes, rounds: Sequence[RoundReport], evaluations: Sequence[EvaluationReport]) -> None:
    at = [report.rounds_done for report in evaluations]
    _draw_share(axes, at, [report.rule_score for report in evaluations], "safety (refused)", _BENIGN, "o-")
    _draw_share(axes, at, [report.compliance for report in evaluations], "compliance (answered)", _MALICIOUS, "s--")
    if any(report.utility is not None for report in evaluations):
        utility = np.array([report.utility for report in evaluations], dtype=float)
        axes.plot(at, utility, "^:", color=_GREY, label="utility (exact match)")
    for report in rounds:
        if report.outcome != "aggregated":
            axes.axvspan(report.round + 0.5, report.round + 1.5, color="#EEEEEE", zorder=0)
    axes.set(xlabel="rounds done (grey: not aggregated)", ylim=(-0.03, 1.03), xlim=(-0.3, max([len(rounds), *at]) + 0.3))
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def _draw_share(axes: Axes, at: Sequence[int], shares: Sequence[Proportion | None], label: str, colour: str, style: str) -> None:
    known = [(x, share) for x, share in zip(at, shares, strict=True) if share is not None]
    if known:
        axes.plot([x for x, _ in known], [s.value for _, s in known], style, color=colour, label=label)
        axes.fill_between([x for x, _ in known], [s.low for _, s in known], [s.high for _, s in known], color=colour, alpha=0.15)
