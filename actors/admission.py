"""Admission: the one place where bytes from a client are decoded and checked, against the open round.

The probe admits every step delta, the aggregator every update, each on delivery and once. The checks are pure functions
(`defense/admission/`); each returns None, or why it refuses the message. A bad message is refused, never raised.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from actors.errors import WireError
from actors.messages import AdmittedUpdate, LoRAUpdate, StepDelta
from actors.state_vector import StateVector
from actors.wire import decode_message
from defense.admission.checks import (
    OpenRound,
    Reason,
    Refusal,
    check_control_variate,
    check_count,
    check_finite,
    check_frozen,
    check_norm,
    check_sender,
    check_tensors,
    check_tie,
    check_values,
    delta_norm,
)
from defense.admission.products import ProductBounds

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedUpdate:
    """An update that may count."""

    message: LoRAUpdate
    admitted: AdmittedUpdate
    delta: Tensors
    """Client minus global, float32: views on one vector."""
    norm: float
    """L2 norm of the delta."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateCheck:
    """What one round asks of every update."""

    expected: OpenRound
    adapter: Tensors
    """The global adapter, float32."""
    layout: StateVector
    """Its layout as a vector."""
    start: torch.Tensor
    """The global adapter as that vector."""
    products: ProductBounds | None = None
    """How far an update may move each module's B A; None: no bound."""
    frozen: frozenset[str] = frozenset()
    """Parameters that nobody trains."""
    control_shapes: Mapping[str, tuple[int, ...]] | None = None
    """Of the control variate that comes with an update; None: none was asked for."""
    max_control_norm: float = 0.0
    is_tied: bool = False
    """Whether the last step delta must be the delta of the update: where a level weighs step deltas."""

    def admit(self, client_id: str, payload: bytes, last_delta: bytes | None) -> CheckedUpdate | Refusal:
        """Decode and check an encoded LoRAUpdate.

        Args:
            client_id: The sender, as the server knows it.
            last_delta: The encoded message that the client sent before its update.
        """
        try:
            message = decode_message(payload, LoRAUpdate)
        except WireError as error:
            return Refusal(Reason.MALFORMED, str(error))
        refusal = self._check_fields(client_id, message)
        if refusal is not None:
            return refusal
        state = self.layout.pack(message.tensors)
        difference = state - self.start
        delta, norm, max_value = self.layout.unpack(difference), delta_norm({"": difference}), self.expected.max_value
        refusal = (
            # Quick to check as one vector; the tensors tell which of them is at fault.
            (check_finite({"": state}) and check_finite(message.tensors))
            or check_norm(norm, self.expected.max_norm)
            or (check_values({"": difference}, max_value) and check_values(delta, max_value))
            or (self.products.check(message.tensors) if self.products is not None else None)
            or (self._check_tie(delta, last_delta) if self.is_tied else None)
        )
        if refusal is not None:
            return refusal
        control = message.control_variate
        control_vector = None if control is None else StateVector.of(control).pack(control)
        return CheckedUpdate(
            message=message,
            admitted=AdmittedUpdate(
                client_id=client_id,
                num_samples=message.num_samples,
                state=state.numpy(),
                control_variate=None if control_vector is None else control_vector.numpy(),
            ),
            delta=delta,
            norm=norm,
        )

    def _check_fields(self, client_id: str, message: LoRAUpdate) -> Refusal | None:
        return (
            _check_signature(client_id, message)
            or check_sender(message, self.expected)
            or check_count("num_samples", message.num_samples, self.expected.max_samples)
            or check_tensors(message.tensors, self.layout.shapes)
            or check_frozen(message.tensors, self.adapter, self.frozen)
            or check_control_variate(message.control_variate, self.control_shapes, self.max_control_norm)
        )

    def _check_tie(self, delta: Tensors, last_delta: bytes | None) -> Refusal | None:
        """The last real step delta must be the update's delta to the bit. The probe has checked the rest of it."""
        if last_delta is None:
            return Refusal(Reason.UNTIED_EVIDENCE, "no step delta came with the update")
        try:
            last = decode_message(last_delta, StepDelta)
        except WireError as error:
            return Refusal(Reason.UNTIED_EVIDENCE, f"the last step delta is malformed: {error}")
        if last.branch != "real":
            return Refusal(Reason.UNTIED_EVIDENCE, "the message before the update is no real step delta")
        if last.step != self.expected.num_steps:
            return Refusal(Reason.UNTIED_EVIDENCE, f"the message before the update is of step {last.step}, not the last")
        return check_tie(delta, last.tensors)


def admit_step_delta(
    client_id: str,
    payload: bytes,
    expected: OpenRound,
    shapes: Mapping[str, tuple[int, ...]],
    seen: Collection[tuple[str, str, int]],
) -> StepDelta | Refusal:
    """Decode and check an encoded StepDelta.

    Args:
        client_id: The sender, as the server knows it.
        shapes: Of the tensors that the probe reads.
        seen: Client, branch and step of those admitted before in this round.
    """
    try:
        delta = decode_message(payload, StepDelta)
    except WireError as error:
        return Refusal(Reason.MALFORMED, str(error))
    if delta.branch not in ("real", "shadow"):
        return Refusal(Reason.MALFORMED, f"branch is {delta.branch!r:.80}")
    is_again = (client_id, delta.branch, delta.step) in seen
    return (
        _check_signature(client_id, delta)
        or check_sender(delta, expected)
        or (Refusal(Reason.DUPLICATE, f"{delta.branch} step {delta.step} was sent twice") if is_again else None)
        or check_count("step", delta.step, expected.num_steps)
        or check_count("num_samples", delta.num_samples, expected.batch_size)
        or check_tensors(delta.tensors, shapes)
        or check_finite(delta.tensors)
        or check_norm(delta_norm(delta.tensors), expected.max_norm)
        or check_values(delta.tensors, expected.max_shadow_value if delta.branch == "shadow" else expected.max_value)
        or delta
    )


def _check_signature(client_id: str, message: StepDelta | LoRAUpdate) -> Refusal | None:
    if message.client_id != client_id:
        kind = "an update" if isinstance(message, LoRAUpdate) else "a message"
        return Refusal(Reason.UNKNOWN_CLIENT, f"client {client_id} sent {kind} signed {message.client_id!r:.80}")
    return None
