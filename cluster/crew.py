"""The actors of one run: started together, checked to hold the same model, ended together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray

from actors.aggregator import AggregatorActor, AggregatorConfig
from actors.client import ClientActor
from actors.errors import ModelError
from actors.evaluation import EvaluationActor
from actors.messages import AdapterLayout
from actors.probe import ProbeActor, check_fit
from cluster.config import RunConfig
from cluster.errors import ConfigError
from cluster.placement import plan_placement
from cluster.pool import ClientPool
from cluster.sources import Sources
from cluster.waiting import wait_for
from probe.meta import ProbeMeta, load_meta

_RECIPE_FIELD = "learning_rate"


class Crew:
    """Handles of a run's actors; `start` returns once each has loaded what it needs."""

    def __init__(self, config: RunConfig, sources: Sources) -> None:
        self._config, self._sources = config, sources
        self.probe_meta = load_probe_meta(config, sources)
        self.pool: ClientPool
        self.aggregator: Any
        self.evaluation: Any
        self.probe: Any | None = None

    def start(self) -> None:
        """Start clients, evaluation, aggregator and probe.

        Raises:
            ClusterError: too few resources. ModelError, ProbeMismatchError: something does not fit.
            DeadlineError: cluster.start_timeout_s passed.
        """
        config, sources = self._config, self._sources
        placement = plan_placement(config, ray.cluster_resources(), sources.model)
        clients = ClientActor.options(max_restarts=-1, **placement.client_options)
        self.pool = ClientPool(lambda: clients.remote(sources.model, config.lora, config.training), placement.num_client_actors)
        evaluation = EvaluationActor.options(**placement.evaluation_options)
        self.evaluation = evaluation.remote(sources.model, config.lora, sources.evaluation, config.training.max_length)
        layout = self._common_layout()
        if self.probe_meta is not None:
            check_fit(self.probe_meta, layout, str(sources.probe_path))
            self.probe = ProbeActor.options(**placement.server_options).remote(sources.probe_path, layout, config.probe)
        initial = self.pool.actors[0].initial_adapter.remote()
        server = AggregatorActor.options(**placement.server_options)
        self.aggregator = server.remote(self._aggregator_config(), layout, initial)

    def peft_config_json(self) -> str:
        """The text of adapter_config.json."""
        return wait_for(
            self.pool.actors[0].peft_config_json.remote(), self._config.cluster.start_timeout_s, "the adapter's configuration"
        )

    def close(self) -> None:
        """End every actor."""
        if hasattr(self, "pool"):
            self.pool.close()
        for name in ("evaluation", "aggregator", "probe"):
            if getattr(self, name, None) is not None:
                ray.kill(getattr(self, name))

    def _common_layout(self) -> AdapterLayout:
        """The adapter layout, the same on every client actor."""
        timeout_s = self._config.cluster.start_timeout_s
        layouts = wait_for([actor.layout.remote() for actor in self.pool.actors], timeout_s, "starting the client actors")
        if any(layout != layouts[0] for layout in layouts):
            found = sorted({layout.model_fingerprint for layout in layouts})
            raise ModelError(f"the client actors loaded different base models {found} from model.path={self._sources.model.path}")
        return layouts[0]

    def _aggregator_config(self) -> AggregatorConfig:
        config = self._config
        return AggregatorConfig(
            training=config.training,
            defense=config.defense,
            aggregation=config.aggregation,
            admission=config.admission,
            min_updates=config.clients.quorum,
        )


def load_probe_meta(config: RunConfig, sources: Sources) -> ProbeMeta | None:
    """What the run's probe says of itself; None at level none.

    Raises:
        ConfigError: no usable artefact, or a shadow that trains by another recipe than the probe's samples.
    """
    if sources.probe_path is None:
        return None
    try:
        meta = load_meta(Path(sources.probe_path))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    shadow_rate, probes_rate = config.defense.shadow.learning_rate, meta.recipe.get(_RECIPE_FIELD)
    if config.defense.level == "shadow" and shadow_rate != probes_rate:
        raise ConfigError(
            f"defense.shadow.learning_rate={shadow_rate:g} is not the {probes_rate:g} that the probe {sources.probe_path} was "
            f"collected with; set defense.shadow.learning_rate={probes_rate:g}, or collect a probe at {shadow_rate:g}"
        )
    return meta
