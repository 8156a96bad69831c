"""A probe for a model of one's own where no key names one: made before the first run that needs it, and kept for the next.

It is kept under what it was made from: base model, LoRA, local training, settings of collection and probe, and the reference
clients' rows. What differs in one of these has a probe of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from actors.config import ModelConfig
from actors.data.folders import data_files
from actors.model.start_adapter import WEIGHTS
from cluster.config.schema import RunConfig
from cluster.probes.collect import collect_samples
from cluster.probes.train import train_from_store
from defense.levels import probed_signals
from probe.meta import META_FILE, ProbeMeta

_WEIGHTS = (".safetensors", ".bin", ".json", ".gguf")


def own_probe(config: RunConfig, say: Callable[[str], None], progress: Callable[[int, int], None]) -> str:
    """The folder of the probe for this run, which is made first where there is none.

    Args:
        config: With the reference clients' data in `collect.benign_path` and `collect.malicious_path`.
        say: Receives lines for a person.
        progress: As in `collect_samples`.

    Raises:
        ConfigError, DataError, CollectionError: as `collect_samples` and `train_from_store`. What was collected is kept, so the
            next run goes on from there.
    """
    config = _settings(config)
    folder = probes_folder() / _key(config)
    folder.mkdir(parents=True, exist_ok=True)
    probe, store = folder / "probe", folder / "store"
    with _alone(folder / "lock", say):
        if not (probe / META_FILE).is_file():
            say(
                f"This model, LoRA and training have no probe yet. {2 * config.collect.clients} reference clients train for one "
                "with data of the server, each as long as a client in a round; it is kept for the next run."
            )
            collect_samples(config, store, progress)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                meta = train_from_store(store, (), Path(scratch) / "probe").meta
                (Path(scratch) / "probe").rename(probe)
            shutil.rmtree(store)
            say(f"The probe is in {probe}; {_measured(meta)}.")
    return str(probe)


@contextmanager
def _alone(file: Path, say: Callable[[str], None]) -> Iterator[None]:
    """While no other process makes this probe; the system frees the lock of one that dies."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("Another run is making this probe; this one waits for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def probes_folder() -> Path:
    """Where probes that runs made for themselves are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "safe-fedllm" / "probes"


def _settings(config: RunConfig) -> RunConfig:
    """What a level that judges whole updates needs: samples of every layer, at the rate at which the clients begin. The paper's
    levels read step deltas of a shadow, and keep the paper's settings."""
    if probed_signals(config.defense) != {"update"}:
        return config
    rate = config.collect.learning_rate or config.training.learning_rate
    collect = config.collect.model_copy(update={"modules": "all", "learning_rate": rate})
    probe = config.probe.model_copy(update={"feature": config.probe.feature or "per_layer"})
    return config.model_copy(update={"collect": collect, "probe": probe})


def _key(config: RunConfig) -> str:
    """Sixteen hexadecimal digits of everything that the probe follows from."""
    of_refreshes = {name for name in type(config.probe).model_fields if name.startswith("refresh_")}
    made_from = {
        "model": [config.model.model_dump(mode="json"), _stamps(config.model)],
        "lora": [config.lora.model_dump(mode="json", exclude={"start_from"}), *_start(config.lora.start_from)],
        "training": config.training.model_dump(mode="json"),
        "freezes_a": config.aggregation.freezes_a,
        "shadow": config.defense.shadow.learning_rate,
        "columns": config.data.columns.model_dump(mode="json"),
        "seed": config.seed,
        "collect": config.collect.model_dump(mode="json", exclude={"benign_path", "malicious_path"}),
        "rows": [_digests(path) for path in (config.collect.benign_path, config.collect.malicious_path)],
        "probe": config.probe.model_dump(mode="json", exclude=of_refreshes),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def _stamps(model: ModelConfig) -> list[tuple[str, int, int]]:
    """Name, bytes and time of modification of a local model's files; empty for one of a hub, whose name stands for it."""
    folder = Path(str(model.path))
    files = sorted(file for file in folder.iterdir() if file.suffix in _WEIGHTS) if folder.is_dir() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _start(folder: str | None) -> list[str]:
    """The digest of the adapter that the run continues from, if it does; a folder without one is refused when the model loads."""
    file = None if folder is None else Path(folder) / WEIGHTS
    return [hashlib.sha256(file.read_bytes()).hexdigest()] if file is not None and file.is_file() else []


def _digests(path: str | None) -> list[str]:
    """Of the content of each data file."""
    if path is None:
        return []
    files = [Path(file) for file in data_files(Path(path))]
    parts = [part for file in files for part in (sorted(p for p in file.rglob("*") if p.is_file()) if file.is_dir() else [file])]
    return [hashlib.sha256(part.read_bytes()).hexdigest() for part in parts]


def _measured(meta: ProbeMeta) -> str:
    """How it ranks reference clients of families that it did not see, as far as its training has held some out."""
    found = meta.metrics.get("roc_auc")
    return f"ROC AUC {found:.3f} on families held out" if isinstance(found, float) else "no family was held out to measure it"
