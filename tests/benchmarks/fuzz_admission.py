"""Malformed messages against real actors: `python -m tests.benchmarks.fuzz_admission --cases 10000`.

Three clients of the embedded world train once. Then round after round they are submitted as they are, with malformed
messages thrown in before, between and after them: to the probe among the step deltas, to the aggregator among the
updates. Every malformed message must be refused with a reason, no actor may raise or die, and what the round makes of
the three clients must be, to the bit, what it makes of them undisturbed. The last line is a JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import ray
from ray.exceptions import RayError

from actors import AggregatorActor, AggregatorConfig, ClientActor, ProbeActor, TrainTask
from actors.canary import CanaryActor
from actors.gathering import Reading
from actors.messages import Admission, AggregatorState, LoRAUpdate, ProbeClose, ProbeScore, RoundReport, StepDelta
from actors.wire import decode_message, decode_tensors
from cluster import load_config, prepare_sources
from cluster.data.sources import Sources
from defense.admission import OpenRound, Reason
from defense.levels import READS
from tests.malformed import DELTAS, LAST_STEPS, UPDATES, Delivery

HONEST = ("client-000", "client-001", "client-002")
PLACES = ("a", *HONEST)
"""An attacker's id begins with one of these, so that it is submitted before all honest clients or after one of them."""
ATTACKERS = tuple(f"{place}-attacker-{i:02d}" for place in PLACES for i in range(40))
"""Each submits once in a round, since a second update would be a duplicate whatever it holds."""
STRANGERS = tuple(f"{place}-stranger" for place in PLACES)
SAMPLED = sorted([*HONEST, *ATTACKERS])
CASES_PER_ROUND, LARGEST_BATCH, TIMEOUT_S = 80, 8, 120.0
SETTINGS = ("clients.count=3", "clients.malicious=1")
VALID = "nothing wrong but the sender"
NOT_THROUGH_RAY = ("a memoryview", "a bytearray")
"""Ray cannot send the one and hands over the other as bytes."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message on its way to an actor."""

    sender: str
    payload: Any
    last: Any = None
    """The last step delta, with an update for the aggregator."""
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
        """What a client would hand in if it had trained what `like` has."""
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
        areas = [("update", UPDATES), ("stranger", [VALID, *UPDATES]), ("again", [VALID, *UPDATES])]
        scored = [kind for kind in UPDATES if UPDATES[kind].reason is not Reason.BAD_COUNT]  # that is the aggregator's to check
        self._updates = self._deals(*areas)
        self._updates_and_pairs = self._deals(*areas, ("last step", LAST_STEPS), ("last step", LAST_STEPS))
        self._deltas = self._deals(("step delta", ["sent again", *DELTAS]))
        self._scored = self._deals(("update to the probe", ["sent again", *scored]))

    def _deals(self, *areas: tuple[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
        return endless([(area, kind) for area, kinds in areas for kind in kinds if kind not in NOT_THROUGH_RAY], self._rng)

    def submissions(self, place: str, number: int, expected: OpenRound, level: str) -> Iterator[Sent]:
        """Updates to submit right after the honest client `place`."""
        newcomers = iter([name for name in ATTACKERS if name.startswith(f"{place}-")])
        deals = self._updates_and_pairs if READS[level] in ("real", "shadow") else self._updates
        for _ in range(number):
            area, kind = next(deals)
            area = "stranger" if area == "again" and place not in HONEST else area
            sender = {"again": place, "stranger": f"{place}-stranger"}.get(area) or next(newcomers)
            delivery = self._delivery(sender, expected)
            if area == "last step":
                update, last = LAST_STEPS[kind](delivery, self._rng)
            else:
                update, last = delivery.payloads
                update = update if kind == VALID else UPDATES[kind].make(delivery.valid_update, self._rng)
            yield Sent(sender, update, last, area, kind)

    def among_deltas(self, number: int, expected: OpenRound) -> list[Sent]:
        """The honest clients' step deltas with others among them."""
        make = lambda sent, kind: DELTAS[kind].make(sent.valid_last, self._rng)  # noqa: E731
        return self._among(self._trained.step_deltas(), number, self._deltas, make, expected)

    def among_updates(self, number: int, expected: OpenRound) -> list[Sent]:
        """The honest clients' updates with others among them."""
        make = lambda sent, kind: UPDATES[kind].make(sent.valid_update, self._rng)  # noqa: E731
        honest = [Sent(name, self._trained.updates[name]) for name in HONEST]
        return self._among(honest, number, self._scored, make, expected)

    def _among(
        self, honest: list[Sent], number: int, deals: Iterator, make: Callable[[Delivery, str], Any], expected: OpenRound
    ) -> list[Sent]:
        messages = list(honest)
        for area, kind in (next(deals) for _ in range(number)):
            if kind == "sent again":
                first = self._rng.choice([place for place, sent in enumerate(messages) if not sent.area])
                place, sent = self._rng.randint(first + 1, len(messages)), replace(messages[first], area=area, kind=kind)
            else:
                sender = self._rng.choice([*ATTACKERS, *STRANGERS])
                payload = make(self._delivery(sender, expected), kind)
                place, sent = self._rng.randint(0, len(messages)), Sent(sender, payload, None, area, kind)
            messages.insert(place, sent)
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


def endless(items: Sequence[Any], rng: Random) -> Iterator[Any]:
    """All items in a shuffled order, again and again."""
    while True:
        yield from rng.sample(items, len(items))


@dataclass(slots=True)
class Tally:
    """What became of the cases."""

    totals: Counter = field(default_factory=Counter)
    kinds: Counter = field(default_factory=Counter)
    reasons: Counter = field(default_factory=Counter)
    """By area and reason."""

    def judge(self, sent: Sent, answer: Any) -> None:
        """Count an answer: refused with a reason of the enumeration, accepted, or an error in place of an answer."""
        told = "" if isinstance(answer, Exception) else answer.reason if isinstance(answer, Admission) else answer.refusal
        reason = (told or "").partition(":")[0]
        verdict = "crashes" if isinstance(answer, Exception) else "refused" if reason in set(Reason) else "accepted"
        self.totals.update(["cases", verdict])
        self.kinds[f"last step: {sent.kind}" if sent.area == "last step" else sent.kind] += 1
        self.reasons[sent.area, reason] += 1
        if verdict != "refused":
            print(f"{verdict}: {sent.area}, {sent.kind}: {answer!r:.300}", flush=True)


class Server:
    """The actors that judge, and for each level the state that rounds start from."""

    def __init__(self, trained: Trained, config: Any, sources: Sources, layout: Any) -> None:
        self._trained, self._config, self._sources, self._layout = trained, config, sources, layout
        self._adapter = ray.put(trained.adapter)
        self._starts: dict[str, AggregatorState] = {}
        self._undisturbed: dict[str, tuple] = {}
        self._start()

    def _start(self) -> None:
        config = AggregatorConfig(training=self._config.training, defense=self._config.defense)
        self._aggregator = AggregatorActor.remote(config, self._layout, self._trained.adapter)
        self._probe = ProbeActor.remote(self._sources.probe_path, self._layout)
        self._canary = CanaryActor.remote(self._sources.model, self._config.lora, self._sources.canary_path, 64)

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
        ray.get(self._aggregator.restore.remote(self._starts[level]))
        expected = ray.get(self._aggregator.open_round.remote(0, SAMPLED, self._config.learning_rate(0)))
        ray.get([actor.open_round.remote(expected, self._adapter) for actor in (self._probe, self._canary)])
        try:
            scores = self._score(level, attack, expected, cases // 2, tally)
            self._submit(level, attack, expected, cases - cases // 2, scores, tally)
            ends = self._aggregator.close_round.remote(), self._aggregator.state.remote(), self._probe.close_round.remote()
            return outcome(*ray.get(list(ends)), scores)
        except RayError as error:  # a case that did this has been counted
            self._start()
            return (repr(error),)

    def _score(self, level: str, attack: Attack, expected: OpenRound, cases: int, tally: Tally) -> dict[str, list[Reading]]:
        """Send the honest clients' evidence to the probe, and others'; returns the honest clients' scores."""
        if level in ("live", "canary"):
            judge = self._probe.score_update if level == "live" else self._canary.measure
            messages = attack.among_updates(cases, expected)
            refs = [judge.remote(sent.sender, sent.payload) for sent in messages]
        else:
            messages = attack.among_deltas(cases, expected)
            refs = [ref for batch in attack.batches(messages) for ref in self._score_batch(batch)]
        scores: dict[str, list[Reading]] = {name: [] for name in HONEST}
        for sent, answer in zip(messages, map(answer_of, refs), strict=True):
            if sent.area:
                tally.judge(sent, answer)
            elif isinstance(answer, Exception):  # as the driver has it
                scores[sent.sender].append(ProbeScore(client_id=sent.sender, failure=repr(answer)))
            else:
                scores[sent.sender].append(answer)
        return scores

    def _score_batch(self, batch: Sequence[Sent]) -> list[Any]:
        if len(batch) == 1:
            return [self._probe.score.remote(batch[0].sender, batch[0].payload)]
        score = self._probe.score_batch.options(num_returns=len(batch))
        return score.remote([sent.sender for sent in batch], *(sent.payload for sent in batch))

    def _submit(
        self, level: str, attack: Attack, expected: OpenRound, cases: int, scores: Mapping[str, list[Reading]], tally: Tally
    ) -> None:
        """Submit the honest clients in order of id, and others' updates before, between and after them."""
        submit, thrown = self._aggregator.submit, []
        for index, place in enumerate(PLACES):
            if place in HONEST:
                submit.remote(place, self._trained.updates[place], self._trained.deltas[place][-1], scores[place])
            number = cases * (index + 1) // len(PLACES) - cases * index // len(PLACES)
            for sent in attack.submissions(place, number, expected, level):
                thrown.append((sent, submit.remote(sent.sender, sent.payload, sent.last, scores[HONEST[0]])))
        for sent, ref in thrown:
            tally.judge(sent, answer_of(ref))


def answer_of(ref: Any) -> Any:
    """The answer, or the error in its place."""
    try:
        return ray.get(ref, timeout=TIMEOUT_S)
    except RayError as error:
        return error


def outcome(report: RoundReport, state: AggregatorState, closed: ProbeClose, scores: Mapping[str, list[Reading]]) -> tuple:
    """All that the honest clients and the next round see of a round, floats to the bit; and that others weigh nothing."""
    own = [repr(row) for row in report.clients if row.client_id in HONEST]
    others = {(row.admitted, row.weight, row.share, row.reason is None) for row in report.clients if row.client_id not in HONEST}
    verdict = report.outcome, report.why, report.mean_weight
    return state, json.dumps(state.trust, sort_keys=True), verdict, own, others, repr(closed.drift), repr(scores)


def train(folder: Path) -> tuple[Trained, Any, Sources, Any]:
    """What the honest clients train, the configuration, what the server reads and the adapter's layout."""
    config = load_config(None, SETTINGS)
    sources = prepare_sources(load_config(None, [*SETTINGS, "defense.level=shadow+canary"]), folder)
    client = ClientActor.remote(sources.model, config.lora, config.training)
    layout, adapter = ray.get([client.layout.remote(), client.initial_adapter.remote()])
    asked = {"round_index": 0, "base_version": 0, "seed": 0, "probe_feature": "first_layer_b"}
    rates = {"learning_rate": config.learning_rate(0), "shadow_learning_rate": config.defense.shadow.learning_rate}
    deltas, updates = {}, {}
    for name in HONEST:
        task = TrainTask(client_id=name, files=sources.files[name], **asked, **rates)
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
            for level in READS:
                server.prepare(level, attack)
            took_s = disturb(server, attack, tally, cases, endless(list(READS), Random(seed)))
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
