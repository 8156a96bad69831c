"""The command `safe-fedllm`: its commands, and how each ends. Torch and Ray are imported only when a command needs them."""

from __future__ import annotations

import logging
import os
import sys
import warnings

import typer

from cluster.commands.adapter import chat
from cluster.commands.adapter import merge as merge_adapter
from cluster.commands.compare import compare
from cluster.commands.data import check, starter
from cluster.commands.doctor import doctor, keys
from cluster.commands.gateway import enroll, join, revoke
from cluster.commands.group import VERBOSE, CommandGroup
from cluster.commands.init import init
from cluster.commands.live import pause, resume, scale, set_, status, stop
from cluster.commands.probe import collect, evaluate, merge, train
from cluster.commands.report import report as report_
from cluster.commands.run import run
from cluster.commands.submit import submit
from cluster.commands.watch import watch
from cluster.commands.world import build
from cluster.exits import ERROR, INTERRUPTED, report, report_interrupt
from cluster.interruption import unwinding_on_signals
from cluster.reporting.console import PlainFormatter, new_console

app = CommandGroup("Federated LoRA fine-tuning on Ray that keeps its safety when some clients are malicious.")
world_app = CommandGroup("Build an embedded world: tokenizer, aligned base model, probes.")
probe_app = CommandGroup("Make a LoRA-Probe for your model: collect samples, train, evaluate.")
data_app = CommandGroup("Look at data before a run, or write starter data for the server.")
app.add_typer(world_app, name="world")
app.add_typer(probe_app, name="probe")
app.add_typer(data_app, name="data")
for command in (init, run, submit, compare, status, scale, pause, resume, stop, enroll, revoke, join):
    app.command()(command)
app.command("set")(set_)
app.command("report")(report_)
app.command()(watch)
app.command()(chat)
app.command("merge")(merge_adapter)
for command in (doctor, keys):
    app.command()(command)
world_app.command()(build)
for command in (collect, merge, train, evaluate):
    probe_app.command()(command)
for command in (check, starter):
    data_app.command()(command)


def main() -> None:
    """Entry point: an error is one line, its traceback is in a log or shown with --verbose, and the exit code is 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())
    try:
        with unwinding_on_signals(report_interrupt):
            code = app(standalone_mode=False)
    except typer.Abort:  # what earlier releases of typer make of Ctrl-C
        code = INTERRUPTED
    except Exception as error:
        code = _usage(error)
        if code is None:
            report(error, verbose=VERBOSE in sys.argv)
            code = ERROR
    sys.exit(code or 0)


def _usage(error: Exception) -> int | None:
    """Tell what is wrong with the words of the command and return the exit code; None: the error is not about them."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message())
        return ERROR
    context = getattr(error, "ctx", None)
    text = f"error: {message()}" + (f"; see: {context.command_path} --help" if context else "")
    new_console(stderr=True).print(text, style="red", soft_wrap=True)
    return ERROR
