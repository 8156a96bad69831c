"""The federation: one loop over rounds, from a configuration to a run directory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ray.exceptions import RayError

from actors.errors import ModelError, SafeFedError
from cluster.config.loading import load_config
from cluster.config.schema import RunConfig
from cluster.data.own_data import client_names
from cluster.data.sources import Sources
from cluster.data.starter import needed_keys
from cluster.errors import CheckpointError, ClusterError, LostError
from cluster.live.control import LiveRun
from cluster.live.orders import Orders
from cluster.probes.own_probe import own_probe
from cluster.probes.suitability import load_suited
from cluster.ray_connection.session import ray_session
from cluster.report.card import model_card
from cluster.report.run_result import RunResult
from cluster.reporting.callback import Callbacks, RunCallback
from cluster.reporting.event_log import EventLog
from cluster.reporting.instruments import Instruments
from cluster.reporting.metrics import Metrics
from cluster.reporting.progress import CollectionLines
from cluster.reporting.safety import lost_safety
from cluster.reporting.status import LiveStatus
from cluster.reporting.summary import summarise
from cluster.round.realignment import realign
from cluster.round.round import RoundResult, RoundRunner
from cluster.simulation.simulation import Simulation, prepare_inputs
from cluster.state.carried_over import changed_keys
from cluster.state.checkpoints import Checkpoints, below, with_absolute_place
from cluster.state.lease import Lease
from cluster.state.membership import Membership
from cluster.state.run_directory import RunDirectory
from cluster.state.run_state import Change, PendingEvaluation, Realigned, RunState, decode_state, encode_state, find_fall
from cluster.tracking.opening import check_installed, open_trackers
from cluster.tracking.tracker import TrackedRun
from cluster.workers.deadlines import first_line
from cluster.workers.deaths import fate_of
from cluster.workers.memory import PeakMemory
from cluster.workers.worker_group import WorkerGroup
from probe.meta import META_FILE, decode_meta

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Resumed:
    """A run that began earlier, and that this driver owns."""

    directory: RunDirectory
    checkpoints: Checkpoints
    state: RunState | None
    """Its last committed round; None: it has none yet."""
    is_back: bool
    """Whether it goes back: later checkpoints are rejected once it goes on."""
    changes: tuple[str, ...] = ()
    """What config.yaml has changed since."""
    warnings: tuple[str, ...] = ()


class Federation:
    """One run. `Federation(load_config(None, ["rounds=2"]), "runs/mine").run()` does it all.

    It owns its directory from here on until `run` or `close` ends.
    """

    def __init__(
        self, config: RunConfig, output: Path | str, callback: RunCallback | None = None, *, _resumed: _Resumed | None = None
    ) -> None:
        """Check the inputs and create the run directory. No actor of the run is started yet. Where levels need a probe, and none
        is named or kept from an earlier run, reference clients train for it now: that takes minutes.

        Raises:
            ConfigError, DataError: something is missing or does not fit, or checkpoint.path holds another run's checkpoints.
            CheckpointError: another driver owns the directory or the place for checkpoints, or one cannot be written.
        """
        check_installed(config)
        config = config if _resumed else with_absolute_place(config)
        self.config, self._callback, self._resumed = config, callback or RunCallback(), _resumed
        self._directory = _resumed.directory if _resumed else RunDirectory.create(Path(output), config)
        with self._directory.discarded_on_error():
            self._checkpoints = _resumed.checkpoints if _resumed else _open_checkpoints(config, self._directory)
            if _resumed is None:
                self._checkpoints.check_unused()
            self._owned = _own(self._directory, self._checkpoints)
            with _closed_on_error(self._owned):
                if unnamed := needed_keys(config):
                    self._callback.preparing(f"Starter data of this project stands in for what {', '.join(unnamed)} could name.")
                has_committed = _resumed is not None and _resumed.state is not None
                self._sources, self._simulation = prepare_inputs(
                    config, self._directory.path, has_committed=has_committed, make_probe=self._make_probe
                )
                self._probe_meta = load_suited(config, self._sources.probe_path)
                self._directory.write_ground_truth(client_names(config.clients.count), self._simulation.malicious)

    @classmethod
    def resume(
        cls,
        path: Path | str,
        callback: RunCallback | None = None,
        *,
        from_round: int | None = None,
        config: RunConfig | None = None,
    ) -> Federation:
        """A run that was killed, from its last committed round; it ends in the bits of one that never was.

        Args:
            path: The run's directory.
            from_round: Go back to the state after so many rounds instead; later checkpoints are removed once the run goes on.
            config: In place of the directory's config.yaml.

        Raises:
            ConfigError: no run lies there, or a key differs that may not change once rounds are committed.
            CheckpointError: another driver owns the run, its checkpoint cannot be used, or it has committed rounds but no
                checkpoint.
        """
        directory = RunDirectory.reopen(Path(path))
        with _released_on_error(directory):
            directory.take()
            asked = with_absolute_place(config or load_config(directory.path / "config.yaml"))
            warnings: list[str] = []
            checkpoints = _open_checkpoints(asked, directory, warnings.append)
            found = checkpoints.load(from_round)
            if found is None and directory.has_committed:
                raise _lost_checkpoints(directory, checkpoints)
            state = decode_state(found[1], checkpoints.history) if found else None
            resumed = _Resumed(
                directory=directory,
                checkpoints=checkpoints,
                state=state,
                is_back=from_round is not None,
                changes=tuple(changed_keys(state.config, asked)) if state else (),
                warnings=tuple(warnings),
            )
            return cls(asked, path, callback, _resumed=resumed)

    def _make_probe(self, config: RunConfig) -> str:
        """The folder of a probe for this run, which is made where none is kept."""
        return own_probe(config, self._callback.preparing, CollectionLines(self._callback.preparing))

    def close(self) -> None:
        """Let another driver own the run; only needed where `run` is never called."""
        self._owned.close()

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

    def run(self) -> RunResult:
        """Train all rounds that are left, evaluate, write the run directory, and check the adapter that lies there.

        Raises:
            ModelError, ClusterError: peft does not load the saved adapter as the run's, or no actor could try; all is written.
            ConfigError: a tracker of `tracking` cannot begin.
        """
        started, memory = time.perf_counter(), PeakMemory()
        memory.start()
        with self._owned, self._told(), self._tracked() as callback:
            try:
                with self._started(started, callback) as loop:
                    loop.run()
                    fault = loop.adapter_fault()
            finally:
                peak_mb = memory.stop()
            result = self._finish(loop.state, peak_mb)
            if fault is not None:
                kind = ModelError if isinstance(fault, ModelError) else ClusterError
                raise kind(f"{fault}; the run's results are written in {self._directory.path}") from fault
            callback.finished(self._directory.path)
        return result

    @contextmanager
    def _tracked(self) -> Iterator[RunCallback]:
        """The caller's callback, and one for each tracker of the configuration, until the run has ended."""
        committed = self._resumed.state if self._resumed else None
        run = TrackedRun(
            name=self.name,
            run_id=self._directory.run_id or self.name,
            path=self._directory.path.resolve(),
            rounds_done=committed.rounds_done if committed else None,
        )
        with ExitStack() as stack:
            with self._directory.discarded_on_error():
                trackers = stack.enter_context(open_trackers(self.config, run, self._callback.warned))
            yield Callbacks(self._callback, *trackers)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An error of a disk says how to go on."""
        try:
            yield
        except SafeFedError:
            raise
        except OSError as error:
            raise ClusterError(
                f"{self._directory.path}: {error}; remove the cause (is the disk full, or read-only?) and go on with: "
                f"{self._directory.go_on}"
            ) from error

    @contextmanager
    def _started(self, began: float, callback: RunCallback) -> Iterator[_Loop]:
        """Ray with the run's actors started; what fails before the first round leaves no directory behind."""
        with ExitStack() as stack:
            with self._directory.discarded_on_error():
                stack.enter_context(ray_session(self.config.cluster.address))
                loop = self._start(stack, began, callback)
            yield loop

    def _start(self, stack: ExitStack, began: float, told: RunCallback) -> _Loop:
        """Start the actors, make the run known on the cluster until the stack unwinds, and restore the committed state."""
        config, directory = self.config, self._directory
        orders = Orders(self.name, config, directory, self._sources.tokens)
        stack.callback(orders.close)
        metrics = Metrics(Instruments(self.name))
        stack.callback(metrics.close)
        path = directory.path.resolve()
        status, log = LiveStatus(self.name, str(path), orders.publish), EventLog(path / "events.jsonl", self.name)
        callback = orders.callback = Callbacks(told, status, metrics, log)
        callback.starting(config)
        for what in self._sources.tokens.take_left_out():
            callback.data_left_out(what)
        for why in self._resumed.warnings if self._resumed else ():
            callback.warned(why)
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
        resumed = self._resumed
        loop.begin(
            is_resumed=committed is not None,
            changes=resumed.changes if resumed else (),
            is_back=resumed is not None and resumed.is_back,
        )
        directory.write_config(loop.state.config_in_force)
        directory.remove_summary()
        return loop

    def _first_state(self, workers: WorkerGroup) -> RunState:
        """Nothing is done, and the base model is to be evaluated."""
        state = workers.initial_state()
        if workers.probe_meta is not None:
            self._directory.write_probe(workers.probe_meta.version, state.probe)
        return replace(state, pending={0: PendingEvaluation(adapter_version=0, adapter=state.aggregator.adapter)})

    def _restored_state(self, workers: WorkerGroup, committed: RunState) -> RunState:
        """The committed state under the configuration of now, with what has changed in it recorded."""
        self._check_same_model(workers, committed)
        self._encode_missing(committed.membership)
        changed = self._resumed.changes if self._resumed else ()
        state = replace(
            committed,
            config=self.config,
            aggregator=replace(committed.aggregator, defense=self.config.defense),
            changes=(*committed.changes, *(Change(round=committed.rounds_done, order=order) for order in changed)),
            guard=committed.guard or workers.initial_guard(),
        )
        workers.restore(state)
        return state

    def _check_same_model(self, workers: WorkerGroup, committed: RunState) -> None:
        """Raises CheckpointError when model.path, world.path or probe.path lead to something else than when the run began."""
        if workers.model_fingerprint != committed.model_fingerprint:
            raise CheckpointError(
                f"model.path={self._sources.model.path} holds base model {workers.model_fingerprint}, the committed rounds were "
                f"trained on {committed.model_fingerprint}; name the folder of that one"
            )
        if committed.lora_fingerprint and workers.lora_fingerprint != committed.lora_fingerprint:
            raise CheckpointError(
                f"lora.start_from={self.config.lora.start_from} holds another adapter than when the run began; put "
                "that one back, since refusals and shadows are measured against it"
            )
        if self._probe_meta is not None and META_FILE in committed.probe:
            kept = decode_meta(committed.probe[META_FILE])
            if kept.purpose != self._probe_meta.purpose:
                raise CheckpointError(
                    f"probe.path={self._sources.probe_path} was made for another feature, model or LoRA than the probe of the "
                    "committed rounds; name the folder of the probe that the run began with"
                )

    def _encode_missing(self, members: Membership) -> None:
        """Encode the files of clients whose tokens did not come along: a run may be resumed in another place."""
        tokens = self._sources.tokens
        for client_id, files in members.known.items():
            if not tokens.has(client_id):
                tokens.encode(client_id, files, may_be_empty=True)

    def _finish(self, state: RunState, peak_mb: float) -> RunResult:
        summary = summarise(self.config, state, self._simulation.malicious, peak_mb)
        self._directory.write_summary(summary)
        if state.rounds:
            self._directory.write_card(model_card(self._directory.path))
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

    def begin(self, *, is_resumed: bool, changes: Sequence[str] = (), is_back: bool = False) -> None:
        """Say what there is, and begin the evaluations that are not done yet.

        Args:
            changes: What config.yaml has changed since the last committed round.
            is_back: Whether later rounds were committed, which one new checkpoint rejects.
        """
        for rounds_done, item in self.state.pending.items():
            self.workers.evaluations.submit(rounds_done, item)
        if is_resumed:
            if is_back:
                self._save()
                self.checkpoints.remove_later()
                self.checkpoints.history.remove_others()
            self._write_tables()
            self.callback.resumed(self.state.rounds_done, self.state.rounds[-1] if self.state.rounds else None)
        for order in changes:
            self.callback.order_carried_out(self.state.rounds_done, order)
        self.callback.members_changed(self.state.membership.active)

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
        before = self.state.config_in_force
        self.state, stop = self.orders.carry_out(self.state, self.workers)
        if self.state.config_in_force != before:
            self.directory.write_config(self.state.config_in_force)
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
        is_committed = (index + 1) % self.config.checkpoint.every == 0
        if is_committed:
            self._save()
        self._take_evaluations(block=False)
        if is_committed:
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
        self.workers.tell_end()
        bound, fall = self.config.evaluation.stop_below, find_fall(self.config, self.state.evaluations)
        if bound is not None and fall is not None:
            self.callback.safety_fell(fall, bound)

    def adapter_fault(self) -> SafeFedError | None:
        """What is wrong with the adapter as the files hold it; None: peft loads it and it gives the run's logits."""
        try:
            self.workers.check_saved(self.state.final_adapter, *self.directory.read_adapter())
        except SafeFedError as error:
            return error
        return None

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
            if warning := lost_safety(self.state.evaluations[0], report):
                self.callback.warned(warning)

    def _save(self) -> None:
        """Write a checkpoint; from here on the round is committed."""
        elapsed_s = time.perf_counter() - self.started
        self.state = replace(self.state, pending=dict(self.workers.evaluations.pending), elapsed_s=elapsed_s)
        history = self.checkpoints.history.write(self.state.reports)
        self.checkpoints.save(self.state.rounds_done, encode_state(self.state, history))

    def _write_tables(self) -> None:
        state = self.state
        self.directory.write_rounds(state.rounds)
        if state.evaluations:
            self.directory.write_evaluation(state.evaluations)
        self.directory.write_probe_rounds(state.probe_rounds)


def _open_checkpoints(config: RunConfig, directory: RunDirectory, tell: Callable[[str], None] = _LOG.warning) -> Checkpoints:
    path, here = config.checkpoint.path, directory.path.resolve()
    location = below(path, here.name) if path else str(here / "checkpoints")
    return Checkpoints(location, config.checkpoint.keep, directory.run_id, go_on=directory.go_on, tell=tell)


def _own(directory: RunDirectory, checkpoints: Checkpoints) -> ExitStack:
    """Own the place for checkpoints too; closing the stack releases both."""
    with ExitStack() as stack:
        stack.callback(directory.release)
        lease = Lease(checkpoints.place)
        stack.callback(lease.close)
        checkpoints.own(lease)
        return stack.pop_all()


def _lost_checkpoints(directory: RunDirectory, checkpoints: Checkpoints) -> CheckpointError:
    return CheckpointError(
        f"{directory.path} has committed rounds (rounds.parquet), but there is no checkpoint in {checkpoints.location}; where "
        "they were moved, or the directory was renamed or copied, put them there or name their place in checkpoint.path of "
        f"{directory.path / 'config.yaml'} (the directory's name is appended); where they were removed (`compare --lean`), the "
        "run cannot go on: start another one"
    )


@contextmanager
def _closed_on_error(owned: ExitStack) -> Iterator[None]:
    with ExitStack() as stack:
        stack.push(owned)
        yield
        stack.pop_all()


@contextmanager
def _released_on_error(directory: RunDirectory) -> Iterator[None]:
    try:
        yield
    except BaseException:
        directory.release()
        raise
