"""The trackers of a run, opened before its first work and closed at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec

from cluster.config.schema import RunConfig, TrackerName
from cluster.errors import ConfigError, describe
from cluster.tracking.tracker import Listener, TrackedRun, Tracker

TRACKERS: dict[TrackerName, str] = {"tensorboard": "TensorBoard", "mlflow": "Mlflow", "wandb": "WeightsAndBiases"}
"""Name, which is that of the library, of the extra and of the file here -> class in that file."""


def check_installed(config: RunConfig) -> None:
    """Raises ConfigError: a library of `tracking` is not installed; names all of those."""
    missing = [name for name in dict.fromkeys(config.tracking) if not _is_installed(name)]
    if missing:
        raise ConfigError(
            f"tracking: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed here; install with: "
            f"pip install 'safe-fedllm[{','.join(missing)}]', or leave it out of tracking"
        )


def _is_installed(name: str) -> bool:
    """A folder of that name in the working directory, as wandb makes one, is no library: it has no file of its own."""
    found = find_spec(name)
    return found is not None and found.origin is not None


@contextmanager
def open_trackers(config: RunConfig, run: TrackedRun, warn: Callable[[str], None]) -> Iterator[Sequence[Listener]]:
    """A listener for each tracker that the configuration names, which are closed when the context ends.

    Args:
        warn: Told once of each tracker that fails later on.

    Raises:
        ConfigError: one cannot begin; those that could are closed.
    """
    with ExitStack() as stack:
        listeners = []
        for name in dict.fromkeys(config.tracking):
            listener = Listener(name, _opened(name, run), warn)
            stack.callback(listener.close)
            listeners.append(listener)
        yield listeners


def _opened(name: TrackerName, run: TrackedRun) -> Tracker:
    try:
        return getattr(import_module(f"cluster.tracking.{name}"), TRACKERS[name])(run)
    except Exception as error:  # a library of others: a server that is gone, a key that is missing
        why = str(error).strip() or describe(error).line
        raise ConfigError(f"tracking: {name} cannot begin: {why}; set it up as its own documents say, or leave it out") from error
