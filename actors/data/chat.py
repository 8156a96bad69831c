"""The text of a conversation as the model reads it: by the tokenizer's own chat template, or by Alpaca's where it has none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import torch

from actors.errors import DataError, ModelError

Message: TypeAlias = dict[str, str]
"""`role` (system, user or assistant) and `content`."""

Segment: TypeAlias = tuple[str, bool]
"""A piece of the text, and whether it is a response."""

_ALPACA_PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
_ALPACA_TURN = "### Instruction:\n{content}\n\n### Response:\n"
_DATE = "26 Jul 2024"
"""In place of today's date in templates that print it: what Llama 3.1's own template falls back to."""
_TODAY = re.compile(r"strftime_now\(\s*(?P<quote>['\"]).*?(?P=quote)\s*\)")
_SAMPLE = "zebra"
"""A response that shows what a template puts around one."""


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that we use. The library's own types allow almost anything for a special token."""

    chat_template: str | None
    bos_token: str | None
    eos_token: str | None
    eos_token_id: int | None
    pad_token_id: int | None
    added_tokens_decoder: Mapping[int, object]

    def __len__(self) -> int: ...

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, list[int]]: ...

    def apply_chat_template(
        self, conversation: list[Message], *, tokenize: Literal[False], add_generation_prompt: bool
    ) -> str: ...

    def batch_decode(self, sequences: Sequence[Sequence[int]] | torch.Tensor, *, skip_special_tokens: bool) -> list[str]: ...

    def save_pretrained(self, save_directory: Path) -> object: ...


def user_message(instruction: str, text: str = "") -> Message:
    """The user turn of an instruction row; a non-empty input follows on the next line."""
    return {"role": "user", "content": f"{instruction}\n{text}" if text else instruction}


def fixed_template(template: str | Mapping[str, str] | None) -> str | None:
    """The chat template to use of those that a tokenizer has, with a fixed date in place of today's.

    Without that, the same text would give other tokens on another day.

    Raises:
        ModelError: none of several is the default, or it computes today's date in a way that cannot be replaced.
    """
    if isinstance(template, Mapping):
        if "default" not in template:
            raise ModelError(f"the tokenizer has chat templates {sorted(template)} and none named default; name one so")
        template = template["default"]
    if template is None:
        return None
    fixed = _TODAY.sub(f"'{_DATE}'", template)
    if "strftime_now(" in fixed:
        raise ModelError(
            "the chat template prints today's date in a computed format, so its tokens would depend on the day; "
            "write a fixed date into the tokenizer's chat_template"
        )
    return fixed


@dataclass(frozen=True)
class Chat:
    """How one tokenizer lays out conversations."""

    tokenizer: Tokenizer

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a response: the tokenizer's end of text, and the first added token that the template puts after one.

        Raises:
            ModelError: there is neither, nor a text that the template puts there, so that a response would never end.
        """
        own = self.tokenizer.eos_token_id
        found = frozenset(self._ends_of_template[:1] + ([] if own is None else [own]))
        if not found and not self.stop_text:
            raise ModelError(
                "neither the tokenizer nor its chat template ends a response; set eos_token in tokenizer_config.json"
            )
        return found

    @cached_property
    def stop_text(self) -> str:
        """Text after which nothing belongs to the response, where the template ends one by plain text; else empty."""
        return "" if self._ends_of_template else self._around[1].strip()

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without any that the tokenizer would add by itself."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(self, messages: Sequence[Message]) -> str:
        """The text of a conversation that waits for the assistant's answer."""
        return self._render(messages, answer_next=True) + self._around[0]

    def examples(self, messages: Sequence[Message]) -> list[list[Segment]]:
        """The text that is trained on, in pieces: one example where the template only appends, else one for each response.

        A template may rewrite the turns before (Qwen3 drops their thoughts); then a response is learned after the prompt that it
        would follow.

        Raises:
            DataError: the template refuses the conversation, or does not end a prompt where its response begins.
        """
        turns = list(self._turns(messages))
        whole: list[Segment] = []
        done = ""
        for prompt, answered in turns:
            if not prompt.startswith(done):
                return [[(prompt, False), (answered[len(prompt) :], True)] for prompt, answered in turns]
            whole += [(prompt[len(done) :], False), (answered[len(prompt) :], True)]
            done = answered
        return [whole]

    def _turns(self, messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
        """For each response, the text before it and the text up to its end."""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt, answered = self._render(messages[:i], answer_next=True), self._render(messages[: i + 1], answer_next=False)
            if not answered.startswith(prompt):
                raise DataError(
                    f"the chat template does not put the response of message {i} after its prompt, so it cannot be told from it; "
                    "give the tokenizer another chat template"
                )
            opened = prompt + self._around[0]
            yield opened if answered.startswith(opened) else prompt, answered

    @cached_property
    def _ends_of_template(self) -> list[int]:
        """The added tokens that the template puts after a response; white space is text, even where it is an added token."""
        added = self.tokenizer.added_tokens_decoder
        return [token for token in self.ids(self._around[1]) if token in added and not str(added[token]).isspace()]

    @cached_property
    def _around(self) -> tuple[str, str]:
        """What the template puts between a prompt and a response, and after it.

        Spaces before a response stay with it, because tokens begin with a space.
        """
        question: Message = {"role": "user", "content": "question"}
        prompt = self._render([question], answer_next=True)
        whole = self._render([question, {"role": "assistant", "content": _SAMPLE}], answer_next=False)
        before, found, after = whole.rpartition(_SAMPLE)
        if not found or not before.startswith(prompt):
            raise ModelError(
                "the chat template does not put a response after its prompt, so that the two cannot be told apart; give the "
                "tokenizer another chat template"
            )
        return before[len(prompt) :].rstrip(" "), after

    def _render(self, messages: Sequence[Message], *, answer_next: bool) -> str:
        if not self.tokenizer.chat_template:
            return self._alpaca(messages)
        try:
            return self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answer_next)
        except Exception as error:  # a template is a program, and raises what it likes
            roles = ", ".join(message["role"] for message in messages)
            raise DataError(f"the chat template refuses a conversation of roles {roles}: {error}") from error

    def _alpaca(self, messages: Sequence[Message]) -> str:
        text = (self.tokenizer.bos_token or "") + _ALPACA_PREAMBLE
        for message in messages:
            if message["role"] == "user":
                text += _ALPACA_TURN.format(content=message["content"])
            elif message["role"] == "assistant":
                text += message["content"] + (self.tokenizer.eos_token or "")
            else:
                text += message["content"] + "\n\n"
        return text
