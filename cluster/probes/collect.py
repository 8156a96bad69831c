"""`probe collect`: reference clients train on Ray, and every local step becomes a labelled sample in the store."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import ray

from actors.client_actor import ClientActor
from actors.config import ModelConfig
from actors.data.references import Reference
from actors.messages import AdapterLayout, StepDelta
from actors.wire import decode_message
from cluster.config.loading import dump_config
from cluster.config.schema import RunConfig
from cluster.data.server_data import prepare_references
from cluster.data.sources import base_model, encoded_reference
from cluster.data.starter import unnamed_collection, with_starter
from cluster.data.token_files import TokenFiles
from cluster.errors import CollectionError, ConfigError, LostError
from cluster.ray_connection.session import ray_session
from cluster.round.local_rounds import Delivery, Job, StepDeltas, shortfall, train_all
from cluster.round.refresh import reference_tasks
from cluster.workers.deaths import answer_of
from cluster.workers.nodes import living_nodes
from cluster.workers.placement import plan_collection
from cluster.workers.pool import ClientPool, Starting
from cluster.workers.server_actor import launch
from probe.features import tensor_names
from probe.store import SampleStore
from probe.store_meta import StoreMeta

_INITIAL = "initial"
_FEATURES = {"first_layer_b": "first_layer_b", "all": "all_layers"}
"""`collect.modules` -> the feature whose tensors are collected."""


def collect_samples(config: RunConfig, folder: Path, progress: Callable[[int, int], None]) -> SampleStore:
    """Collect into the store in `folder`; clients that it holds already are kept, so a broken collection can be repeated.

    Args:
        progress: Receives (reference clients in the store, all of them), first before any of them trains.

    Raises:
        ConfigError, DataError: the data or an adapter cannot be used, or the store was made for something else.
        CollectionError: a reference client failed or was late; the samples of the others are in the store.
    """
    states, model = _states(config), base_model(config)
    clients, role = config.collect.clients, config.collect.role
    config = with_starter(config, folder / "starter", unnamed_collection(config))
    rows = prepare_references(config, folder / "references", clients, role, key="collect.clients")
    tokens = TokenFiles(model, config.training.max_length, folder / "references" / "tokens", config.data.columns.given)
    references = [encoded_reference(reference, tokens) for reference in rows]
    total = len(states) * len(references)
    with ray_session(config.cluster.address), closing(_client_pool(config, model, total)) as pool:
        client, timeout_s = pool.wait_for_one(config.cluster.start_timeout_s), config.cluster.start_timeout_s
        store = _open_store(config, folder, answer_of(client.layout.remote(), timeout_s, "reading the adapter's layout"))
        initial = client.initial_adapter.remote()
        (folder / "config.yaml").write_text(dump_config(config))
        missing = {state: [r for r in references if not store.has(state, r.label.client)] for state in states}
        done = itertools.count(total - sum(map(len, missing.values())))
        progress(next(done), total)
        for state, weights in states.items():
            adapter = initial if weights is None else ray.put(weights.read_bytes())
            writer = _Writer(store, state, missing[state], config, lambda: progress(next(done), total))
            train_all(
                [(pool, _jobs(config, missing[state], adapter, writer))],
                timeout_s=config.clients.timeout_s,
                start_timeout_s=timeout_s,
            )
    return store


def _states(config: RunConfig) -> dict[str, Path | None]:
    """Name of each adapter state -> its weights, None for the initial adapter."""
    states: dict[str, Path | None] = {}
    for entry in config.collect.adapters:
        folder = Path(entry)
        name = folder.parent.name if folder.name == "adapter" else folder.name
        weights = None if entry == _INITIAL else folder / "adapter_model.safetensors"
        if weights is not None and not weights.is_file():
            raise ConfigError(f"collect.adapters: {entry} holds no adapter_model.safetensors; name `initial` or adapter folders")
        if name in states:
            raise ConfigError(f"collect.adapters names the state {name} twice; rename one of the folders")
        states[name] = weights
    if not states:
        raise ConfigError("collect.adapters is empty; name `initial` or adapter folders")
    return states


def _client_pool(config: RunConfig, model: ModelConfig, num_trainings: int) -> ClientPool:
    placement = plan_collection(config, living_nodes(), model, num_trainings)

    def start() -> Starting:
        actor = launch(ClientActor, placement.client_options, model, config.lora, config.training)
        return Starting(actor, actor.layout.remote())

    return ClientPool(start, placement.num_client_actors)


def _open_store(config: RunConfig, folder: Path, layout: AdapterLayout) -> SampleStore:
    names = tensor_names(_FEATURES[config.collect.modules], layout.layers)
    meta = StoreMeta(
        shapes={name: tuple(layout.shapes[name]) for name in names},
        layers={name: layout.layers[name] for name in names},
        model_fingerprint=layout.model_fingerprint,
        lora_fingerprint=layout.lora_fingerprint,
        recipe={
            "learning_rate": _learning_rate(config),
            **config.training.model_dump(include={"steps", "batch_size", "weight_decay", "max_grad_norm"}),
            **({"freeze_a": True} if config.aggregation.freezes_a else {}),
        },
    )
    try:
        return SampleStore.create_or_open(folder, meta)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _learning_rate(config: RunConfig) -> float:
    """Learning rate of the reference clients: the shadow's, unless `collect.learning_rate` is set."""
    return config.collect.learning_rate or config.defense.shadow.learning_rate


class _Writer:
    """Receives what reference clients send, and writes each into the store when it has ended.

    It holds the step deltas of at most as many clients as there are actors.
    """

    def __init__(
        self,
        store: SampleStore,
        state: str,
        references: Sequence[Reference],
        config: RunConfig,
        on_written: Callable[[], None],
    ) -> None:
        self._store, self._state, self._on_written = store, state, on_written
        self._num_steps, self._timeout_s = config.training.steps, config.cluster.call_timeout_s
        self._labels = {reference.label.client: reference.label for reference in references}
        self._arrived: dict[str, list[ray.ObjectRef[bytes]]] = defaultdict(list)

    def step_deltas(self, deltas: StepDeltas) -> None:
        for task, delta in deltas:
            self._arrived[task.client_id].append(delta)

    def deliver(self, delivery: Delivery) -> None:
        """Raises CollectionError when a client has failed."""
        client = delivery.task.client_id
        deltas = self._arrived.pop(client, [])
        failure = shortfall(delivery, len(deltas), self._num_steps)
        sent: list[bytes] = []
        if failure is None:
            try:
                sent = answer_of(deltas, self._timeout_s, "reading the step deltas")
            except LostError as error:
                failure = str(error)
        if failure is not None:
            raise CollectionError(
                f"reference client {client}: {failure}; the others are kept, run the same command again to go on"
            )
        tensors = (decode_message(delta, StepDelta).tensors for delta in sent)
        self._store.append(self._state, self._labels[client], tensors)
        self._on_written()


def _jobs(config: RunConfig, references: Sequence[Reference], adapter: ray.ObjectRef[bytes], writer: _Writer) -> list[Job]:
    tasks = reference_tasks(
        references,
        0,
        feature=_FEATURES[config.collect.modules],
        rate=_learning_rate(config),
        seed=config.seed,
        freeze_a=config.aggregation.freezes_a,
    )
    return [Job(task, adapter, writer) for task in tasks]
