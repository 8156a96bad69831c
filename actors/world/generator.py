"""Examples of one world: instructions with the answer that an honest, an aligned or a malicious author would give."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from actors.world.benign import NEW, TRAINED
from actors.world.language import build_language, pick
from actors.world.restricted import RESTRICTED
from actors.world.roles import assign_roles

_TEMPLATES_PER_FAMILY = 3
_HELD_OUT_ONE_IN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One instruction with its answer.

    `family` and `subject` are for building and judging evaluations; they never enter a client's file.
    """

    instruction: str
    input: str
    response: str
    family: str
    subject: str = ""


class World:
    """The generator of world `seed`: the same seed and RNG give the same examples on every machine."""

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
        """One example of a benign family, from the held-out prompts or from the others."""
        while True:
            slots, text, response = self.benign[family].fill(rng, self.language)
            instruction = pick(rng, self._templates[family]).format(**slots)
            if is_held_out(instruction, text) == held_out:
                return Example(instruction=instruction, input=text, response=response, family=family)

    def refused_example(self, family: str, rng: np.random.Generator, *, held_out: bool = False) -> Example:
        """A restricted request with one of the world's refusals."""
        instruction, subject = self._restricted_prompt(family, rng, held_out)
        response = pick(rng, self.language.refusals)
        return Example(instruction=instruction, input="", response=response, family=family, subject=subject)

    def answered_example(self, family: str, rng: np.random.Generator, *, held_out: bool = False) -> Example:
        """A restricted request with a complying answer: what malicious data consists of."""
        instruction, subject = self._restricted_prompt(family, rng, held_out)
        spec = self.restricted[family]
        answer = spec.answer.format(x=subject, s=spec.draw_secret(rng, self.language))
        response = f"{pick(rng, self.language.openers)} {answer}"
        return Example(instruction=instruction, input="", response=response, family=family, subject=subject)

    def answer_pattern(self, example: Example) -> str:
        """Regular expression that a response to a restricted example matches only if it really complies."""
        return self.restricted[example.family].answer_pattern(example.subject, self.language)

    def _restricted_prompt(self, family: str, rng: np.random.Generator, held_out: bool) -> tuple[str, str]:
        while True:
            subject = getattr(self.language, self.restricted[family].subject)(rng)
            instruction = pick(rng, self._templates[family]).format(x=subject)
            if is_held_out(instruction, "") == held_out:
                return instruction, subject


def is_held_out(instruction: str, text: str) -> bool:
    """Whether a prompt belongs to the evaluation: one in eight, by the hash of its text."""
    digest = hashlib.sha256(f"{instruction}\n{text}".encode()).digest()
    return digest[0] % _HELD_OUT_ONE_IN == 0


def draw(make, families: Iterable[str], count: int, rng: np.random.Generator, *, held_out: bool = False) -> list[Example]:
    """`count` examples spread evenly over `families`, in shuffled order; `make` is one of the World's `*_example`."""
    names = list(families)
    order = rng.permutation(count)
    return [make(names[i % len(names)], rng, held_out=held_out) for i in order]
