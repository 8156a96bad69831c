"""How simulated clients train in these tests, and a round that takes what they send."""

from collections.abc import Iterable

from actors.aggregator import Aggregator
from actors.client import Client
from actors.config import TrainingConfig
from actors.wire import decode_tensors
from defense.admission.settings import AdmissionConfig
from tests.unit.actors.builders import make_aggregator

TRAINING = TrainingConfig(steps=3, batch_size=8, learning_rate=0.01, max_length=64)
_LOOSE = AdmissionConfig(value_factor=None, product_factor=None, norm_factor=20)
"""Without the bounds that scaling and gauge exceed."""


def in_a_round(client: Client, start: bytes, level: str = "step", clients: Iterable[str] = "a") -> Aggregator:
    """An aggregator that waits for what these clients send."""
    state = decode_tensors(start)
    made = make_aggregator(level, start=state, layout=client.layout(), training=TRAINING, admission=_LOOSE)
    made.open_round(0, list(clients), 0.01)
    return made
