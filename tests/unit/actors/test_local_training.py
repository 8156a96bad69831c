"""Local training: repeatable to the bit, the right loss, a fresh optimizer, and a frozen base."""

import math
from pathlib import Path

import torch
from pytest import approx, fixture, mark, raises

from actors.config import LoraConfig, ModelConfig, TrainingConfig
from actors.data.encoding import IGNORED, Batch, Encoded, collate
from actors.local_training import LocalStep, make_optimizer, mean_response_loss, response_loss_sum, train_adapter
from actors.model.adapted import AdaptedModel
from actors.wire import decode_tensors, encode_tensors

CPU = torch.device("cpu")


def make_model(base: Path, dropout: float = 0.0, **config) -> AdaptedModel:
    return AdaptedModel(ModelConfig(path=str(base), **config), LoraConfig(dropout=dropout, target_modules="all-linear"), CPU)


def make_batch(lengths: list[tuple[int, int]], seed: int = 0) -> Batch:
    """An example of random ids per (prompt tokens, supervised tokens)."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for num_prompt, num_response in lengths:
        ids = torch.randint(4, 280, (num_prompt + num_response,), generator=generator).tolist()
        examples.append(Encoded(tuple(ids), (IGNORED,) * num_prompt + tuple(ids[num_prompt:])))
    return collate(examples)


LENGTHS = [(5, 3), (2, 6), (7, 1), (3, 9)]
BATCHES = [make_batch(LENGTHS, seed) for seed in range(3)]


def initial(model: AdaptedModel) -> dict[str, torch.Tensor]:
    return decode_tensors(model.initial_adapter())


def warm(model: AdaptedModel) -> dict[str, torch.Tensor]:
    """A start where both factors are non-zero, so that both have gradients."""
    generator = torch.Generator().manual_seed(9)
    return {name: torch.randn(p.shape, generator=generator) / 8 for name, p in model.adapter_parameters.items()}


def begin(model: AdaptedModel, batches=BATCHES, *, start=None, learning_rate=1e-2, training=None, **options):
    """A training that has not taken a step yet."""
    training = TrainingConfig(**training or {})
    return train_adapter(model, start or initial(model), batches, training, learning_rate=learning_rate, **{"seed": 0} | options)


def train(model: AdaptedModel, *args, **options) -> tuple[list[LocalStep], dict[str, torch.Tensor]]:
    """The steps and the adapter after the last."""
    return list(begin(model, *args, **options)), model.adapter_state()


def change(model: AdaptedModel, state: dict[str, torch.Tensor], factor: str) -> torch.Tensor:
    start = initial(model)
    return torch.cat([(state[name] - start[name]).flatten() for name in state if factor in name])


def loss_by_hand(model: AdaptedModel, batch: Batch) -> float:
    """Mean negative log-likelihood of the supervised tokens from the full logits, a token at a time, in float64."""
    with torch.no_grad():
        logits = model.peft(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.double()
    losses = []
    for row in range(batch.labels.shape[0]):
        for place in range(1, batch.labels.shape[1]):
            if batch.labels[row, place] != IGNORED:
                scores = logits[row, place - 1]
                losses.append(float(scores.exp().sum().log() - scores[batch.labels[row, place]]))
    return sum(losses) / len(losses)


@fixture(scope="module")
def plain(tiny_base) -> AdaptedModel:
    """Without dropout. `train_adapter` loads its own start, so tests can share it."""
    return make_model(tiny_base)


@fixture(scope="module")
def dropped(tiny_base) -> AdaptedModel:
    return make_model(tiny_base, dropout=0.3)


def test_each_batch_is_one_step(plain):
    batches = [make_batch(LENGTHS), make_batch(LENGTHS[:2]), make_batch(LENGTHS[1:])]
    steps, _ = train(plain, batches)
    assert [(step.step, step.num_samples) for step in steps] == [(1, 4), (2, 2), (3, 3)]


def test_equal_seeds_train_to_the_bit_whatever_was_trained_before(tiny_base, dropped):
    steps, state = train(dropped)
    torch.manual_seed(77)
    train(dropped, [make_batch([(3, 4)], seed=8)], start=warm(dropped), learning_rate=0.1)
    again_steps, again = train(dropped)
    fresh_steps, fresh = train(make_model(tiny_base, dropout=0.3))
    assert encode_tensors(state) == encode_tensors(again) == encode_tensors(fresh)
    assert steps == again_steps == fresh_steps


@mark.parametrize("uses_dropout", [True, False])
def test_only_dropout_follows_the_seed(plain, dropped, uses_dropout):
    states = [encode_tensors(train(dropped if uses_dropout else plain, seed=seed)[1]) for seed in (1, 2)]
    assert len(set(states)) == (2 if uses_dropout else 1)


@mark.parametrize("learning_rate", [1e-2, 1e30])
def test_training_leaves_the_random_state_and_the_evaluation_mode_as_they_were_even_when_it_fails(dropped, learning_rate):
    before = torch.get_rng_state()
    try:
        train(dropped, learning_rate=learning_rate)
    except FloatingPointError as error:
        assert learning_rate == 1e30, error
    assert torch.equal(torch.get_rng_state(), before)
    assert not dropped.peft.training


def test_each_loss_is_the_mean_over_the_supervised_tokens_before_its_step(plain):
    steps = begin(plain, start=warm(plain))
    plain.load_adapter(warm(plain))
    expected = loss_by_hand(plain, BATCHES[0])
    for step in steps:
        assert step.loss == approx(expected, rel=1e-5)
        plain.peft.eval()
        expected = loss_by_hand(plain, BATCHES[step.step]) if step.step < len(BATCHES) else None
        plain.peft.train()
    assert expected is None


def test_the_mean_loss_of_batches_is_over_all_their_supervised_tokens(plain):
    plain.load_adapter(warm(plain))
    batches, counts = [make_batch([(5, 3)]), make_batch([(2, 6), (3, 9)])], (3, 15)
    expected = sum(loss_by_hand(plain, batch) * count for batch, count in zip(batches, counts, strict=True)) / 18
    assert mean_response_loss(plain, batches) == approx(expected, rel=1e-5)


def test_the_loss_of_a_batch_is_the_sum_over_its_examples_whatever_the_padding(plain):
    plain.load_adapter(warm(plain))
    alone = []
    with torch.no_grad():
        for row, (num_prompt, num_response) in enumerate(LENGTHS):
            length = num_prompt + num_response
            single = Batch(*(getattr(BATCHES[0], name)[row : row + 1, :length] for name in Batch.__slots__))
            alone.append(float(response_loss_sum(plain, single)))
        together = float(response_loss_sum(plain, BATCHES[0]))
    assert together == approx(sum(alone), rel=1e-5)


def test_several_responses_in_one_example_all_count(plain):
    ids = tuple(range(10, 22))
    labels = tuple(token if place in (3, 4, 8, 11) else IGNORED for place, token in enumerate(ids))
    batch = collate([Encoded(ids, labels), Encoded(ids[:6], (IGNORED,) * 5 + ids[5:6])])
    plain.load_adapter(warm(plain))
    with torch.no_grad():
        assert float(response_loss_sum(plain, batch)) == approx(5 * loss_by_hand(plain, batch), rel=1e-5)


def test_a_label_on_the_first_token_has_nothing_that_predicts_it(plain):
    ids = (10, 11, 12)
    plain.load_adapter(warm(plain))
    with torch.no_grad():
        first_too = float(response_loss_sum(plain, collate([Encoded(ids, ids)])))
        without = float(response_loss_sum(plain, collate([Encoded(ids, (IGNORED, 11, 12))])))
    assert first_too == without


@mark.parametrize("size", [1, 2, 3, 100])
def test_micro_batches_take_the_step_of_the_whole_batch(plain, size):
    """AdamW divides a gradient by its own size, so a wrong weighting of the parts shows as a wrong direction."""
    whole_steps, whole = train(plain, start=warm(plain), learning_rate=1e-3)
    steps, state = train(plain, start=warm(plain), learning_rate=1e-3, training={"micro_batch_size": size})
    assert [step.loss for step in steps] == approx([step.loss for step in whole_steps], rel=1e-5)
    assert [step.num_samples for step in steps] == [4, 4, 4]
    moved = torch.cat([(whole[name] - warm(plain)[name]).flatten() for name in whole])
    error = torch.cat([(state[name] - whole[name]).flatten() for name in whole])
    assert moved.abs().mean() > 5e-4
    assert error.abs().max() < 5e-5


def test_a_micro_batch_without_supervised_tokens_adds_nothing(plain):
    full = make_batch([(4, 3), (2, 5)])
    labels = full.labels.clone()
    labels[1] = IGNORED
    batch = Batch(full.input_ids, full.attention_mask, labels)
    (whole_step,), whole = train(plain, [batch], start=warm(plain), learning_rate=1e-3)
    (step,), state = train(plain, [batch], start=warm(plain), learning_rate=1e-3, training={"micro_batch_size": 1})
    assert step.loss == approx(whole_step.loss, rel=1e-5)
    assert max(float((state[name] - whole[name]).abs().max()) for name in whole) < 2e-5


def test_the_base_is_untouched_to_the_bit(dropped):
    trained = {id(parameter) for parameter in dropped.adapter_parameters.values()}
    frozen = {name: p for name, p in dropped.peft.named_parameters() if id(p) not in trained}
    before = {name: parameter.detach().clone() for name, parameter in frozen.items()}
    _, state = train(dropped, learning_rate=0.5)
    assert all(torch.equal(frozen[name], tensor) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in frozen.values())
    assert len(frozen) == 2 + 2 * 9
    assert change(dropped, state, ".lora_").abs().max() > 0.1


def test_the_first_step_moves_b_by_the_learning_rate_and_leaves_a(plain):
    """AdamW's first step is lr * g / (|g| + 1e-8); while B is zero, A has no gradient."""
    _, state = train(plain, BATCHES[:1], learning_rate=1e-3)
    moved = change(plain, state, ".lora_B.").abs()
    assert moved.max() <= 1e-3 * (1 + 1e-4)
    assert moved.median() > 0.99e-3
    assert not change(plain, state, ".lora_A.").any()


def test_weight_decay_shrinks_a_while_it_has_no_gradient(plain):
    """Decoupled decay multiplies by 1 - lr * decay: here by 1 - 0.01 * 0.5."""
    _, state = train(plain, BATCHES[:1], learning_rate=0.01, training={"weight_decay": 0.5})
    start = initial(plain)
    for name in (name for name in state if ".lora_A." in name):
        torch.testing.assert_close(state[name], start[name] * 0.995)


def test_the_live_adapter_holds_each_steps_result(plain):
    states = []
    for _ in begin(plain):
        states.append(encode_tensors(plain.adapter_state()))
    prefixes = [encode_tensors(train(plain, BATCHES[:num])[1]) for num in (1, 2, 3)]
    assert states == prefixes
    assert len(set(states)) == 3


def test_a_state_that_was_given_as_start_is_not_changed(plain):
    start = warm(plain)
    before = encode_tensors(start)
    train(plain, start=start)
    assert encode_tensors(start) == before


def test_gradient_checkpointing_changes_no_result(tiny_base, plain):
    steps, state = train(plain)
    saving_steps, saving = train(make_model(tiny_base, gradient_checkpointing=True))
    assert [step.loss for step in saving_steps] == approx([step.loss for step in steps], rel=1e-5)
    assert max(float((saving[name] - state[name]).abs().max()) for name in state) < 1e-3


def test_a_bfloat16_base_trains_a_float32_adapter(tiny_base, plain):
    steps, _ = train(plain)
    half = make_model(tiny_base, dtype="bfloat16")
    half_steps, state = train(half)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert half_steps[0].loss == approx(steps[0].loss, rel=0.02)
    assert change(half, state, ".lora_B.").abs().max() > 0.01


def test_a_loss_that_is_not_finite_ends_the_training_at_its_step(plain):
    start = initial(plain)
    start[min(start)] = torch.full_like(start[min(start)], float("nan"))
    with raises(FloatingPointError, match=r"the training loss became nan at local step 1; lower training\.learning_rate"):
        next(begin(plain, start=start))
    steps = begin(plain, learning_rate=1e30)
    assert next(steps).step == 1
    with raises(FloatingPointError, match="at local step 2"):
        next(steps)


def test_the_proximal_term_is_part_of_the_loss_and_clipped_with_it(plain, monkeypatch):
    """At a point away from the start, by automatic differentiation of loss + mu/2 |theta - start|^2."""
    given: list[list[torch.Tensor]] = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda ps, norm: given.append([p.grad.clone() for p in ps]))
    start, parameters = warm(plain), plain.adapter_parameters
    steps = begin(plain, BATCHES[:2], start=start, proximal_mu=0.7)
    next(steps)
    loss = response_loss_sum(plain, BATCHES[1]) / int((BATCHES[1].labels[:, 1:] != IGNORED).sum())
    away = sum((parameter - start[name]).square().sum() for name, parameter in parameters.items())
    expected = torch.autograd.grad(loss + 0.35 * away, list(parameters.values()))
    next(steps)
    assert away > 0.1
    for found, wanted in zip(given[1], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_a_strong_proximal_term_keeps_the_adapter_near_its_start_and_is_not_reported(plain):
    def distance(state: dict[str, torch.Tensor]) -> float:
        return sum(float((tensor - warm(plain)[name]).square().sum()) for name, tensor in state.items()) ** 0.5

    (free, *_), far = train(plain, BATCHES * 4, start=warm(plain))
    (held, *_), near = train(plain, BATCHES * 4, start=warm(plain), proximal_mu=100.0)
    assert distance(near) < 0.5 * distance(far)
    assert held.loss == free.loss


def test_frozen_parameters_stay_and_the_others_move(plain):
    start, frozen = warm(plain), {name for name in plain.adapter_parameters if ".lora_A." in name}
    _, state = train(plain, start=start, training={"weight_decay": 0.1}, frozen=frozen)
    assert {name for name in state if torch.equal(state[name], start[name])} == frozen
    assert all(plain.adapter_parameters[name].grad is None for name in frozen)
    _, free = train(plain, start=start)
    assert not any(torch.equal(free[name], start[name]) for name in free)


def test_the_optimizer_takes_the_clipped_gradient(plain):
    """sgd's first step is the learning rate times the gradient, whose norm over all parameters is clipped to 0.01."""
    next(begin(plain, start=warm(plain), training={"max_grad_norm": 0.01}, learning_rate=3.0, optimizer="sgd"))
    moved = torch.cat([(tensor - warm(plain)[name]).flatten() for name, tensor in plain.adapter_state().items()])
    assert float(moved.norm()) == approx(0.03, rel=1e-3)


@mark.parametrize("optimizer", ["adamw", "sgd", "adagrad"])
def test_every_optimizer_learns(plain, optimizer):
    steps, _ = train(plain, [BATCHES[0]] * 10, learning_rate=0.05, optimizer=optimizer)
    assert steps[-1].loss < 0.9 * steps[0].loss


@mark.parametrize(
    ("name", "start", "gradients", "expected"),
    [
        ("sgd", 2.0, [1, 1], [1.8, 1.43]),  # gradients 1 + 0.5 * 2 and 1 + 0.5 * 1.8, so v = 2, then 0.9 * 2 + 1.9
        ("adagrad", -4.0, [1, 2], [-3.9, -3.9 - 0.1 * 0.05 / math.sqrt(1 + 0.05**2)]),  # gradients 1 - 2 and 2 - 1.95
        ("adamw", 2.0, [3, 3], [2 * 0.95 - 0.1, (2 * 0.95 - 0.1) * 0.95 - 0.1]),  # decay by 1 - 0.1 * 0.5, then a full step
    ],
)
def test_momentum_and_decay_of_each_optimizer(name, start, gradients, expected):
    value, found = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64)), []
    optimizer = make_optimizer(name, [value], 0.1, 0.5)
    for gradient in gradients:
        value.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        found.append(value.item())
    assert found == approx(expected)
