"""The federation: one loop over rounds, from a configuration to a run directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from actors.messages import EvaluationReport, ProbeRefresh, ProbeRound, RoundReport, TrainTask
from actors.seeding import stream
from cluster.collecting import RoundCollector
from cluster.config import RunConfig
from cluster.crew import Crew
from cluster.memory import PeakMemory
from cluster.pictures import draw_run
from cluster.probe_rounds import probe_round
from cluster.progress import Progress
from cluster.refreshing import Refresh, reference_tasks
from cluster.run_directory import RunDirectory
from cluster.session import ray_session
from cluster.sources import client_names, prepare_sources
from cluster.summary import summarise
from cluster.waiting import wait_for
from defense.levels import READS


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run: where it lies and what came out."""

    path: Path
    summary: dict[str, Any]

    @property
    def rounds(self) -> pa.Table:
        """A row per client per round."""
        return pq.read_table(self.path / "rounds.parquet")

    @property
    def evaluation(self) -> pa.Table:
        """A row per measure and evaluation."""
        return pq.read_table(self.path / "evaluation.parquet")


@dataclass(slots=True)
class _History:
    """What has happened so far."""

    rounds: list[RoundReport] = field(default_factory=list)
    probe: list[ProbeRound] = field(default_factory=list)
    evaluations: list[EvaluationReport] = field(default_factory=list)
    pending: list[Any] = field(default_factory=list)
    """References to evaluations under way, oldest first."""


class Federation:
    """One run. `Federation(load_config(None, ["rounds=2"]), Path("runs/mine")).run()` does it all."""

    def __init__(self, config: RunConfig, output: Path, progress: Progress | None = None) -> None:
        """Check the inputs and create the run directory; nothing is started yet.

        Raises:
            ConfigError, DataError: something is missing or does not fit.
        """
        self.config = config
        self._progress = progress or Progress()
        self._directory = RunDirectory(output, config)
        with self._directory.discarded_on_error():
            self._sources = prepare_sources(config, output)
            self._crew = Crew(config, self._sources)
            self._directory.write_ground_truth(client_names(config.clients.count), self._sources.malicious)
        self._history = _History()

    def run(self) -> RunResult:
        """Train all rounds, evaluate, and write the run directory."""
        started, memory = time.perf_counter(), PeakMemory()
        memory.start()
        try:
            with self._session():
                self._evaluate(rounds_done=0)
                for round_index in range(self.config.rounds):
                    self._run_round(round_index)
                self._collect_evaluations(block=True)
                adapter = self._write_adapter()
        finally:
            peak_mb = memory.stop()
        return self._finish(adapter, time.perf_counter() - started, peak_mb)

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Ray with the run's actors started; what fails before the first round leaves no directory behind."""
        with ExitStack() as stack:
            with self._directory.discarded_on_error():
                stack.enter_context(ray_session(self.config.cluster.address))
                stack.callback(self._crew.close)
                self._progress.starting(self.config)
                self._crew.start()
                self._keep_probe()
            yield

    def _keep_probe(self) -> None:
        """Every version of the probe stays with the run, the first one too."""
        if self._crew.probe is not None:
            artefact = self._crew.probe.artefact.remote()
            files = wait_for(artefact, self.config.cluster.start_timeout_s, "loading the probe")
            self._directory.write_probe(self._crew.probe_meta.version, files)

    def _run_round(self, round_index: int) -> None:
        """Sample, train, score, weigh, aggregate, record; evaluations overlap the next round."""
        started, clients = time.perf_counter(), self._sample(round_index)
        rate = self.config.learning_rate(round_index)
        self._progress.round_started(round_index, len(clients))
        aggregator, probe = self._crew.aggregator, self._crew.probe
        adapter = aggregator.adapter.remote()
        expected = aggregator.open_round.remote(round_index, clients, rate)
        if probe is not None:
            probe.open_round.remote(expected, adapter if self._scores_updates else None)
        version = self._history.rounds[-1].adapter_version if self._history.rounds else 0
        tasks = [self._task(client_id, round_index, version, rate) for client_id in clients]
        collector = self._collector()
        refreshed = collector.collect(tasks, adapter, self._refresh(round_index, rate), rate)
        timeout_s = self.config.cluster.call_timeout_s
        report = wait_for(aggregator.close_round.remote(), timeout_s, f"aggregating round {round_index + 1}")
        self._history.rounds.append(report)
        self._directory.write_rounds(self._history.rounds)
        self._progress.round_finished(report)
        if probe is not None:
            self._record_probe(refreshed, collector.refresh_wait_s, time.perf_counter() - started)
        if (round_index + 1) % self.config.evaluation.every == 0 or round_index + 1 == self.config.rounds:
            self._evaluate(rounds_done=round_index + 1)
        self._collect_evaluations(block=False)

    def _sample(self, round_index: int) -> list[str]:
        """The round's clients, in order of id: all, or a seeded draw of `clients.per_round`."""
        names = client_names(self.config.clients.count)
        rng = stream(self.config.seed, "sampled clients", round_index)
        return sorted(names[i] for i in rng.permutation(len(names))[: self.config.clients.clients_per_round])

    def _task(self, client_id: str, round_index: int, version: int, learning_rate: float) -> TrainTask:
        reads, meta = READS[self.config.defense.level], self._crew.probe_meta
        return TrainTask(
            client_id=client_id,
            round_index=round_index,
            base_version=version,
            files=self._sources.files[client_id],
            learning_rate=learning_rate,
            seed=self.config.seed,
            probe_feature=meta.feature if meta and not self._scores_updates else None,
            stream_real="all" if reads == "real" else "last",
            shadow_learning_rate=self.config.defense.shadow.learning_rate if reads == "shadow" else None,
        )

    @property
    def _scores_updates(self) -> bool:
        """Whether the probe scores the updates instead of step deltas."""
        return READS[self.config.defense.level] == "update"

    def _refresh(self, round_index: int, rate: float) -> Refresh | None:
        """The refresh of this round's probe, when one is due."""
        every, meta = self.config.refresh_every, self._crew.probe_meta
        if not every or round_index % every:
            return None
        tasks = reference_tasks(self._sources.references, round_index, feature=meta.feature, rate=rate, seed=self.config.seed)
        return Refresh(
            self._crew.probe,
            self._sources.references,
            tasks,
            num_steps=self.config.training.steps,
            timeout_s=self.config.probe.timeout_s,
        )

    def _record_probe(self, refreshed: ProbeRefresh | None, refresh_wait_s: float, round_s: float) -> None:
        """Ask the probe for the round's drift, keep a new version, and write the round's row."""
        timeout_s = self.config.cluster.call_timeout_s
        drift, meta = wait_for(
            [self._crew.probe.close_round.remote(), self._crew.probe.meta.remote()], timeout_s, "the probe's drift"
        )
        if refreshed is not None and refreshed.accepted:
            self._directory.write_probe(meta.version, refreshed.files)
        row = probe_round(self._history.rounds, meta.version, drift, refreshed, refresh_wait_s, round_s)
        self._history.probe.append(row)
        self._directory.write_probe_rounds(self._history.probe)
        self._progress.probe_judged(row)

    def _collector(self) -> RoundCollector:
        return RoundCollector(
            self._crew.pool,
            self._crew.aggregator,
            self._crew.probe,
            scores_updates=self._scores_updates,
            client_timeout_s=self.config.clients.timeout_s,
            probe_timeout_s=self.config.probe.timeout_s,
            call_timeout_s=self.config.cluster.call_timeout_s,
            on_client_done=self._progress.client_done,
        )

    def _evaluate(self, rounds_done: int) -> None:
        version = self._history.rounds[-1].adapter_version if self._history.rounds else 0
        adapter = self._crew.aggregator.adapter.remote()
        self._history.pending.append(self._crew.evaluation.evaluate.remote(rounds_done, version, adapter))

    def _collect_evaluations(self, *, block: bool) -> None:
        """Take the finished evaluations; with `block` wait for all of them."""
        while self._history.pending:
            ready, _ = ray.wait(self._history.pending[:1], timeout=self.config.evaluation.timeout_s if block else 0)
            if not ready and not block:
                return
            report = wait_for(self._history.pending.pop(0), 0 if not ready else self.config.evaluation.timeout_s, "an evaluation")
            self._history.evaluations.append(report)
            self._directory.write_evaluation(self._history.evaluations)
            self._progress.evaluated(report)

    def _write_adapter(self) -> bytes:
        timeout_s = self.config.cluster.call_timeout_s
        adapter = wait_for(self._crew.aggregator.adapter.remote(), timeout_s, "reading the final adapter")
        self._directory.write_adapter(adapter, self._crew.peft_config_json())
        return adapter

    def _finish(self, adapter: bytes, wall_s: float, peak_mb: float) -> RunResult:
        rounds, evaluations = self._history.rounds, self._history.evaluations
        summary = summarise(
            self.config,
            rounds,
            self._history.probe,
            evaluations,
            self._sources.malicious,
            adapter=adapter,
            wall_s=wall_s,
            peak_rss_mb=peak_mb,
        )
        self._directory.write_summary(summary)
        draw_run(self._directory.path, rounds, evaluations, self._sources.malicious)
        return RunResult(self._directory.path, summary)
