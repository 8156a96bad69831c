"""Base model and adapter on the same prompt."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from actors.data.chat import Chat, user_message
from actors.data.encoding import encode_prompt
from actors.model.adapted import choose_device
from actors.model.answers import generate
from cluster.adapter.loading import load_adapted


class Pair(NamedTuple):
    """Two answers to one prompt."""

    base: str
    adapter: str


class SideBySide:
    """The base model of a run, with and without its adapter. Each prompt is a conversation of its own."""

    def __init__(self, run: Path, max_new_tokens: int) -> None:
        """Raises as `load_adapted`."""
        self._model, tokenizer = load_adapted(run, choose_device())
        self._chat, self._max_new_tokens = Chat(tokenizer), max_new_tokens

    def answer(self, prompt: str) -> Pair:
        """Greedy answers, as the evaluation of a run takes them."""
        ids = [encode_prompt(self._chat, [user_message(prompt)])]
        with self._model.disable_adapter():
            (base,) = generate(self._model, self._chat, ids, self._max_new_tokens)
        (adapter,) = generate(self._model, self._chat, ids, self._max_new_tokens)
        return Pair(base, adapter)
