"""ProbeActor: scores step deltas while the clients that sent them go on training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ray

from actors.errors import ProbeMismatchError, WireError
from actors.messages import AdapterLayout, ProbeScore, StepDelta
from actors.wire import decode_message
from defense.admission import OpenRound, Reason, Refusal, check_count, check_norm, check_sender, check_tensors
from probe.artefact import load_probe
from probe.features import tensor_names
from probe.meta import ProbeMeta


class Probe:
    """Holds one LoRA-Probe and scores what admission lets through."""

    def __init__(self, path: str, layout: AdapterLayout) -> None:
        """Load the artefact at `path`; raises ProbeMismatchError when it was made for another model or LoRA."""
        self._probe = load_probe(Path(path))
        check_fit(self._probe.meta, layout, path)
        self._round: OpenRound | None = None
        self._seen: set[tuple[str, str, int]] = set()

    def meta(self) -> ProbeMeta:
        """What the probe was made for and from."""
        return self._probe.meta

    def open_round(self, expected: OpenRound) -> None:
        """Score the step deltas of this round from now on, and refuse those of any other."""
        self._round, self._seen = expected, set()

    def score(self, client_id: str, payload: bytes) -> ProbeScore:
        """P(malicious) of the encoded StepDelta that `client_id` sent. A bad delta is refused, never raised."""
        try:
            delta = decode_message(payload, StepDelta)
        except WireError as error:
            return ProbeScore(client_id=client_id, refusal=str(Refusal(Reason.MALFORMED, str(error))))
        refusal = self._check(client_id, delta)
        if refusal is not None:
            return ProbeScore(client_id=client_id, refusal=str(refusal))
        self._seen.add((client_id, delta.branch, delta.step))
        (probability,) = self._probe.score([delta.tensors])
        return ProbeScore(
            client_id=client_id,
            branch=delta.branch,
            step=delta.step,
            probability=probability,
            probe_version=self._probe.meta.version,
        )

    def _check(self, client_id: str, delta: StepDelta) -> Refusal | None:
        if self._round is None:
            return Refusal(Reason.WRONG_ROUND, "no round is open")
        if delta.client_id != client_id:
            return Refusal(Reason.UNKNOWN_CLIENT, f"client {client_id} sent a delta signed {delta.client_id!r:.80}")
        if delta.branch not in ("real", "shadow"):
            return Refusal(Reason.MALFORMED, f"branch is {delta.branch!r:.80}")
        refusal = check_sender(delta, self._round)
        if refusal is None and (client_id, delta.branch, delta.step) in self._seen:
            refusal = Refusal(Reason.DUPLICATE, f"{delta.branch} step {delta.step} was sent twice")
        return (
            refusal
            or check_count("step", delta.step, self._round.num_steps)
            or check_count("num_samples", delta.num_samples, self._round.batch_size)
            or check_tensors(delta.tensors, self._probe.meta.shapes)
            or check_norm(delta.tensors, self._round.max_norm)
        )


def check_fit(meta: ProbeMeta, layout: AdapterLayout, path: str) -> None:
    """Raise ProbeMismatchError, naming both sides, when a probe was not made for this adapter."""
    try:
        names = tensor_names(meta.feature, layout.layers)
    except ValueError as error:
        raise ProbeMismatchError(f"probe.path={path}: {error}") from error
    shapes = {name: tuple(layout.shapes[name]) for name in names}
    if shapes != dict(meta.shapes):
        raise ProbeMismatchError(
            f"probe.path={path}: the probe's feature {meta.feature} reads {_describe(meta.shapes)}, but the model's LoRA offers "
            f"{_describe(shapes)}; use the LoRA the probe was collected with, or train a probe for this one"
        )
    for what, probes, models in (
        ("base model", meta.model_fingerprint, layout.model_fingerprint),
        ("LoRA settings and initial adapter", meta.lora_fingerprint, layout.lora_fingerprint),
    ):
        if probes != models:
            raise ProbeMismatchError(
                f"probe.path={path}: the probe was made for {what} {probes}, this run has {models}; "
                "train a probe for this model, or use the model and lora settings of the probe"
            )


def _describe(shapes: Mapping[str, tuple[int, ...]]) -> str:
    values = sum(rows * columns for rows, columns in shapes.values())
    first = next(iter(sorted(shapes)), "nothing")
    return f"{len(shapes)} tensors of {values} values ({first} {tuple(shapes.get(first, ()))} ...)"


ProbeActor = ray.remote(Probe)
