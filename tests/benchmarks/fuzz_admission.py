"""Malformed messages against real actors: `python -m tests.benchmarks.fuzz_admission --cases 10000`.

Three clients of the embedded world train once. Then round after round, at every level in turn, they deliver what they have
trained, with malformed messages thrown in before, between and after: to the probe among the step deltas, to the aggregator
among the updates. Every malformed message must be refused with a reason, no actor may raise or die, no actor may read a
refused update, and what the round makes of the three clients must be, to the bit, what it makes of them undisturbed. The last
line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TypeVar

import ray
from ray.exceptions import RayError

from actors import AggregatorActor, AggregatorConfig, ClientActor, ProbeActor, TrainTask
from actors.messages import (
    AdapterLayout,
    Admission,
    AggregatorState,
    ClientEvidence,
    LoRAUpdate,
    ProbeScore,
    Reading,
    StepDelta,
)
from actors.server_data import CanaryActor, ValidationActor
from actors.wire import decode_message, decode_tensors
from cluster import RunConfig, load_config, prepare_sources
from cluster.data.sources import Sources
from defense.admission.checks import OpenRound, Reason
from defense.levels import LEVELS
from probe.config import PAPER_THRESHOLD
from tests.malformed import DELTAS, LAST_STEPS, UPDATES, Delivery

HONEST = ("client-000", "client-001", "client-002")
ATTACKERS = tuple(f"{place}-attacker-{i:02d}" for place in ("a", *HONEST) for i in range(40))
"""Before all honest clients and after each, in order of id. Each delivers once in a round: a second update is a duplicate."""
STRANGERS = ("a-stranger", "client-001-stranger")
SAMPLED = sorted([*HONEST, *ATTACKERS])
CASES_PER_ROUND, LARGEST_BATCH, TIMEOUT_S = 80, 8, 120.0
SETTINGS = (
    "clients.count=3",
    "clients.malicious=1",
    "defense.canary.max_rise=0.5",
    "defense.spectrum.max_flatness=0.9",
    "defense.consensus.min_cosine=-0.1",
)
VALID, AGAIN = "nothing wrong but the sender", "sent again"
NOT_THROUGH_RAY = ("a memoryview", "a bytearray")
"""Ray cannot send the one and hands over the other as bytes."""
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Sent:
    """A message on its way to an actor."""

    sender: str
    payload: object
    last: object = None
    """The last step delta, with an update."""
    area: str = ""
    """Empty: an honest client's."""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Trained:
    """What the honest clients have trained, and what they started from."""

    adapter: bytes
    deltas: Mapping[str, list[bytes]]
    updates: Mapping[str, bytes]

    def delivery(self, sender: str, like: str, expected: OpenRound) -> Delivery:
        """What a client would deliver if it had trained what `like` has."""
        update, last = decode_message(self.updates[like], LoRAUpdate), decode_message(self.deltas[like][-1], StepDelta)
        return Delivery(update, last, decode_tensors(self.adapter), expected).signed(sender)

    def step_deltas(self) -> list[Sent]:
        """Every step delta, the clients taking turns."""
        steps = zip(*(self.deltas[name] for name in HONEST), strict=True)
        return [Sent(name, delta) for step in steps for name, delta in zip(HONEST, step, strict=True)]


class Attack:
    """Deals out malformed messages, every kind about equally often."""

    def __init__(self, trained: Trained, seed: int) -> None:
        self._trained, self._rng = trained, Random(seed)
        whole = [(area, kind) for area in ("update", "update", "stranger") for kind in UPDATES]
        whole += [("stranger", VALID), *[("again", VALID)] * 8]  # a second update is a duplicate whatever it holds
        self._updates = self._deal(whole)
        self._updates_and_pairs = self._deal([*whole, *[("last step", kind) for kind in LAST_STEPS] * 2])
        self._deltas = self._deal([("step delta", kind) for kind in (AGAIN, *DELTAS)])

    def _deal(self, cases: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        return endless([case for case in cases if case[1] not in NOT_THROUGH_RAY], self._rng)

    def among_updates(self, number: int, expected: OpenRound, *, pairs: bool) -> list[Sent]:
        """The honest clients' updates with others among them; `pairs`: also some whose last step delta is not theirs."""
        rng, attackers = self._rng, iter(self._rng.sample(ATTACKERS, len(ATTACKERS)))
        messages = [Sent(name, self._trained.updates[name], self._trained.deltas[name][-1]) for name in HONEST]
        for area, kind in (next(self._updates_and_pairs if pairs else self._updates) for _ in range(number)):
            first = rng.choice([place for place, sent in enumerate(messages) if not sent.area]) if area == "again" else -1
            sender = {"again": messages[first].sender, "stranger": rng.choice(STRANGERS)}.get(area) or next(attackers)
            delivery = self._delivery(sender, expected)
            update, last = LAST_STEPS[kind](delivery, rng) if area == "last step" else delivery.payloads
            if area != "last step" and kind != VALID:
                update = UPDATES[kind].make(delivery.valid_update, rng)
            messages.insert(rng.randint(first + 1, len(messages)), Sent(sender, update, last, area, kind))
        return messages

    def among_deltas(self, number: int, expected: OpenRound) -> list[Sent]:
        """The honest clients' step deltas with others among them."""
        rng, messages = self._rng, self._trained.step_deltas()
        for area, kind in (next(self._deltas) for _ in range(number)):
            if kind == AGAIN:
                first = rng.choice([place for place, sent in enumerate(messages) if not sent.area])
                sent = replace(messages[first], area=area, kind=kind)
            else:
                first, sender = -1, rng.choice([*ATTACKERS, *STRANGERS])
                sent = Sent(sender, DELTAS[kind].make(self._delivery(sender, expected).valid_last, rng), None, area, kind)
            messages.insert(rng.randint(first + 1, len(messages)), sent)
        return messages

    def _delivery(self, sender: str, expected: OpenRound) -> Delivery:
        return self._trained.delivery(sender, self._rng.choice(HONEST), expected)

    def batches(self, messages: Sequence[Sent]) -> Iterator[Sequence[Sent]]:
        """The messages in order, some alone and some together."""
        begin = 0
        while begin < len(messages):
            size = self._rng.randint(1, LARGEST_BATCH)
            yield messages[begin : begin + size]
            begin += size


def endless(items: Sequence[_Item], rng: Random) -> Iterator[_Item]:
    """All items in a shuffled order, again and again."""
    while True:
        yield from rng.sample(items, len(items))


@dataclass(slots=True)
class Tally:
    """What became of the cases."""

    totals: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By area and reason."""

    def judge(self, sent: Sent, answer: object, others: Sequence[object] = ()) -> None:
        """Count an answer: refused with a reason of the enumeration, accepted, or an error in place of an answer.

        Args:
            others: What the other actors say of a refused update: None, for they do not read it.
        """
        refusal = answer.reason if isinstance(answer, Admission) else answer.refusal if isinstance(answer, ProbeScore) else None
        reason = (refusal or "").partition(":")[0]
        verdict = "refused" if reason in set(Reason) and not any(others) else "accepted"
        verdict = "crashes" if any(isinstance(item, Exception) for item in (answer, *others)) else verdict
        self.totals.update(["cases", verdict])
        self.kinds[f"last step: {sent.kind}" if sent.area == "last step" else sent.kind] += 1
        self.reasons[sent.area, reason] += 1
        if verdict != "refused":
            print(f"{verdict}: {sent.area}, {sent.kind}: {(answer, *others)!r:.300}", flush=True)


class Server:
    """The actors that judge, and for each level the state that rounds start from."""

    def __init__(self, trained: Trained, config: RunConfig, sources: Sources, layout: AdapterLayout) -> None:
        self._trained, self._config, self._sources, self._layout = trained, config, sources, layout
        self._adapter = ray.put(trained.adapter)
        self._starts: dict[str, AggregatorState] = {}
        self._undisturbed: dict[str, tuple] = {}
        self._start()

    def _start(self) -> None:
        config, sources = self._config, self._sources
        aggregator = AggregatorConfig(training=config.training, defense=config.defense, threshold=PAPER_THRESHOLD)
        self._aggregator = AggregatorActor.remote(aggregator, self._layout, self._trained.adapter)
        self._probe = ProbeActor.remote(sources.probe_path, self._layout)
        data = sources.model, config.lora
        self._server_data = {
            "canary": CanaryActor.remote(*data, sources.canary_path, config.evaluation.canary_per_round, config.seed),
            "validation": ValidationActor.remote(
                *data, sources.validation, config.training, levels=config.defense.levels, max_rows=100, seed=0
            ),
        }

    def prepare(self, level: str, attack: Attack) -> None:
        """A first round, whose trust all others start from, and one that nobody disturbs."""
        defense = self._config.defense.model_copy(update={"level": level})
        self._starts[level] = AggregatorState(adapter=self._trained.adapter, version=0, trust={}, defense=defense)
        self._round(level, attack, 0, Tally())
        self._starts[level] = replace(self._starts[level], trust=ray.get(self._aggregator.state.remote()).trust)
        self._undisturbed[level] = self._round(level, attack, 0, Tally())

    def disturbed_round(self, level: str, attack: Attack, cases: int, tally: Tally) -> None:
        """A round with so many cases; counts it when it does not end for the honest clients as the undisturbed one."""
        if self._round(level, attack, cases, tally) != self._undisturbed[level]:
            tally.totals["state_changed"] += 1
            print(f"a round at level {level} ended differently", flush=True)

    def _round(self, level: str, attack: Attack, cases: int, tally: Tally) -> tuple:
        """All that the honest clients and the next round see of a round, floats to the bit; and that others weigh nothing."""
        signal = LEVELS[level].reads
        weighs_steps, reader = signal in ("real", "shadow"), self._server_data.get(signal or "")
        ray.get(self._aggregator.restore.remote(self._starts[level]))
        expected = ray.get(self._aggregator.open_round.remote(0, SAMPLED, self._config.learning_rate(0)))
        ray.get([actor.open_round.remote(expected, self._adapter) for actor in (self._probe, reader) if actor is not None])
        try:
            num_deltas = cases // 2 if weighs_steps else 0
            scores = self._score(attack, attack.among_deltas(num_deltas, expected), tally) if weighs_steps else {}
            read = {"update": self._probe.score_update}.get(signal, reader.measure if reader is not None else None)
            updates = attack.among_updates(cases - num_deltas, expected, pairs=weighs_steps)
            evidence = self._admit(updates, read, scores, tally)
            ends = (
                self._aggregator.close_round.remote(evidence),
                self._aggregator.state.remote(),
                self._probe.close_round.remote(),
            )
            report, state, closed = ray.get(list(ends))
        except RayError as error:  # a case that did this has been counted
            self._start()
            return (repr(error),)
        own = [repr(row) for row in report.clients if row.client_id in HONEST]
        others = {(r.admitted, r.weight, r.share, r.reason is None) for r in report.clients if r.client_id not in HONEST}
        found = repr([(item.scores, item.readings) for item in evidence])
        verdict = report.outcome, report.why, report.mean_weight
        return state, json.dumps(state.trust, sort_keys=True), verdict, own, others, repr(closed.drift), found

    def _score(self, attack: Attack, messages: Sequence[Sent], tally: Tally) -> dict[str, list[ProbeScore]]:
        """Send step deltas to the probe; returns the honest clients' scores."""
        refs = [ref for batch in attack.batches(messages) for ref in self._score_batch(batch)]
        scores: dict[str, list[ProbeScore]] = {name: [] for name in HONEST}
        for sent, answer in zip(messages, map(answer_of, refs), strict=True):
            if sent.area:
                tally.judge(sent, answer)
            else:  # a failure as the driver has it
                failed = isinstance(answer, Exception)
                scores[sent.sender].append(ProbeScore(client_id=sent.sender, failure=repr(answer)) if failed else answer)
        return scores

    def _score_batch(self, batch: Sequence[Sent]) -> list[ray.ObjectRef]:
        if len(batch) == 1:
            return [self._probe.score.remote(batch[0].sender, batch[0].payload)]
        score = self._probe.score_batch.options(num_returns=len(batch))
        return score.remote([sent.sender for sent in batch], *(sent.payload for sent in batch))

    def _admit(
        self, messages: Sequence[Sent], read, scores: Mapping[str, list[ProbeScore]], tally: Tally
    ) -> list[ClientEvidence]:
        """Deliver updates, and let the actor that the level asks read what is admitted; the evidence on the honest clients."""
        asked = []
        for sent in messages:
            answer, update = self._aggregator.admit.remote(sent.sender, sent.payload, sent.last)
            asked.append((sent, answer, update, [read.remote(update)] if read is not None else []))
        evidence = []
        for sent, answer, update, readers in asked:
            found = [answer_of(ref) for ref in readers]
            if sent.area:
                tally.judge(sent, answer_of(answer), found)
            else:
                told = tuple(item for item in found if isinstance(item, ProbeScore))
                readings = tuple(item for item in found if isinstance(item, Reading))
                own = (*scores.get(sent.sender, ()), *told)
                evidence.append(ClientEvidence(client_id=sent.sender, update=update, scores=own, readings=readings))
        return sorted(evidence, key=lambda item: item.client_id)


def answer_of(ref: ray.ObjectRef) -> object:
    """The answer, or the error in its place."""
    try:
        return ray.get(ref, timeout=TIMEOUT_S)
    except RayError as error:
        return error


def train(folder: Path) -> tuple[Trained, RunConfig, Sources, AdapterLayout]:
    """What the honest clients train, the configuration, what the server reads and the adapter's layout."""
    config = load_config(None, SETTINGS)
    sources = prepare_sources(load_config(None, [*SETTINGS, "defense.level=shadow+canary+zeno"]), folder)
    client = ClientActor.remote(sources.model, config.lora, config.training)
    layout, adapter = ray.get([client.layout.remote(), client.initial_adapter.remote()])
    asked = {"round_index": 0, "base_version": 0, "seed": 0, "probe_feature": "first_layer_b"}
    rates = {"learning_rate": config.learning_rate(0), "shadow_learning_rate": config.defense.shadow.learning_rate}
    deltas, updates = {}, {}
    for name in HONEST:
        task = TrainTask(client_id=name, files=sources.tokens.of(name), **asked, **rates)
        *deltas[name], updates[name] = ray.get(list(client.train.remote(task, adapter)))
    ray.kill(client)
    return Trained(adapter, deltas, updates), config, sources, layout


def show(tally: Tally) -> None:
    """Counts by kind, three to a line, and by area and reason."""
    kinds = [f"{name:34} {number:5}" for name, number in sorted(tally.kinds.items())]
    print("cases by kind")
    for begin in range(0, len(kinds), 3):
        print("  " + "   ".join(kinds[begin : begin + 3]))
    areas = sorted({area for area, _ in tally.reasons})
    print("\n" + f"{'refused for':20}" + "".join(f"{area:>21}" for area in areas))
    for reason in sorted({reason for _, reason in tally.reasons}):
        print(f"{reason or 'not refused':20}" + "".join(f"{tally.reasons[area, reason]:21}" for area in areas))


def disturb(server: Server, attack: Attack, tally: Tally, cases: int, levels: Iterator[str]) -> float:
    """Rounds with so many cases in all; returns the seconds they took."""
    began = time.monotonic()
    while (done := tally.totals["cases"]) < cases:
        if done and tally.totals["rounds"] % 10 == 0:
            left = (time.monotonic() - began) / done * (cases - done)
            print(f"{done} of {cases} cases, {left:.0f} s left", flush=True)
        server.disturbed_round(next(levels), attack, min(CASES_PER_ROUND, cases - done), tally)
        tally.totals["rounds"] += 1
    return time.monotonic() - began


def main(cases: int, seed: int) -> bool:
    """Print progress, tables and the JSON line; whether everything was refused and nothing changed."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tally = Tally()
    try:
        with tempfile.TemporaryDirectory() as folder:
            trained, *rest = train(Path(folder))
            server, attack = Server(trained, *rest), Attack(trained, seed)
            for level in LEVELS:
                server.prepare(level, attack)
            took_s = disturb(server, attack, tally, cases, endless(list(LEVELS), Random(seed)))
    finally:
        ray.shutdown()
    show(tally)
    print(f"\n{tally.totals['rounds']} rounds in {took_s:.0f} s")
    result = {name: tally.totals[name] for name in ("cases", "refused", "accepted", "crashes", "state_changed")}
    print(json.dumps(result))
    return not (result["accepted"] or result["crashes"] or result["state_changed"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(0 if main(arguments.cases, arguments.seed) else 1)
