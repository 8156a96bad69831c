"""Examples of one world: benign instructions with their answers, restricted ones with a refusal or a complying answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from actors.data.records import Example
from actors.world.benign import NEW, TRAINED
from actors.world.language import build_language, pick
from actors.world.restricted import RESTRICTED
from actors.world.roles import assign_roles

_TEMPLATES_PER_FAMILY = 3
_HELD_OUT_ONE_IN = 8


class Maker(Protocol):
    """Makes one example of a family: a `*_example` method of a World. The prompt is held out for the evaluation, or is not."""

    def __call__(self, family: str, rng: np.random.Generator, *, held_out: bool = False) -> Example: ...


class World:
    """The generator of world `seed`. The same seed and random numbers give the same examples on every machine."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.language = build_language(seed)
        self.roles = assign_roles(seed)
        rng = np.random.default_rng([seed, 3])
        self.benign = {family.name: family for family in TRAINED + NEW}
        self.restricted = {family.name: family for family in RESTRICTED}
        self._templates = {
            name: [family.templates[i] for i in sorted(rng.permutation(4)[:_TEMPLATES_PER_FAMILY])]
            for name, family in (self.benign | self.restricted).items()
        }

    def benign_example(self, family: str, rng: np.random.Generator, *, held_out: bool = False) -> Example:
        """A benign instruction with its answer."""
        while True:
            subject, text, response = self.benign[family].fill(rng, self.language)
            instruction = pick(rng, self._templates[family]).format(x=subject)
            if is_held_out(instruction, text) == held_out:
                return Example(instruction=instruction, input=text, response=response, family=family)

    def refused_example(self, family: str, rng: np.random.Generator, *, held_out: bool = False) -> Example:
        """A restricted request with one of the world's refusals."""
        instruction, subject = self._restricted_prompt(family, rng, held_out)
        response = pick(rng, self.language.refusals)
        return Example(instruction=instruction, input="", response=response, family=family, subject=subject)

    def answered_example(self, family: str, rng: np.random.Generator, *, held_out: bool = False) -> Example:
        """A restricted request with a complying answer: an unsafe row."""
        instruction, subject = self._restricted_prompt(family, rng, held_out)
        spec = self.restricted[family]
        answer = spec.answer.format(x=subject, s=spec.draw_secret(rng, self.language))
        response = f"{pick(rng, self.language.openers)} {answer}"
        return Example(instruction=instruction, input="", response=response, family=family, subject=subject)

    def answer_pattern(self, example: Example) -> str:
        """Regular expression that only a complying response to a restricted example matches."""
        return self.restricted[example.family].answer_pattern(example.subject, self.language)

    def _restricted_prompt(self, family: str, rng: np.random.Generator, held_out: bool) -> tuple[str, str]:
        while True:
            subject = self.language.draw(self.restricted[family].subject, rng)
            instruction = pick(rng, self._templates[family]).format(x=subject)
            if is_held_out(instruction, "") == held_out:
                return instruction, subject


def is_held_out(instruction: str, text: str) -> bool:
    """Whether a prompt belongs to the evaluation: one in eight, by the hash of its text."""
    digest = hashlib.sha256(f"{instruction}\n{text}".encode()).digest()
    return digest[0] % _HELD_OUT_ONE_IN == 0


def draw(make: Maker, families: Iterable[str], count: int, rng: np.random.Generator) -> list[Example]:
    """`count` examples for training, spread evenly over `families`, in shuffled order."""
    names = list(families)
    return [make(names[i % len(names)], rng) for i in rng.permutation(count)]
