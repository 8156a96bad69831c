"""CanaryActor: how much less likely a submitted update makes the server's own refusals than the global adapter does."""

from __future__ import annotations

import ray

from actors.messages import CanaryReading, LoRAUpdate
from actors.metering import Meter


class Canary(Meter):
    """Its rows are restricted prompts with refusals (METHOD.md section 8)."""

    def _read(self, client_id: str, update: LoRAUpdate) -> CanaryReading:
        return CanaryReading(client_id=client_id, rise=self._loss(update.tensors) - self._global_loss)

    def _refused(self, client_id: str, refusal: str) -> CanaryReading:
        return CanaryReading(client_id=client_id, refusal=refusal)


CanaryActor = ray.remote(Canary)
