"""ProbeActor: scores step deltas while the clients that sent them go on training, and follows the global adapter."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import ray
import torch

from actors.admission import admit_step_delta
from actors.errors import ProbeMismatchError
from actors.messages import AdapterLayout, AdmittedUpdate, Branch, ProbeClose, ProbeRefresh, ProbeScore, StepDelta
from actors.refit import ReferenceSamples, refit
from actors.state_vector import StateVector
from actors.wire import decode_message, decode_tensors
from defense.admission.checks import OpenRound, Reason, Refusal
from defense.bounds import LOGIT, ReferenceValues, reference_bound
from probe.artefact import LoraProbe, load_probe, probe_files
from probe.config import ProbeConfig
from probe.drift import Drift, watch
from probe.evaluation import ranking
from probe.features import tensor_names
from probe.meta import ProbeMeta
from probe.names import plain_name
from probe.samples import ReferenceLabel
from probe.training import SCORE, final_values


@dataclass(slots=True)
class _Round:
    """The round that is being scored."""

    expected: OpenRound
    adapter: Mapping[str, torch.Tensor] | None
    """The global adapter, from which updates are subtracted."""
    references: ReferenceSamples
    candidate: LoraProbe | None = None
    """The refitted probe, until it is adopted."""
    seen: set[tuple[str, str, int]] = field(default_factory=set)
    probabilities: dict[str, list[float]] = field(default_factory=dict)
    num_messages: int = 0
    num_bytes: int = 0
    score_s: float = 0.0


class Probe:
    """Holds one LoRA-Probe; admits and scores step deltas, and scores updates that the aggregator has admitted."""

    def __init__(self, path: str, layout: AdapterLayout, config: ProbeConfig | None = None) -> None:
        """Load the artefact at `path`; raises ProbeMismatchError when it was made for another model or LoRA."""
        self._layout, self._config = layout, config or ProbeConfig()
        self._probe = _load(path, layout)
        self._round: _Round | None = None

    def meta(self) -> ProbeMeta:
        """What the probe was made for and from."""
        return self._probe.meta

    def artefact(self) -> dict[str, bytes]:
        """The probe as files, name -> content."""
        return probe_files(self._probe)

    def replace(self, path: str) -> ProbeMeta:
        """Score with the artefact at `path` from now on; when it cannot be used, the probe stays as it was.

        Raises:
            ProbeMismatchError: it was made for another model or LoRA, or reads another feature than the clients send.
            ValueError: missing, damaged or changed files.
        """
        probe, current = _load(path, self._layout), self._probe.meta.feature
        if probe.meta.feature != current:
            raise ProbeMismatchError(
                f"probe.path={path}: the probe reads {probe.meta.feature}, the clients of this run send {current}; "
                f"train one with probe.feature={current}, or start a run with this one"
            )
        self._probe = probe
        return probe.meta

    def restore(self, files: Mapping[str, bytes]) -> None:
        """Go on with the probe that `artefact` gave; an open round is discarded.

        Raises:
            ProbeMismatchError, ValueError: as `replace`.
        """
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / plain_name(name)).write_bytes(content)
            self._probe = _load(folder, self._layout)
        self._round = None

    def open_round(self, expected: OpenRound, adapter: bytes | None = None) -> None:
        """Score the messages of this round from now on, and refuse those of any other.

        Args:
            adapter: The global adapter (safetensors), which `score_update` compares updates with.
        """
        state = decode_tensors(adapter) if adapter is not None else None
        self._round = _Round(expected, state, ReferenceSamples(self._probe.meta))

    def score(self, client_id: str, payload: bytes) -> ProbeScore:
        """P(malicious) of the encoded StepDelta that `client_id` sent. A bad delta is refused, never raised."""
        return self.score_batch([client_id], payload)[0]

    def score_batch(self, client_ids: Sequence[str], *payloads: bytes) -> list[ProbeScore]:
        """One score per encoded StepDelta, as `score` gives them one by one."""
        started, current = time.perf_counter(), self._round
        if current is None:
            refusal = str(Refusal(Reason.WRONG_ROUND, "no round is open"))
            return [ProbeScore(client_id=client_id, refusal=refusal) for client_id in client_ids]
        found = [self._admit(current, client_id, payload) for client_id, payload in zip(client_ids, payloads, strict=True)]
        deltas = [item.tensors for item in found if isinstance(item, StepDelta)]
        probabilities = iter(self._probe.score(deltas) if deltas else [])
        scores = [
            self._scored(current, client_id, item.branch, item.step, next(probabilities))
            if isinstance(item, StepDelta)
            else ProbeScore(client_id=client_id, refusal=str(item))
            for client_id, item in zip(client_ids, found, strict=True)
        ]
        current.num_messages += len(scores)
        current.num_bytes += sum(len(p) for p, item in zip(payloads, found, strict=True) if isinstance(item, StepDelta))
        current.score_s += time.perf_counter() - started
        return scores

    def score_update(self, update: AdmittedUpdate | None) -> ProbeScore | None:
        """P(malicious) of an admitted update, by its delta to the global adapter (docs/method.md section 8, live level).

        None stays None: the aggregator refused the update.
        """
        if update is None:
            return None
        started, current = time.perf_counter(), self._open()
        if current.adapter is None:
            raise RuntimeError("the round was opened without a global adapter; pass it to open_round")
        state = StateVector(self._layout.shapes).read(update.state)
        delta = {name: state[name] - current.adapter[name] for name in self._probe.meta.shapes}
        score = self._scored(current, update.client_id, "update", 1, self._probe.score([delta])[0])
        current.num_messages += 1
        current.num_bytes += update.state.nbytes
        current.score_s += time.perf_counter() - started
        return score

    def observe(self, labels: Sequence[ReferenceLabel], *payloads: bytes) -> None:
        """Take in step deltas of reference clients, one label each, for the refresh of the open round."""
        for label, payload in zip(labels, payloads, strict=True):
            self._open().references.add(label, decode_message(payload, StepDelta))

    def refresh(self, learning_rate: float, rate: float) -> ProbeRefresh:
        """Score the final deltas of what was observed this round, and refit where these scores do not tell the classes apart.

        The probe in force was not fitted to these reference clients, so their scores are what other clients like them get. It
        stays where a bound follows from them, or where fits that hold out references rank these worse. A refitted one judges once
        `adopt` is called.

        Args:
            learning_rate: The rate that the reference clients trained with.
            rate: The share of honest clients that the bound may exclude.
        """
        started, index = time.perf_counter(), self._open().expected.round_index
        recipe = {**self._probe.meta.recipe, "learning_rate": learning_rate}
        try:
            samples = self._open().references.samples()
            scored = final_values(self._probe.score_features(samples.features), samples)
            ranked, values = (
                ranking(scored),
                ReferenceValues(benign=tuple(scored["benign"]), unsafe=tuple(scored["malicious"]), origin=f"round {index + 1}"),
            )
            if reference_bound(values, rate, side="above", scale=LOGIT, half_way="from median").state == "in force":
                return self._kept(index, scored, ranked, "", started)
            candidate = refit(self._probe.meta, samples, recipe, f"reference clients of round {index + 1}")
        except ValueError as error:
            return ProbeRefresh(round=index, outcome="rejected", why=str(error), fit_s=time.perf_counter() - started)
        metrics = candidate.meta.metrics.get("last_step", {})
        auc, least = metrics.get("roc_auc") or 0.0, self._config.refresh_min_auc
        if auc < max(least, ranked):
            return self._kept(index, scored, ranked, f", a refit {auc:.3f} of others (probe.refresh_min_auc={least:g})", started)
        self._open().candidate = candidate
        return ProbeRefresh(
            round=index,
            outcome="accepted",
            why=f"held-out final deltas: area under the ROC curve {auc:.3f}, before {ranked:.3f}",
            metrics=metrics,
            fit_s=time.perf_counter() - started,
            files=probe_files(candidate),
            scored=candidate.meta.references,
        )

    def _kept(self, index: int, scored: Mapping[str, list[float]], ranked: float, refit: str, started: float) -> ProbeRefresh:
        return ProbeRefresh(
            round=index,
            outcome="kept",
            why=f"it ranks the reference clients' final deltas with an area under the ROC curve of {ranked:.3f}{refit}",
            metrics={"roc_auc": ranked},
            fit_s=time.perf_counter() - started,
            scored={SCORE: scored},
        )

    def adopt(self) -> None:
        """Score with the probe that `refresh` has fitted in the open round. Without this call it never judges: its answer may
        have come too late."""
        current = self._open()
        if current.candidate is None:
            raise RuntimeError("there is no refitted probe to adopt; call refresh first, and adopt only what it accepted")
        self._probe = current.candidate
        current.probabilities.clear()  # of the probe before: the updates are scored again

    def close_round(self) -> ProbeClose:
        """End the round: its scores are compared with those of training."""
        closed, self._round = self._open(), None
        return ProbeClose(
            drift=self._drift(closed.probabilities),
            num_messages=closed.num_messages,
            score_s=closed.score_s,
            num_bytes=closed.num_bytes,
        )

    def _drift(self, probabilities: Mapping[str, Sequence[float]]) -> Drift | None:
        meta, scores = self._probe.meta, [p for client in sorted(probabilities) for p in probabilities[client]]
        if not scores or not meta.scores:
            return None
        known = meta.training.get("num_held_out", 1)
        return watch(scores, len(probabilities), known, meta.scores["benign"], meta.scores["malicious"], self._threshold)

    @property
    def _threshold(self) -> float:
        return self._config.threshold or self._probe.meta.threshold

    def _open(self) -> _Round:
        if self._round is None:
            raise RuntimeError("no round is open; call open_round first")
        return self._round

    def _admit(self, current: _Round, client_id: str, payload: bytes) -> StepDelta | Refusal:
        found = admit_step_delta(client_id, payload, current.expected, self._probe.meta.shapes, current.seen)
        if isinstance(found, StepDelta):
            current.seen.add((client_id, found.branch, found.step))
        return found

    def _scored(
        self, current: _Round, client_id: str, branch: Branch | Literal["update"], step: int, probability: float
    ) -> ProbeScore:
        if current.expected.reads is None or branch in current.expected.reads:
            current.probabilities.setdefault(client_id, []).append(probability)
        return ProbeScore(
            client_id=client_id,
            branch=branch,
            step=step,
            probability=probability,
            threshold=self._threshold,
            probe_version=self._probe.meta.version,
        )


def _load(path: str, layout: AdapterLayout) -> LoraProbe:
    probe = load_probe(Path(path))
    check_fit(probe.meta, layout, path)
    return probe


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
