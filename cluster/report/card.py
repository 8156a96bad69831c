"""The model card: README.md of the adapter's folder, with the front matter that peft and the hub read."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.data.sources import base_model
from cluster.report.histories import histories
from cluster.report.page import about, markdown_environment, measures_grid
from cluster.report.reading import read_run
from cluster.report.verdict import judge
from cluster.reporting.console import plain

_PACKAGES = ("safe-fedllm", "peft", "transformers", "torch", "ray")


def model_card(path: Path) -> str:
    """The card of a finished run's adapter.

    Raises:
        ConfigError: no run with a committed round lies there, or its files cannot be read.
    """
    run = read_run(path)
    environment, targets = markdown_environment(), run.config.lora.target_modules
    environment.filters["code"] = lambda text: plain(str(text)).replace("`", "'")
    text = environment.get_template("card.md").render(
        run=run,
        base=base_model(run.config).path,
        data="the embedded world's generator" if run.config.is_embedded else "the participants' own",
        about=about(run),
        targets=targets if isinstance(targets, str) else ", ".join(targets),
        versions={name: _version(name) for name in _PACKAGES},
        verdict=judge(run),
        measures=measures_grid(run),
        out=[item for item in histories(run) if item.is_out],
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _version(package: str) -> str:
    """Of an installed package; a checkout that is not installed has none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"
