"""The loop over rounds of a run whose actors are there: train, commit, evaluate, until the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ray.exceptions import RayError

from actors.errors import SafeFedError
from cluster.config.schema import RunConfig
from cluster.data.sources import Sources
from cluster.errors import ClusterError, LostError
from cluster.live.orders import Orders
from cluster.reporting.callback import RunCallback
from cluster.reporting.safety import lost_safety
from cluster.round.realignment import realign
from cluster.round.round import RoundResult, RoundRunner
from cluster.simulation.simulation import Simulation
from cluster.state.checkpoints import Checkpoints
from cluster.state.run_directory import RunDirectory
from cluster.state.run_state import PendingEvaluation, Realigned, RunState, encode_state, find_fall
from cluster.workers.deadlines import first_line
from cluster.workers.deaths import fate_of
from cluster.workers.worker_group import WorkerGroup


@dataclass(slots=True, kw_only=True)
class Loop:
    """A run's rounds, and what is committed of them."""

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
