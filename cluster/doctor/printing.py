"""Findings for people, a line each as they come, or as one JSON list."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape

from cluster.doctor.finding import Finding


def print_findings(findings: Iterable[Finding], console: Console | None) -> bool:
    """Print to the console, or JSON to the standard output without one; whether all is well."""
    seen = []
    for finding in findings:
        seen.append(finding)
        if console is not None:
            mark = "[green]ok[/green]   " if finding.ok else "[red]wrong[/red]"
            console.print(f"{mark} {escape(finding.check)}: {escape(finding.detail)}", soft_wrap=True, highlight=False)
    if console is None:
        print(json.dumps([asdict(finding) for finding in seen]))
    return all(finding.ok for finding in seen)
