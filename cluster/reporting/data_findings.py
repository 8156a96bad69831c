"""What `data check` prints. Text of files is shown as text: it can neither steer the terminal nor pass for ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from actors.data.findings import Finding, Shown
from cluster.reporting.console import plain

_MOST_FILES, _MOST_ERRORS, _MOST_CHARACTERS = 50, 10, 1500
_LEARNED, _READ = "  learn > ", "        | "
"""What stands before each line of an example."""


def print_findings(console: Console, findings: Sequence[Finding], max_length: int, unit: str) -> None:
    """Print a table of the files, what cannot be used, and three examples.

    Args:
        unit: Of lengths: tokens, or characters where no model is named.
    """
    console.print(_table(findings[:_MOST_FILES], max_length, unit))
    if len(findings) > _MOST_FILES:
        console.print(f"... and {len(findings) - _MOST_FILES} more files")
    errors = [error for finding in findings for error in finding.errors]
    for error in errors[:_MOST_ERRORS]:
        console.print(error, style="red", soft_wrap=True)
    if len(errors) > _MOST_ERRORS:
        console.print(f"... and {len(errors) - _MOST_ERRORS} more rows that cannot be used", style="red")
    for number, shown in enumerate(_three([shown for finding in findings for shown in finding.shown]), start=1):
        _print_example(console, number, shown)


def _table(findings: Sequence[Finding], max_length: int, unit: str) -> Table:
    table = Table(title="What was understood", title_justify="left")
    cut = f"cut at {max_length}" if unit == "tokens" else ""
    for name in ("file", "rows", "read as", f"{unit} min / median / max", *([cut, "no response left"] if cut else []), "refused"):
        table.add_column(name, justify="left" if name in ("file", "read as") else "right", overflow="fold")
    for finding in findings:
        lengths = finding.lengths
        spread = f"{min(lengths)} / {median(lengths):g} / {max(lengths)}" if lengths else "-"
        tokens = [str(finding.num_cut), str(len(finding.left_out))] if cut else []
        layouts = "; ".join(map(_layout, finding.layouts)) or "-"
        table.add_row(plain(str(finding.path)), str(finding.num_rows), layouts, spread, *tokens, str(len(finding.errors)))
    return table


def _layout(layout: Mapping[str, str]) -> str:
    return plain(", ".join(ours if ours == theirs else f"{ours} from {theirs:.40}" for ours, theirs in layout.items()))


def _three(shown: Sequence[Shown]) -> Sequence[Shown]:
    return [shown[i] for i in sorted({0, len(shown) // 2, len(shown) - 1})] if shown else []


def _print_example(console: Console, number: int, shown: Shown) -> None:
    size = "" if shown.tokens is None else f", {shown.tokens} tokens, {shown.learned} of them learned"
    console.print(f"\nExample {number}: {shown.path}, row {shown.row}{size}", style="bold", soft_wrap=True)
    for piece, learned in shown.pieces:
        left_out = len(piece) - _MOST_CHARACTERS
        more = f" ... {left_out} more characters" if left_out > 0 else ""
        for line in (plain(piece[:_MOST_CHARACTERS]) + more).split("\n"):
            console.print(Text((_LEARNED if learned else _READ) + line, style="green" if learned else ""), soft_wrap=True)
