"""One base model for all of a process that measure with it: each takes it for a turn, and loads its own adapter first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch

from actors.config import LoraConfig, ModelConfig
from actors.model.adapted import AdaptedModel, choose_device


class SharedModel:
    """The server's model, which is loaded in the first turn. Turns are given in the order in which they are asked for."""

    def __init__(self, config: ModelConfig, lora: LoraConfig) -> None:
        self._config, self._lora = config, lora
        self._changed = threading.Condition()
        self._asked = self._ended = 0

    @contextmanager
    def turn(self) -> Iterator[AdaptedModel]:
        """Wait until all turns that were asked for before have ended; the adapter is the one that the last turn left."""
        with self._changed:
            number = self._asked
            self._asked += 1
            self._changed.wait_for(lambda: self._ended == number)
        try:
            yield self.model
        finally:
            with self._changed:
                self._ended += 1
                self._changed.notify_all()

    @cached_property
    def model(self) -> AdaptedModel:
        """For the one whose turn it is. It computes on one thread."""
        torch.set_num_threads(1)
        return AdaptedModel(self._config, self._lora, choose_device())
