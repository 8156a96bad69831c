"""What the aggregator has committed, ready to compute with; as `AggregatorState` it is bytes and plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from actors.messages import AggregatorState
from actors.scaffold import ControlVariates
from actors.wire import decode_tensors, encode_tensors
from defense.config import DefenseConfig
from defense.doubt import Settled
from defense.level_bounds import References
from defense.levels.level import Trust
from defense.tensors import Tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where the federation stands. Nothing of it is ever changed in place, so an earlier one can be gone back to."""

    adapter: Mapping[str, torch.Tensor]
    adapter_bytes: bytes
    """The adapter as safetensors."""
    version: int
    controls: ControlVariates
    trust: Trust = field(default_factory=dict)
    rule_memory: Tensors = field(default_factory=dict)
    """What the aggregation rule remembers across rounds."""
    optimizer_memory: Tensors = field(default_factory=dict)
    references: References = field(default_factory=dict)
    settled: Mapping[str, Settled] = field(default_factory=dict)
    """Client id -> what reference clients of its rounds have decided."""

    def moved(
        self,
        tensors: Mapping[str, torch.Tensor],
        *,
        rule_memory: Tensors,
        optimizer_memory: Tensors,
        controls: ControlVariates,
    ) -> Standing:
        """The next version, with these tensors in place of the adapter's."""
        adapter = {**self.adapter, **tensors}
        return replace(
            self,
            adapter=adapter,
            adapter_bytes=encode_tensors(adapter),
            version=self.version + 1,
            rule_memory=rule_memory,
            optimizer_memory=optimizer_memory,
            controls=controls,
        )

    def encoded(self, defense: DefenseConfig) -> AggregatorState:
        """The state between two rounds, under the defense in force."""
        return AggregatorState(
            adapter=self.adapter_bytes,
            version=self.version,
            trust=self.trust,
            defense=defense,
            rule_memory=_encoded(self.rule_memory),
            optimizer_memory=_encoded(self.optimizer_memory),
            control_variates=self.controls.encode(),
            references=self.references,
            settled=self.settled,
        )


def decoded(state: AggregatorState, controls: ControlVariates) -> Standing:
    """What `Standing.encoded` encoded; `controls`: any of the same parameters."""
    return Standing(
        adapter=decode_tensors(state.adapter),
        adapter_bytes=state.adapter,
        version=state.version,
        controls=controls.decoded(state.control_variates),
        trust=state.trust,
        rule_memory=_decoded(state.rule_memory),
        optimizer_memory=_decoded(state.optimizer_memory),
        references=state.references,
        settled=state.settled,
    )


def _encoded(memory: Tensors) -> bytes:
    return encode_tensors(memory) if memory else b""


def _decoded(encoded: bytes) -> dict[str, torch.Tensor]:
    return decode_tensors(encoded) if encoded else {}
