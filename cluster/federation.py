"""The federation: one loop over rounds, from a configuration to a run directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.data.sources import client_names, new_client_files, prepare_sources
from cluster.errors import ClusterError, LostError
from cluster.live.handle import LiveRun
from cluster.live.orders import Boundary
from cluster.live.status import LiveStatus
from cluster.ray_connection.session import ray_session
from cluster.reporting.event_log import EventLog
from cluster.reporting.instruments import Instruments
from cluster.reporting.metrics import Metrics
from cluster.reporting.pictures import draw_run
from cluster.reporting.progress import Progress, Watchers
from cluster.reporting.summary import summarise
from cluster.round.realignment import realign
from cluster.round.round import RoundResult, RoundRunner
from cluster.state.checkpoints import Checkpoints, below
from cluster.state.membership import Roster
from cluster.state.run_directory import RunDirectory
from cluster.state.run_state import PendingEvaluation, Realigned, RunState, decode_state, encode_state
from cluster.state.safety_bound import find_fall
from cluster.workers.memory import PeakMemory
from cluster.workers.worker_group import Crew


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


class Federation:
    """One run. `Federation(load_config(None, ["rounds=2"]), "runs/mine").run()` does it all."""

    def __init__(self, config: RunConfig, output: Path | str, progress: Progress | None = None) -> None:
        """Check the inputs and create the run directory; nothing is started yet.

        Raises:
            ConfigError, DataError: something is missing or does not fit, or checkpoint.path holds another run's checkpoints.
        """
        directory = RunDirectory.create(Path(output), config)
        with directory.discarded_on_error():
            _checkpoints(config, directory).check_unused()
        self._begin(config, directory, progress, committed=None)

    @classmethod
    def resume(cls, path: Path | str, progress: Progress | None = None, *, from_round: int | None = None) -> Federation:
        """A run that was killed, from its last committed round; it ends in the bits of one that never was.

        Args:
            path: The run's directory.
            from_round: Go back to the state after so many rounds instead; later checkpoints are removed once the run goes on.

        Raises:
            ConfigError: no run lies there. CheckpointError: its checkpoint cannot be used.
        """
        directory = RunDirectory.reopen(Path(path))
        config = load_config(directory.path / "config.yaml")
        found = _checkpoints(config, directory).load(from_round)
        federation = cls.__new__(cls)
        federation._begin(config, directory, progress, committed=decode_state(found[1]) if found else None)
        federation._from_round = from_round
        return federation

    def _begin(
        self, config: RunConfig, directory: RunDirectory, progress: Progress | None, *, committed: RunState | None
    ) -> None:
        self.config = config
        self._progress, self._directory = progress or Progress(), directory
        with directory.discarded_on_error():
            self._checkpoints = _checkpoints(config, directory)
            self._sources = prepare_sources(config, directory.path)
            self._crew = Crew(config, self._sources)
            directory.write_ground_truth(client_names(config.clients.count), self._sources.malicious)
        self._committed, self._from_round = committed, None
        self._state: RunState

    @staticmethod
    def attach(name: str | None = None) -> LiveRun:
        """A handle on a run that is live on the connected cluster; see `LiveRun`."""
        return LiveRun(name)

    def scale(self, clients: int) -> None:
        """Let so many clients take part from the next round on; for another thread of this process while `run` goes on."""
        self.attach(self.name).scale(clients)

    @property
    def name(self) -> str:
        """By which `attach` finds the run while it is live."""
        return self.config.name or self._directory.path.resolve().name

    def run(self) -> RunResult:
        """Train all rounds that are left, evaluate, and write the run directory."""
        started, memory = time.perf_counter(), PeakMemory()
        memory.start()
        try:
            with self._session():
                while self._state.rounds_done < self.config.rounds and self._is_safe() and self._may_go_on():
                    self._commit(self._run_round(), started)
                self._evaluate_last()
                if self.config.realignment.steps and self._state.rounds_done == self.config.rounds and self._is_safe():
                    self._realign()
                self._end(started)
        finally:
            peak_mb = memory.stop()
        return self._finish(peak_mb)

    def _is_safe(self) -> bool:
        """False when safety fell under evaluation.stop_below; only with that key set are evaluations waited for."""
        if self.config.evaluation.stop_below is None:
            return True
        self._take_evaluations(block=True)
        return find_fall(self.config, self._state.evaluations) is None

    def _may_go_on(self) -> bool:
        """Between two rounds: orders take effect; False when one of them was to stop."""
        self._state, stop = self._boundary.cross(self._state)
        if stop:
            self._progress.state_changed("stopping")
        return not stop

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Ray with the run's actors started; what fails before the first round leaves no directory behind."""
        with ExitStack() as stack:
            with self._directory.discarded_on_error():
                stack.enter_context(ray_session(self.config.cluster.address))
                stack.callback(self._crew.close)
                self._watch(stack)
                self._progress.starting(self.config)
                self._crew.start()
                self._state = self._begin_state()
                self._discard_later()
            yield

    def _watch(self, stack: ExitStack) -> None:
        """Make the run known on the cluster until the stack unwinds, with every event from here on."""
        name, path = self.name, self._directory.path.resolve()
        self._boundary = Boundary(name, self.config, self._sources, self._crew, self._directory)
        stack.callback(self._boundary.close)
        metrics = Metrics(Instruments(name))
        stack.callback(metrics.close)
        status, log = LiveStatus(name, str(path), self._boundary.publish), EventLog(path / "events.jsonl", name)
        self._progress = self._boundary.progress = Watchers(self._progress, status, metrics, log)

    def _begin_state(self) -> RunState:
        """The state to start from, with the evaluations that were not done yet begun again."""
        state = self._committed
        if state is None:
            state = self._crew.initial_state()
            base = PendingEvaluation(adapter_version=0, adapter=state.aggregator.adapter)
            state = replace(state, pending={0: base})
            if state.probe:
                self._directory.write_probe(self._crew.probe_meta.version, state.probe)
        else:
            state = replace(state, roster=self._with_files(state.roster), guard=state.guard or self._crew.initial_guard())
            self._crew.restore(state)
            self._write_tables(state)
            self._progress.resumed(state.rounds_done, state.rounds[-1] if state.rounds else None)
        self._progress.members_changed(state.roster.active)
        for rounds_done, item in state.pending.items():
            self._crew.evaluations.submit(rounds_done, item)
        return state

    def _discard_later(self) -> None:
        """The outcome of an earlier end, and the rounds that the run went back from: kept until it really goes on."""
        self._directory.remove_summary()
        if self._from_round is not None:
            self._checkpoints.remove_after(self._from_round)

    def _with_files(self, roster: Roster) -> Roster:
        """A roster whose data files exist on this machine: a run may be resumed in another place."""
        files, joined = self._sources.files, len(roster.known) - len(self._sources.files)
        if joined > 0 and self.config.is_embedded:
            files = {**files, **new_client_files(self.config, self._directory.path, files, joined)}
        missing = {client_id for client_id, paths in roster.known.items() if not all(Path(path).is_file() for path in paths)}
        return replace(roster, known={name: files.get(name, p) if name in missing else p for name, p in roster.known.items()})

    def _run_round(self) -> RoundResult:
        """The next round, begun again from the committed state when an actor that it needs dies."""
        runner = RoundRunner(self.config, self._sources, self._crew, self._progress)
        attempts, why = self.config.cluster.round_attempts, ""
        for attempt in range(attempts):
            try:
                if attempt:
                    self._crew.restore(self._state)
                return runner.run(self._state)
            except LostError as error:
                why = str(error)
                self._progress.round_lost(self._state.rounds_done, why)
        raise ClusterError(
            f"round {self._state.rounds_done + 1} lost actors in all cluster.round_attempts={attempts}, last: {why}; "
            f"go on with: safe-fedllm run --resume {self._directory.path}"
        )

    def _commit(self, result: RoundResult, started: float) -> None:
        """Make a round part of the run: state, log, checkpoint; the evaluation overlaps the next round."""
        before, index = self._state, self._state.rounds_done
        self._state = replace(
            before,
            rounds_done=index + 1,
            aggregator=result.aggregator,
            guard=result.guard,
            probe=result.new_probe or before.probe,
            rounds=(*before.rounds, result.report),
            probe_rounds=before.probe_rounds if result.probe_row is None else (*before.probe_rounds, result.probe_row),
        )
        self._progress.round_finished(result.report)
        if result.probe_row is not None:
            self._progress.probe_judged(result.probe_row)
        if result.new_probe:
            self._directory.write_probe(result.probe_row.version, result.new_probe)
        if (index + 1) % self.config.evaluation.every == 0:
            self._evaluate()
        if (index + 1) % self.config.checkpoint.every == 0:
            self._save(started)
        self._take_evaluations(block=False)
        self._write_tables(self._state)

    def _evaluate(self) -> None:
        current = self._state.aggregator
        item = PendingEvaluation(adapter_version=current.version, adapter=current.adapter)
        self._crew.evaluations.submit(self._state.rounds_done, item)

    def _evaluate_last(self) -> None:
        """The adapter that a run ends with is always measured."""
        if not self._is_evaluated(self._state.rounds_done):
            self._evaluate()

    def _is_evaluated(self, rounds_done: int) -> bool:
        """Whether an evaluation is done or under way."""
        return rounds_done in {report.rounds_done for report in self._state.evaluations} | set(self._crew.evaluations.pending)

    def _realign(self) -> None:
        """One more step after the last round; its adapter is measured as one of a round more, beside the other."""
        current, began = self._state.aggregator, time.perf_counter()
        if self._state.realigned is None:
            self._progress.state_changed("realigning")
            adapter = realign(self.config, self._sources.realignment, self._crew.reference_pool, current.adapter)
            realigned = Realigned(adapter=adapter, seconds=time.perf_counter() - began)
            self._state = replace(self._state, realigned=realigned)
            self._progress.realigned(self.config.realignment.steps, realigned.seconds)
        if not self._is_evaluated(self._state.rounds_done + 1):
            item = PendingEvaluation(adapter_version=current.version + 1, adapter=self._state.final_adapter)
            self._crew.evaluations.submit(self._state.rounds_done + 1, item)

    def _end(self, started: float) -> None:
        """Keep what the rounds made before waiting for the last evaluations, so that it is there when one of them fails."""
        self._directory.write_adapter(self._state.final_adapter, self._crew.peft_config_json)
        self._save(started)
        self._take_evaluations(block=True)
        self._save(started)
        self._write_tables(self._state)
        if (fall := find_fall(self.config, self._state.evaluations)) is not None:
            self._progress.safety_fell(fall, self.config.evaluation.stop_below)

    def _take_evaluations(self, *, block: bool) -> None:
        try:
            reports = self._crew.evaluations.collect(block=block)
        except ClusterError as error:
            raise ClusterError(
                f"{error}; remove the cause and go on with: safe-fedllm run --resume {self._directory.path}"
            ) from error
        for report in reports:
            self._state = replace(self._state, evaluations=(*self._state.evaluations, report))
            self._directory.write_evaluation(self._state.evaluations)
            self._progress.evaluated(report)

    def _save(self, started: float) -> None:
        """Write a checkpoint; from here on the round is committed."""
        earlier_s = self._committed.elapsed_s if self._committed else 0.0
        elapsed_s = earlier_s + time.perf_counter() - started
        self._state = replace(self._state, pending=dict(self._crew.evaluations.pending), elapsed_s=elapsed_s)
        self._checkpoints.save(self._state.rounds_done, encode_state(self._state))

    def _write_tables(self, state: RunState) -> None:
        self._directory.write_rounds(state.rounds)
        if state.evaluations:
            self._directory.write_evaluation(state.evaluations)
        if state.probe_rounds:
            self._directory.write_probe_rounds(state.probe_rounds)

    def _finish(self, peak_mb: float) -> RunResult:
        state = self._state
        summary = summarise(
            self.config,
            state.rounds,
            state.probe_rounds,
            state.evaluations,
            self._sources.malicious,
            adapter=state.final_adapter,
            realigned_s=state.realigned.seconds if state.realigned else 0.0,
            changes=state.changes,
            wall_s=state.elapsed_s,
            peak_rss_mb=peak_mb,
        )
        self._directory.write_summary(summary)
        if state.rounds:
            draw_run(self._directory.path, state.rounds, state.evaluations, self._sources.malicious)
        return RunResult(self._directory.path, summary)


def _checkpoints(config: RunConfig, directory: RunDirectory) -> Checkpoints:
    path, here = config.checkpoint.path, directory.path.resolve()
    return Checkpoints(below(path, here.name) if path else str(here / "checkpoints"), config.checkpoint.keep, directory.run_id)
