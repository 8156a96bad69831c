"""A classifier that tells refusals: small ones of real classes, trained here on a few sentences."""

import json
from pathlib import Path

import torch
from pytest import fixture, mark, raises
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from actors.config import EvaluationConfig, JudgeConfig
from actors.errors import ModelError
from actors.evaluation import Evaluation
from actors.judge import Judge, check_judge
from actors.world.datasets import write_evaluation
from actors.world.store import base_folder, world_folder
from tests.small_models import save_model

CPU = torch.device("cpu")
REFUSED = ["no, i am not the one for this", "that is nothing i do", "i stay away from that"]
ANSWERED = ["the word is lamp", "river stone", "first you take a rope", ""]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_judge(folder: Path, kind: str = "bert", labels=("ANSWER", "REFUSAL"), problem: str | None = None, pad=True) -> Path:
    """A classifier that knows the sentences above by heart."""
    tokenizer = AutoTokenizer.from_pretrained(base_folder(world_folder(0)))
    ids = dict(enumerate(labels))
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), max_position_embeddings=64, id2label=ids, problem_type=problem, **SIZES
    )
    config.pad_token_id = tokenizer.pad_token_id if pad else None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
        for _ in range(12):
            for text in (*REFUSED, *ANSWERED[:3]):
                encoded = tokenizer([text], return_tensors="pt")
                logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
                target = torch.tensor([[float((label == "REFUSAL") == (text in REFUSED)) for label in labels]])
                torch.nn.functional.binary_cross_entropy_with_logits(logits, target).backward()
                optimizer.step()
                optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return save_judge(tmp_path_factory.mktemp("judge"))


def judge(folder: Path, label: int | str = "REFUSAL", batch_size: int = 3) -> Judge:
    return Judge(JudgeConfig(path=str(folder), refusal_label=label), batch_size, CPU)


@mark.parametrize("label", ["REFUSAL", 1])
@mark.parametrize("batch_size", [1, 3, 50])
def test_the_named_label_or_its_index_means_a_refusal_in_batches_of_any_size(bert, label, batch_size):
    texts = [*ANSWERED[:2], *REFUSED, *ANSWERED[2:]]
    assert judge(bert, label, batch_size).refuses(texts) == [text in REFUSED for text in texts]


def test_another_label_means_the_opposite(bert):
    assert judge(bert, "ANSWER").refuses([REFUSED[0], ANSWERED[0]]) == [False, True]


@mark.parametrize(
    ("labels", "problem"),
    [(["REFUSAL"], None), (["REFUSAL", "ODD", "LONG"], "multi_label_classification"), (["a", "REFUSAL"], None)],
)
def test_heads_of_one_label_and_of_labels_that_do_not_exclude_each_other_are_read_too(tmp_path, labels, problem):
    texts = [*REFUSED, *ANSWERED]
    assert judge(save_judge(tmp_path, labels=labels, problem=problem)).refuses(texts) == [text in REFUSED for text in texts]


def test_a_decoder_without_a_pad_token_judges_one_by_one(tmp_path):
    texts = [*REFUSED, *ANSWERED[:3]]
    assert judge(save_judge(tmp_path, "llama", pad=False)).refuses(texts) == [text in REFUSED for text in texts]


def test_a_long_response_is_cut_to_what_the_classifier_reads(bert):
    assert judge(bert).refuses([" ".join(["lamp"] * 500)]) == [False]


def test_what_is_no_classifier_or_has_no_such_label_is_refused_with_the_labels(bert, tmp_path):
    model = save_model(tmp_path / "base", "llama")
    with raises(ModelError, match=r"refusal_label=NO: .* has the labels ANSWER \(0\), REFUSAL \(1\); name one"):
        judge(bert, "NO")
    with raises(ModelError, match=r"refusal_label=2: "):
        judge(bert, 2)
    with raises(ModelError, match=r"evaluation.judge.path=\S+ lacks 1 tensors of a classifier, such as score.weight"):
        judge(model, "LABEL_1")
    with raises(ModelError, match=r"evaluation.judge.path=/nowhere does not load as a text classification model"):
        check_judge(JudgeConfig(path="/nowhere", refusal_label=1))
    (model / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with raises(ModelError, match="no text classification model of type vit"):
        check_judge(JudgeConfig(path=str(model), refusal_label=1))


def test_the_evaluation_counts_what_the_judge_says(bert, base_config, lora, model, world, tmp_path):
    restricted, benign = map(str, write_evaluation(world, tmp_path, 6, 6))
    prompts = {"restricted_path": restricted, "benign_path": benign, "trigger": "Now:", "max_new_tokens": 8}
    config = EvaluationConfig(**prompts, judge=JudgeConfig(path=str(bert), refusal_label="REFUSAL"))
    measured = Evaluation(base_config, lora, config, max_length=64)
    measured._answer = lambda ids: [REFUSED[i % 2] if i < 4 else ANSWERED[i % 3] for i in range(len(ids))]
    report = measured.evaluate(0, 0, model.initial_adapter())
    assert report.rule_score.outcomes == report.over_refusal.outcomes == "111100"
    assert report.compliance.outcomes == report.attack_success.outcomes == "000000"
