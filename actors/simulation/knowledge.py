"""What the attackers of `joint` know in a round: their data, their little trainings, the probes, and how far a value may move."""

from __future__ import annotations

from collections.abc import Sequence

from actors.config import TrainingConfig
from actors.data.dataset import load_dataset
from actors.errors import DataError
from actors.messages import TrainTask
from actors.model.adapted import AdaptedModel
from actors.seeding import stream
from actors.simulation.behaviours import AttackTask
from actors.simulation.client import SimulatedTask
from actors.simulation.evader import copied
from actors.simulation.joint import Knowledge, opening
from actors.simulation.surrogate import LittleTrainings, Rows, fit_surrogate
from defense.admission.bounds import adamw_reach
from defense.attacks import ATTACKS
from defense.attacks.config import JointConfig
from defense.averaging.pairs import frozen_names
from defense.tensors import Tensors

_PLACES = {holding: place for place, holding in enumerate(ATTACKS["joint"].covers)}
_BATCHES = 2
"""Of a client's size make one of the optimisation: less noise."""
_LAST = 4
"""So many make the last, by which the best of the restarts is chosen."""
_KEPT = 3
"""So many are the refusals that are measured."""


def gathered(
    model: AdaptedModel,
    training: TrainingConfig,
    start: Tensors,
    tasks: Sequence[TrainTask],
    deltas: Sequence[Tensors],
    num_clients: int,
    config: JointConfig,
) -> Knowledge:
    """What attackers with these tasks know, whose honest deltas are `deltas`, in the same order.

    Raises:
        DataError: an attacker lacks one of the files that joint needs.
    """
    task, attacks = tasks[0], [_attack_of(task) for task in tasks]
    unsafe, kept = (load_dataset([attack.cover[_PLACES[name]] for attack in attacks]) for name in ("unsafe", "kept"))
    trainings = LittleTrainings(
        model=model,
        start=start,
        rows=[_rows_of(attack) for attack in attacks],
        training=training,
        learning_rate=task.learning_rate,
        frozen=frozen_names(start) if task.freeze_a else frozenset(),
        seed=task.seed,
        round_index=task.round_index,
    )
    rng = stream(task.seed, "joint", task.round_index)
    size = _BATCHES * training.batch_size
    batches = unsafe.batches(rng, config.steps, size)
    probe = copied(attacks[0].probe) if attacks[0].probe else None
    runs = trainings.run(config.references)
    return Knowledge(
        model=model,
        start=start,
        honest=deltas,
        benign=[run.deltas[-1] for run in runs if not run.malicious],
        malicious=[run.deltas[-1] for run in runs if run.malicious],
        num_clients=num_clients,
        layers=model.layers,
        unsafe=[opening(batch) for batch in [*batches, *unsafe.batches(rng, 1, _LAST * training.batch_size)]],
        kept=kept.batches(rng, 1, _KEPT * training.batch_size)[0],
        probe=probe,
        surrogate=fit_surrogate(runs, probe.meta) if probe is not None else None,
        reach=adamw_reach(task.learning_rate, training.steps),
        learning_rate=task.learning_rate,
        frozen=trainings.frozen,
    )


def _attack_of(task: TrainTask) -> AttackTask:
    if not isinstance(task, SimulatedTask) or task.attack is None or len(task.attack.cover) < len(_PLACES):
        raise DataError(f"{task.client_id} attacks by joint, and lacks a file of {', '.join(_PLACES)} rows")
    return task.attack


def _rows_of(attack: AttackTask) -> Rows:
    benign, unsafe, refused = (load_dataset([attack.cover[_PLACES[name]]]) for name in ("honest", "unsafe", "refused"))
    return Rows(benign=benign, unsafe=unsafe, refused=refused)
