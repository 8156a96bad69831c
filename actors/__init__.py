"""State and messages: the Ray actors, base model and LoRA, local training, data sets, the embedded world.

`from actors import ClientActor, ProbeActor, AggregatorActor, EvaluationActor` is all a Python session needs.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from actors.aggregator import AggregatorActor, AggregatorConfig
    from actors.client_actor import ClientActor
    from actors.evaluation import EvaluationActor
    from actors.messages import ClientEvidence, TrainTask
    from actors.probe import ProbeActor

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
"""peft imports it wherever it is installed; it warns of a kernel that nobody asked for, and at each pass in 8 bits of a cast."""
_HOMES = {
    "AggregatorActor": "actors.aggregator",
    "AggregatorConfig": "actors.aggregator",
    "ClientActor": "actors.client_actor",
    "ClientEvidence": "actors.messages",
    "EvaluationActor": "actors.evaluation",
    "ProbeActor": "actors.probe",
    "TrainTask": "actors.messages",
}
__all__ = [
    "AggregatorActor",
    "AggregatorConfig",
    "ClientActor",
    "ClientEvidence",
    "EvaluationActor",
    "ProbeActor",
    "TrainTask",
]


def __getattr__(name: str) -> object:
    """Import on first use, so that reading a configuration loads neither torch nor Ray."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
