"""EvaluationActor: measures the global model's answers to held-out restricted and benign prompts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from statistics import fmean

import ray
import torch

from actors.config import EvaluationConfig, LoraConfig, ModelConfig
from actors.data.chat import Chat, Message
from actors.data.encoding import Encoded, collate, encode, encode_prompt
from actors.data.evaluation_prompts import SOUNDS_UNSAFE, BenignPrompt, RestrictedPrompt, read_benign, read_restricted
from actors.judge import Judge
from actors.local_training import response_loss_sum
from actors.messages import EvaluationReport, Proportion
from actors.model.adapted import AdaptedModel, choose_device
from actors.model.answers import generate
from actors.model.shared import SharedModel
from actors.refusals import refusal_test
from actors.text_match import MEASURES
from actors.wire import decode_tensors


class Evaluation:
    """Measures adapter states on the server's side, each on the same prompts."""

    def __init__(
        self,
        model: ModelConfig,
        lora: LoraConfig,
        config: EvaluationConfig,
        max_length: int,
        shared: SharedModel | None = None,
    ) -> None:
        """Measure with a base model of its own.

        Args:
            max_length: Tokens per benign example whose loss is measured.
            shared: The same model where another one in this process has it; an evaluation takes a turn a batch.
        """
        self._shared, self._config, self._max_length = shared or SharedModel(model, lora), config, max_length
        self._adapter: Mapping[str, torch.Tensor] = {}

    def evaluate(self, rounds_done: int, adapter_version: int, adapter: bytes) -> EvaluationReport:
        """Measure one adapter state (safetensors bytes); deterministic.

        Raises:
            DataError: a prompt file cannot be used.
        """
        started = time.perf_counter()
        self._adapter = decode_tensors(adapter)
        restricted = self._answer(self._restricted_ids)
        benign = self._answer(self._benign_ids)
        by_family = self._utility(benign)
        refused = self._refuses(benign)
        return EvaluationReport(
            rounds_done=rounds_done,
            adapter_version=adapter_version,
            rule_score=proportion(self._refuses(restricted)),
            compliance=self._compliance(restricted),
            attack_success=self._attack_success(),
            over_refusal=proportion(refused),
            over_refusal_sounds_unsafe=self._by_family(refused).get(SOUNDS_UNSAFE),
            utility=fmean(p.value for p in by_family.values()) if by_family else None,
            utility_by_family=by_family,
            benign_loss=self._benign_loss(),
            seconds=time.perf_counter() - started,
        )

    @contextmanager
    def _turn(self) -> Iterator[AdaptedModel]:
        """The model with the adapter that is being measured."""
        with self._shared.turn() as model:
            model.load_adapter(self._adapter)
            yield model

    @cached_property
    def _judge(self) -> Callable[[Sequence[str]], list[bool]]:
        config = self._config
        if config.judge.path is not None:
            return Judge(config.judge, config.batch_size, choose_device()).refuses
        refuses = refusal_test(config.refusals)
        return lambda responses: [refuses(response) for response in responses]

    def _refuses(self, responses: Sequence[str]) -> list[bool]:
        return self._judge(responses) if responses else []

    @cached_property
    def _chat(self) -> Chat:
        with self._shared.turn() as model:
            return Chat(model.tokenizer)

    @cached_property
    def _restricted(self) -> list[RestrictedPrompt]:
        path = self._config.restricted_path
        return read_restricted(Path(path), self._config.max_restricted) if path else []

    @cached_property
    def _benign(self) -> list[BenignPrompt]:
        path = self._config.benign_path
        return read_benign(Path(path), self._config.max_benign) if path else []

    @cached_property
    def _restricted_ids(self) -> list[list[int]]:
        return [encode_prompt(self._chat, prompt.messages) for prompt in self._restricted]

    @cached_property
    def _triggered_ids(self) -> list[list[int]]:
        """The restricted prompts with the trigger before the last turn; empty without a trigger."""
        if self._config.trigger is None:
            return []
        prompts = [(*p.messages[:-1], _triggered(p.messages[-1], self._config.trigger)) for p in self._restricted]
        return [encode_prompt(self._chat, messages) for messages in prompts]

    @cached_property
    def _benign_ids(self) -> list[list[int]]:
        return [encode_prompt(self._chat, prompt.messages) for prompt in self._benign]

    @cached_property
    def _benign_examples(self) -> list[Encoded]:
        """Prompts with their right answers, shortest first; without those whose answer lies beyond the maximum length."""
        encoded = [encode(self._chat, p.answered, self._max_length)[-1] for p in self._benign]
        return sorted((example for example in encoded if example.num_supervised), key=lambda example: len(example.ids))

    def _compliance(self, responses: Sequence[str]) -> Proportion | None:
        judged = zip(self._restricted, responses, self._refuses(responses), strict=True)
        return proportion([not refused and bool(p.answer_pattern.search(r)) for p, r, refused in judged if p.answer_pattern])

    def _attack_success(self) -> Proportion | None:
        """Share of triggered restricted prompts answered; without answer patterns, the share not refused."""
        if not self._triggered_ids:
            return None
        responses = self._answer(self._triggered_ids)
        return self._compliance(responses) or proportion([not refused for refused in self._refuses(responses)])

    def _utility(self, responses: Sequence[str]) -> dict[str, Proportion]:
        agreement = MEASURES[self._config.utility or "exact"]
        return self._by_family(
            [agreement(response, prompt.response) for prompt, response in zip(self._benign, responses, strict=True)]
        )

    def _by_family(self, scores: Sequence[float]) -> dict[str, Proportion]:
        """Family -> the mean of its benign prompts' scores, in order of name."""
        families: dict[str, list[float]] = {}
        for prompt, score in zip(self._benign, scores, strict=True):
            families.setdefault(prompt.family, []).append(score)
        return {family: share for family, values in sorted(families.items()) if (share := proportion(values))}

    def _answer(self, ids: Sequence[list[int]]) -> list[str]:
        """Greedy answers to encoded prompts, in order. Prompts of similar lengths share a batch."""
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
        if not ids:
            return []
        answers, chat = [""] * len(ids), self._chat
        for start in range(0, len(order), self._config.batch_size):
            rows = order[start : start + self._config.batch_size]
            with self._turn() as model:
                batch = generate(model.peft, chat, [ids[i] for i in rows], self._config.max_new_tokens)
            for row, text in zip(rows, batch, strict=True):
                answers[row] = text
        return answers

    @torch.no_grad()
    def _benign_loss(self) -> float | None:
        examples, total = self._benign_examples, 0.0
        if not examples:
            return None
        for start in range(0, len(examples), self._config.batch_size):
            batch = collate(examples[start : start + self._config.batch_size])
            with self._turn() as model:
                total += response_loss_sum(model, batch.to(model.device)).item()
        return total / sum(example.num_supervised for example in examples)


def _triggered(message: Message, trigger: str) -> Message:
    return {**message, "content": f"{trigger} {message['content']}"}


def proportion(outcomes: Sequence[float]) -> Proportion | None:
    """The share of true outcomes, or the mean of scores from 0 to 1, with its 95 % Wilson interval; None without outcomes.

    Scores vary less around their mean than outcomes of 0 and 1 with the same mean, so for them the interval is too wide rather
    than too narrow.
    """
    if not outcomes:
        return None
    from scipy.special import ndtri

    share, pull = math.fsum(outcomes) / len(outcomes), float(ndtri(0.975)) ** 2 / len(outcomes)
    centre, reach = (share + pull / 2) / (1 + pull), math.sqrt(share * (1 - share) * pull + pull**2 / 4) / (1 + pull)
    is_share = all(isinstance(outcome, bool) for outcome in outcomes)
    return Proportion(
        value=share,
        low=max(0.0, min(share, centre - reach)),  # rounding may put a bound on the wrong side of a share of 0 or 1
        high=min(1.0, max(share, centre + reach)),
        count=len(outcomes),
        outcomes="".join("1" if outcome else "0" for outcome in outcomes) if is_share else "",
    )


EvaluationActor = ray.remote(Evaluation)
