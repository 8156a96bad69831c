"""The federation: one loop over rounds, from a configuration to a run directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ray.exceptions import RayError

from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.data.own_data import client_names
from cluster.data.sources import Sources
from cluster.errors import ClusterError, LostError
from cluster.live.control import LiveRun
from cluster.live.orders import Orders
from cluster.probes.suitability import load_suited
from cluster.ray_connection.session import ray_session
from cluster.reporting.callback import Callbacks, RunCallback
from cluster.reporting.event_log import EventLog
from cluster.reporting.instruments import Instruments
from cluster.reporting.metrics import Metrics
from cluster.reporting.pictures import draw_run
from cluster.reporting.status import LiveStatus
from cluster.reporting.summary import summarise
from cluster.round.realignment import realign
from cluster.round.round import RoundResult, RoundRunner
from cluster.simulation.simulation import Simulation, new_client_files, prepare_inputs
from cluster.state.checkpoints import Checkpoints, below
from cluster.state.membership import Membership
from cluster.state.run_directory import RunDirectory, RunResult
from cluster.state.run_state import PendingEvaluation, Realigned, RunState, decode_state, encode_state, find_fall
from cluster.workers.deadlines import first_line
from cluster.workers.deaths import fate_of
from cluster.workers.memory import PeakMemory
from cluster.workers.worker_group import WorkerGroup


@dataclass(frozen=True, slots=True)
class _Resumed:
    """A run that began earlier."""

    directory: RunDirectory
    state: RunState | None
    """Its last committed round; None: it has none yet."""
    from_round: int | None
    """Later checkpoints go once the run goes on; None: there are none."""


class Federation:
    """One run. `Federation(load_config(None, ["rounds=2"]), "runs/mine").run()` does it all."""

    def __init__(
        self, config: RunConfig, output: Path | str, callback: RunCallback | None = None, *, _resumed: _Resumed | None = None
    ) -> None:
        """Check the inputs and create the run directory; nothing is started yet.

        Raises:
            ConfigError, DataError: something is missing or does not fit, or checkpoint.path holds another run's checkpoints.
        """
        self.config, self._callback, self._resumed = config, callback or RunCallback(), _resumed
        self._directory = _resumed.directory if _resumed else RunDirectory.create(Path(output), config)
        with self._directory.discarded_on_error():
            self._checkpoints = _checkpoints(config, self._directory)
            if _resumed is None:
                self._checkpoints.check_unused()
            self._sources, self._simulation = prepare_inputs(config, self._directory.path)
            path = self._sources.probe_path
            self._probe_meta = load_suited(config, Path(path)) if path is not None else None
            self._directory.write_ground_truth(client_names(config.clients.count), self._simulation.malicious)

    @classmethod
    def resume(cls, path: Path | str, callback: RunCallback | None = None, *, from_round: int | None = None) -> Federation:
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
        state = decode_state(found[1]) if found else None
        return cls(config, path, callback, _resumed=_Resumed(directory, state, from_round))

    @staticmethod
    def attach(name: str | None = None) -> LiveRun:
        """A handle on a run that is live on the connected cluster; see `LiveRun`."""
        return LiveRun(name)

    def scale(self, clients: int) -> None:
        """Let so many clients take part from the next round on; for another thread of this process while `run` goes on."""
        self.attach(self.name).scale(clients)

    @property
    def name(self) -> str:
        """The name by which `attach` finds the run while it is live."""
        return self.config.name or self._directory.path.resolve().name

    @property
    def path(self) -> Path:
        """The run's directory."""
        return self._directory.path

    def run(self) -> RunResult:
        """Train all rounds that are left, evaluate, and write the run directory."""
        started, memory = time.perf_counter(), PeakMemory()
        memory.start()
        try:
            with self._started(started) as loop:
                loop.run()
        finally:
            peak_mb = memory.stop()
        return self._finish(loop.state, peak_mb)

    @contextmanager
    def _started(self, began: float) -> Iterator[_Loop]:
        """Ray with the run's actors started; what fails before the first round leaves no directory behind."""
        with ExitStack() as stack:
            with self._directory.discarded_on_error():
                stack.enter_context(ray_session(self.config.cluster.address))
                loop = self._start(stack, began)
            yield loop

    def _start(self, stack: ExitStack, began: float) -> _Loop:
        """Start the actors, make the run known on the cluster until the stack unwinds, and restore the committed state."""
        config, directory = self.config, self._directory
        orders = Orders(self.name, config, directory)
        stack.callback(orders.close)
        metrics = Metrics(Instruments(self.name))
        stack.callback(metrics.close)
        path = directory.path.resolve()
        status, log = LiveStatus(self.name, str(path), orders.publish), EventLog(path / "events.jsonl", self.name)
        callback = orders.callback = Callbacks(self._callback, status, metrics, log)
        callback.starting(config)
        workers = WorkerGroup(config, self._sources, self._probe_meta)
        stack.callback(workers.close)
        committed = self._resumed.state if self._resumed else None
        loop = _Loop(
            config=config,
            sources=self._sources,
            simulation=self._simulation,
            directory=directory,
            checkpoints=self._checkpoints,
            workers=workers,
            orders=orders,
            callback=callback,
            started=began - (committed.elapsed_s if committed else 0.0),
            state=self._first_state(workers) if committed is None else self._restored_state(workers, committed),
        )
        loop.begin(is_resumed=committed is not None)
        directory.remove_summary()
        if self._resumed and self._resumed.from_round is not None:
            self._checkpoints.remove_after(self._resumed.from_round)
        return loop

    def _first_state(self, workers: WorkerGroup) -> RunState:
        """Nothing is done, and the base model is to be evaluated."""
        state = workers.initial_state()
        if workers.probe_meta is not None:
            self._directory.write_probe(workers.probe_meta.version, state.probe)
        return replace(state, pending={0: PendingEvaluation(adapter_version=0, adapter=state.aggregator.adapter)})

    def _restored_state(self, workers: WorkerGroup, committed: RunState) -> RunState:
        state = replace(
            committed, membership=self._with_files(committed.membership), guard=committed.guard or workers.initial_guard()
        )
        workers.restore(state)
        return state

    def _with_files(self, members: Membership) -> Membership:
        """The members with data files that exist on this machine: a run may be resumed in another place."""
        files, joined = self._sources.files, len(members.known) - len(self._sources.files)
        if joined > 0 and self.config.is_embedded:
            files = {**files, **new_client_files(self.config, self._directory.path, files, joined)}
        missing = {client_id for client_id, paths in members.known.items() if not all(Path(path).is_file() for path in paths)}
        return replace(members, known={name: files.get(name, p) if name in missing else p for name, p in members.known.items()})

    def _finish(self, state: RunState, peak_mb: float) -> RunResult:
        summary = summarise(self.config, state, self._simulation.malicious, peak_mb)
        self._directory.write_summary(summary)
        if state.rounds:
            draw_run(self._directory.path, state.rounds, state.evaluations, self._simulation.malicious)
        return RunResult(self._directory.path, summary)


@dataclass(slots=True, kw_only=True)
class _Loop:
    """A run whose actors are there: its rounds, and what is committed of them."""

    config: RunConfig
    sources: Sources
    simulation: Simulation
    directory: RunDirectory
    checkpoints: Checkpoints
    workers: WorkerGroup
    orders: Orders
    callback: RunCallback
    started: float
    """When the run began (perf_counter), less the seconds that it took before it was resumed."""
    state: RunState

    def begin(self, *, is_resumed: bool) -> None:
        """Say what there is, and begin the evaluations that are not done yet."""
        if is_resumed:
            self._write_tables()
            self.callback.resumed(self.state.rounds_done, self.state.rounds[-1] if self.state.rounds else None)
        self.callback.members_changed(self.state.membership.active)
        for rounds_done, item in self.state.pending.items():
            self.workers.evaluations.submit(rounds_done, item)

    def run(self) -> None:
        """Train all rounds that are left, evaluate, and keep the final adapter."""
        while self.state.rounds_done < self.config.rounds and self._is_safe() and self._may_go_on():
            self._commit(self._run_round())
        self._evaluate_last()
        if self.config.realignment.steps and self.state.rounds_done == self.config.rounds and self._is_safe():
            self._realign()
        self._end()

    def _is_safe(self) -> bool:
        """False when safety fell under evaluation.stop_below; only with that key set the run waits for evaluations."""
        if self.config.evaluation.stop_below is None:
            return True
        self._take_evaluations(block=True)
        return find_fall(self.config, self.state.evaluations) is None

    def _may_go_on(self) -> bool:
        """Between two rounds: orders take effect; False when one of them was to stop."""
        self.state, stop = self.orders.carry_out(self.state, self.workers)
        if stop:
            self.callback.state_changed("stopping")
        return not stop

    def _run_round(self) -> RoundResult:
        """The next round, begun again from the committed state when an actor that it needs dies."""
        runner = RoundRunner(self.config, self.sources, self.simulation, self.workers, self.callback)
        attempts, why = self.config.cluster.round_attempts, ""
        for attempt in range(attempts):
            try:
                if attempt or not self.workers.is_restored:
                    self.workers.restore(self.state)
                return runner.run(self.state)
            except (LostError, RayError) as error:
                if isinstance(error, RayError) and fate_of(error) == "raised":
                    raise
                why = first_line(error)
                self.callback.round_lost(self.state.rounds_done, why)
        raise ClusterError(
            f"round {self.state.rounds_done + 1} lost actors in all cluster.round_attempts={attempts}, last: {why}; "
            f"go on with: safe-fedllm run --resume {self.directory.path}"
        )

    def _commit(self, result: RoundResult) -> None:
        """Make a round part of the run: state, log, checkpoint; the evaluation overlaps the next round."""
        before, index = self.state, self.state.rounds_done
        self.state = replace(
            before,
            rounds_done=index + 1,
            aggregator=result.aggregator,
            guard=result.guard,
            probe=result.new_probe or before.probe,
            rounds=(*before.rounds, result.report),
            probe_rounds=before.probe_rounds if result.probe_row is None else (*before.probe_rounds, result.probe_row),
        )
        self.callback.round_finished(result.report)
        if result.probe_row is not None:
            self.callback.probe_judged(result.probe_row)
            if result.new_probe:
                self.directory.write_probe(result.probe_row.version, result.new_probe)
        if (index + 1) % self.config.evaluation.every == 0:
            self._evaluate()
        if (index + 1) % self.config.checkpoint.every == 0:
            self._save()
        self._take_evaluations(block=False)
        self._write_tables()

    def _evaluate(self) -> None:
        current = self.state.aggregator
        item = PendingEvaluation(adapter_version=current.version, adapter=current.adapter)
        self.workers.evaluations.submit(self.state.rounds_done, item)

    def _evaluate_last(self) -> None:
        """The adapter that a run ends with is always measured."""
        if not self._is_evaluated(self.state.rounds_done):
            self._evaluate()

    def _is_evaluated(self, rounds_done: int) -> bool:
        """Whether an evaluation is done or under way."""
        return rounds_done in {report.rounds_done for report in self.state.evaluations} | set(self.workers.evaluations.pending)

    def _realign(self) -> None:
        """One more step after the last round; its adapter is measured as one of a round more, beside the other."""
        current, began = self.state.aggregator, time.perf_counter()
        if self.state.realigned is None:
            self.callback.state_changed("realigning")
            adapter = realign(self.config, self.sources.realignment, self.workers.reference_pool, current.adapter)
            realigned = Realigned(adapter=adapter, seconds=time.perf_counter() - began)
            self.state = replace(self.state, realigned=realigned)
            self.callback.realigned(self.config.realignment.steps, realigned.seconds)
        if not self._is_evaluated(self.state.rounds_done + 1):
            item = PendingEvaluation(adapter_version=current.version + 1, adapter=self.state.final_adapter)
            self.workers.evaluations.submit(self.state.rounds_done + 1, item)

    def _end(self) -> None:
        """Keep what the rounds made before waiting for the last evaluations, so that it is there when one of them fails."""
        self.directory.write_adapter(self.state.final_adapter, self.workers.peft_config_json)
        self._save()
        self._take_evaluations(block=True)
        self._save()
        self._write_tables()
        bound, fall = self.config.evaluation.stop_below, find_fall(self.config, self.state.evaluations)
        if bound is not None and fall is not None:
            self.callback.safety_fell(fall, bound)

    def _take_evaluations(self, *, block: bool) -> None:
        try:
            reports = self.workers.evaluations.collect(block=block)
        except ClusterError as error:
            raise ClusterError(
                f"{error}; remove the cause and go on with: safe-fedllm run --resume {self.directory.path}"
            ) from error
        for report in reports:
            self.state = replace(self.state, evaluations=(*self.state.evaluations, report))
            self.directory.write_evaluation(self.state.evaluations)
            self.callback.evaluated(report)

    def _save(self) -> None:
        """Write a checkpoint; from here on the round is committed."""
        elapsed_s = time.perf_counter() - self.started
        self.state = replace(self.state, pending=dict(self.workers.evaluations.pending), elapsed_s=elapsed_s)
        self.checkpoints.save(self.state.rounds_done, encode_state(self.state))

    def _write_tables(self) -> None:
        state = self.state
        self.directory.write_rounds(state.rounds)
        if state.evaluations:
            self.directory.write_evaluation(state.evaluations)
        if state.probe_rounds:
            self.directory.write_probe_rounds(state.probe_rounds)


def _checkpoints(config: RunConfig, directory: RunDirectory) -> Checkpoints:
    path, here = config.checkpoint.path, directory.path.resolve()
    return Checkpoints(below(path, here.name) if path else str(here / "checkpoints"), config.checkpoint.keep, directory.run_id)
