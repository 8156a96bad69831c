"""`probe collect`: reference clients train on Ray, and every local step becomes a labelled sample in the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import ray

from actors.client import ClientActor
from actors.config import ModelConfig
from actors.data.references import Reference
from actors.messages import AdapterLayout, StepDelta, TrainTask
from actors.wire import decode_message
from cluster.config.loading import dump_config
from cluster.config.schema import RunConfig
from cluster.data.references import prepare_references
from cluster.data.sources import base_model
from cluster.errors import CollectionError, ConfigError
from cluster.ray_connection.session import ray_session
from cluster.round.local_rounds import shortfall, train_all
from cluster.round.refresh import reference_tasks
from cluster.workers.deadlines import wait_for
from cluster.workers.nodes import living_nodes
from cluster.workers.placement import plan_collection
from cluster.workers.pool import ClientPool, Starting
from probe.features import tensor_names
from probe.store import SampleStore, StoreMeta

INITIAL = "initial"
_FEATURES = {"first_layer_b": "first_layer_b", "all": "all_layers"}
"""`collect.modules` -> the feature whose tensors are collected."""


def collect_samples(config: RunConfig, folder: Path, progress: Callable[[int, int], None]) -> SampleStore:
    """Collect into the store in `folder`; what is there already is kept, so a broken collection goes on where it was.

    Args:
        progress: Receives (reference clients in the store, all of them), first before anything is trained.

    Raises:
        ConfigError, DataError: the data or an adapter cannot be used, or the store was made for something else.
        CollectionError: a reference client failed or was late; what the others delivered is in the store.
    """
    states, model = _states(config), base_model(config)
    references = prepare_references(config, folder / "references", role=config.collect.role, clients=config.collect.clients)
    with ray_session(config.cluster.address), _client_pool(config, model, len(references) * len(states)) as pool:
        layout, initial = _layout(config, pool)
        store = _open_store(config, folder, layout)
        (folder / "config.yaml").write_text(dump_config(config))
        missing = [(state, r) for state in states for r in references if not store.has(state, r.label.client)]
        total = len(states) * len(references)
        progress(total - len(missing), total)
        for done, _ in enumerate(_train(config, pool, store, missing, states, initial), total - len(missing) + 1):
            progress(done, total)
    return store


def _states(config: RunConfig) -> dict[str, Path | None]:
    """Name of each adapter state -> its weights, None for the initial adapter."""
    states: dict[str, Path | None] = {}
    for entry in config.collect.adapters:
        folder = Path(entry)
        name = folder.parent.name if folder.name == "adapter" else folder.name
        weights = None if entry == INITIAL else folder / "adapter_model.safetensors"
        if weights is not None and not weights.is_file():
            raise ConfigError(f"collect.adapters: {entry} holds no adapter_model.safetensors; name `initial` or adapter folders")
        if name in states:
            raise ConfigError(f"collect.adapters names the state {name} twice; rename one of the folders")
        states[name] = weights
    if not states:
        raise ConfigError("collect.adapters is empty; name `initial` or adapter folders")
    return states


@contextmanager
def _client_pool(config: RunConfig, model: ModelConfig, num_trainings: int) -> Iterator[ClientPool]:
    placement = plan_collection(config, living_nodes(), model, num_trainings)
    actors = ClientActor.options(**placement.client_options)

    def start() -> Starting:
        actor = actors.remote(model, config.lora, config.training)
        return Starting(actor, actor.layout.remote())

    pool = ClientPool(start, placement.num_client_actors)
    try:
        yield pool
    finally:
        pool.close()


def _layout(config: RunConfig, pool: ClientPool) -> tuple[AdapterLayout, Any]:
    """The adapter's layout, and a reference to its initial state."""
    timeout_s = config.cluster.start_timeout_s
    first = pool.wait_for_one(timeout_s)
    return wait_for(first.layout.remote(), timeout_s, "reading the adapter's layout"), first.initial_adapter.remote()


def _open_store(config: RunConfig, folder: Path, layout: AdapterLayout) -> SampleStore:
    names = tensor_names(_FEATURES[config.collect.modules], layout.layers)
    meta = StoreMeta(
        shapes={name: tuple(layout.shapes[name]) for name in names},
        layers={name: layout.layers[name] for name in names},
        model_fingerprint=layout.model_fingerprint,
        lora_fingerprint=layout.lora_fingerprint,
        recipe={
            "learning_rate": collection_rate(config),
            **config.training.model_dump(include={"steps", "batch_size", "weight_decay", "max_grad_norm"}),
            **({"freeze_a": True} if config.aggregation.freezes_a else {}),
        },
    )
    try:
        return SampleStore.create_or_open(folder, meta)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def collection_rate(config: RunConfig) -> float:
    """Learning rate of the reference clients: that of the shadow, unless `collect.learning_rate` says otherwise."""
    return config.collect.learning_rate or config.defense.shadow.learning_rate


def _train(
    config: RunConfig,
    pool: ClientPool,
    store: SampleStore,
    missing: Sequence[tuple[str, Reference]],
    states: dict[str, Path | None],
    initial: Any,
) -> Iterator[tuple[str, str]]:
    """Train the missing (state, reference) pairs; yield each (state, client) that has been written.

    At any time the references' deltas of no more clients than actors are held.
    """
    arrived: dict[str, list[Any]] = defaultdict(list)

    def keep(deltas: Sequence[tuple[TrainTask, Any]]) -> None:
        for task, delta in deltas:
            arrived[task.client_id].append(delta)

    for state, weights in states.items():
        labels = {reference.label.client: reference.label for name, reference in missing if name == state}
        tasks = reference_tasks(
            [reference for name, reference in missing if name == state],
            0,
            feature=_FEATURES[config.collect.modules],
            rate=collection_rate(config),
            seed=config.seed,
            freeze_a=config.aggregation.freezes_a,
        )
        adapter = initial if weights is None else ray.put(weights.read_bytes())
        jobs = [(task, adapter) for task in tasks]
        timeouts = {"timeout_s": config.clients.timeout_s, "start_timeout_s": config.cluster.start_timeout_s}
        with closing(train_all([(pool, jobs)], **timeouts, on_deltas=keep)) as deliveries:
            for delivery in deliveries:
                client, deltas = delivery.task.client_id, arrived.pop(delivery.task.client_id, [])
                failure = shortfall(delivery, len(deltas), config.training.steps)
                if failure is not None:
                    raise CollectionError(
                        f"reference client {client}: {failure}; the others are kept, run the same command again to go on"
                    )
                store.append(state, labels[client], (decode_message(ray.get(delta), StepDelta).tensors for delta in deltas))
                yield state, client
