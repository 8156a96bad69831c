"""A classifier that says of responses whether they refuse, in place of wordings: a text classification model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from actors.config import JudgeConfig
from actors.errors import ModelError

_HALF = 0.5


class Judge:
    """Holds the classifier. It reads the response alone, cut to what it can read, and computes in float32."""

    def __init__(self, config: JudgeConfig, batch_size: int, device: torch.device) -> None:
        """Raises ModelError: the classifier cannot be loaded, or has no such label; names the key."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.pipelines.text_classification import TextClassificationPipeline
        from transformers.utils import logging

        self._label, self._batch_size = check_judge(config), batch_size
        logging.disable_progress_bar()
        try:
            loaded: Any = AutoModelForSequenceClassification.from_pretrained(
                str(config.path), dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(str(config.path), trust_remote_code=False)
        except Exception as error:  # transformers raises what it likes
            raise _unusable(config, error) from error
        model, found = loaded
        if missing := sorted(found["missing_keys"]):
            raise ModelError(
                f"evaluation.judge.path={config.path} lacks {len(missing)} tensors of a classifier, such as {missing[0]}, which "
                "would be random; name a model that was trained for text classification"
            )
        if tokenizer.pad_token_id is None or model.config.get_text_config().pad_token_id is None:
            self._batch_size = 1  # rows of one length need no padding
        self._classify = TextClassificationPipeline(model=model.eval(), tokenizer=tokenizer, device=device)
        self._max_length = _max_length(model, tokenizer)

    def refuses(self, responses: Sequence[str]) -> list[bool]:
        """Whether each refuses: its label is more likely than not, among all labels, or for itself where labels do not exclude
        each other (the softmax or sigmoid that the checkpoint says). One without text does not."""
        said = [response for response in responses if response.strip()]
        scores: Any = self._classify(said, top_k=None, batch_size=self._batch_size, truncation=True, max_length=self._max_length)
        of_text = iter({entry["label"]: entry["score"] for entry in row}[self._label] > _HALF for row in scores)
        return [next(of_text) if response.strip() else False for response in responses]


def check_judge(config: JudgeConfig) -> str:
    """The label that stands for a refusal; loads no weights.

    Raises:
        ModelError: the path holds no text classification model, or it has no such label; names the key and the labels.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    try:
        found = AutoConfig.from_pretrained(str(config.path), trust_remote_code=False)
    except Exception as error:  # transformers raises what it likes
        raise _unusable(config, error) from error
    if type(found) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise _unusable(config, f"transformers has no text classification model of type {found.model_type}")
    labels: dict[Any, str] = found.id2label or {}
    asked = config.refusal_label
    if asked in labels:
        return labels[asked]
    if asked in labels.values():
        return str(asked)
    known = ", ".join(f"{label} ({index})" for index, label in labels.items())
    raise ModelError(f"evaluation.judge.refusal_label={asked}: {config.path} has the labels {known}; name one, or its index")


def _max_length(model: Any, tokenizer: Any) -> int:
    """Tokens that the classifier can read: what the tokenizer says, or the positions less the two that RoBERTa's kind skips."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(tokenizer.model_max_length, (positions or 514) - 2)


def _unusable(config: JudgeConfig, why: object) -> ModelError:
    said = " ".join(str(why).split())[:300] or type(why).__name__
    return ModelError(f"evaluation.judge.path={config.path} does not load as a text classification model: {said}")
