"""The attentive probe against plain loops, and what it must leave alone."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from maskbench.probe import accuracy
from maskbench.probes.attentive import Attentive, AttentiveHead, AttentiveHeads, predict
from maskbench.training.crops import labelled_batches
from tests.helpers import tiny_subject
from tests.helpers.tiny_subject import shuffle_labels

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 30}


def test_the_head_token_by_token() -> None:
    """Every token projected, every head by itself, in float64."""
    torch.manual_seed(0)
    head, tokens = AttentiveHead(12, 3, 5).double().requires_grad_(False), torch.randn(4, 7, 12, dtype=torch.float64)
    head.query.data.mul_(100)  # attention that is far from even
    wanted = torch.zeros(4, 5, dtype=torch.float64)
    for image in range(4):
        values = []
        for number in range(3):
            part = slice(4 * number, 4 * number + 4)
            scores = [float(head.query[part] @ head.key(token)[part]) / math.sqrt(4) for token in tokens[image]]
            weights = [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
            values += [sum(w * head.value(token)[part] for w, token in zip(weights, tokens[image], strict=True))]
        wanted[image] = head.classify(torch.cat(values))
    torch.testing.assert_close(head(tokens), wanted)


def test_tokens_are_standardised() -> None:
    """By the moments of the batch in training, by the mean of those moments over all batches in evaluation."""
    heads = AttentiveHeads(AttentiveHead(4, 2, 3), 2)
    seen: list[Tensor] = []
    heads.heads[0].register_forward_hook(lambda module, given, output: seen.append(given[0]))
    scale, shift = torch.tensor([1.0, 10.0, 0.1, 3.0]), torch.tensor([0.0, 5.0, -3.0, 100.0])
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(6, 5, 4, generator=generator) * scale + shift + number for number in range(3)]
    for tokens in batches:
        heads(tokens)
        torch.testing.assert_close(seen[-1].mean((0, 1)), torch.zeros(4), atol=1e-4, rtol=0)
        torch.testing.assert_close(seen[-1].var((0, 1), correction=0), torch.ones(4), atol=2e-3, rtol=0)
    heads.eval()(batches[0])
    mean = sum(tokens.mean((0, 1)) for tokens in batches) / 3
    variance = sum(tokens.var((0, 1)) for tokens in batches) / 3
    torch.testing.assert_close(seen[-1], (batches[0] - mean) / (variance + 1e-5).sqrt(), rtol=1e-4, atol=1e-4)


def test_side_by_side_as_alone() -> None:
    subject, index = tiny_subject.subject(), torch.arange(300)
    together = Attentive(**QUICK).train_heads(subject, index, [1e-3, 1e-2])
    for number, rate in enumerate((1e-3, 1e-2)):
        alone = Attentive(**QUICK).train_heads(subject, index, [rate])
        for one, other in zip(alone.heads[0].parameters(), together.heads[number].parameters(), strict=True):
            assert torch.equal(one, other)
    first, second = (head.query for head in together.heads)
    assert not torch.equal(first, second)


def test_the_schedule_of_each_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[float]] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW) -> None:
        seen.append([group["lr"] for group in self.param_groups])
        assert sorted({group["weight_decay"] for group in self.param_groups}) == [0, 0.125]
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    probe = Attentive(epochs=3, warmup_epochs=1, batch_size=100, weight_decay=0.125)
    probe.train_heads(tiny_subject.subject(), torch.arange(299), [1.0, 4.0])
    # Two whole batches an epoch: two steps up, then a half cosine whose last of four steps is 0.
    wanted = [0.5, 1.0, 1.0, 0.75, 0.25, 0.0]
    assert [rates[0] for rates in seen] == pytest.approx(wanted)
    assert all(rates == pytest.approx([rates[0]] * 2 + [4 * rates[0]] * 2) for rates in seen)


def test_the_encoder_and_the_random_state_are_left_alone() -> None:
    encoder = tiny_subject.encoder().train()
    encoder.vit.blocks[0].requires_grad_(False)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    asked, state = [parameter.requires_grad for parameter in encoder.parameters()], torch.get_rng_state()
    Attentive(**QUICK)(tiny_subject.subject(encoder=encoder))
    assert torch.equal(torch.get_rng_state(), state)
    assert encoder.training and all(module.training for module in encoder.modules())
    assert all(parameter.grad is None for parameter in encoder.parameters()), "frozen: no gradient reached it"
    assert [parameter.requires_grad for parameter in encoder.parameters()] == asked
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_the_rate_is_chosen_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, calls = tiny_subject.subject(), []
    trained = Attentive.train_heads

    def watched(self: Attentive, subject: Any, index: Tensor, rates: list[float]) -> AttentiveHeads:
        calls.append((index.tolist(), list(rates)))
        return trained(self, subject, index, rates)

    monkeypatch.setattr(Attentive, "train_heads", watched)
    probe = Attentive(rates=(1e-2, 1e-6, 1e-3), **QUICK)
    heads = trained(probe, subject, subject.splits.fit, [1e-6, 1e-3, 1e-2])
    held_out = subject.validation_split
    scores = [accuracy(predicted, held_out.labels) for predicted in predict(subject, heads, held_out)]
    best = [1e-6, 1e-3, 1e-2][scores.index(max(scores))]
    assert min(scores) < max(scores), "the choice matters"
    assert probe(subject).chosen == {"attentive/rate/patches": best}
    assert calls == [(subject.splits.fit.tolist(), [1e-6, 1e-3, 1e-2]), (list(range(300)), [best])]
    calls.clear()
    result = Attentive(rates=(3e-3,), **QUICK)(subject)
    assert result.chosen == {"attentive/rate/patches": 3e-3} and len(calls) == 1, "nothing to choose, nothing spent"


def test_what_can_be_seen_is_learnt_and_shuffled_labels_give_chance() -> None:
    probe = Attentive(rates=(3e-3,), **QUICK)
    result = probe(tiny_subject.subject())
    assert result.metrics["attentive/top1/patches"] > 0.95
    assert result.predictions["attentive/patches"].shape == (150,)
    # At worst all images of a colour get one answer, so one shuffle gives k / 3 with k of 3 even draws of odds 1/3:
    # a sd of sqrt(2 / 27) = 0.27; the mean of 9 one of 0.09.
    scores = [
        probe(tiny_subject.subject(splits=shuffle_labels(seed))).metrics["attentive/top1/patches"] for seed in range(9)
    ]
    assert abs(sum(scores) / 9 - 1 / 3) < 3 * 0.09


def test_crops_depend_on_seed_epoch_and_sample_alone() -> None:
    splits = tiny_subject.splits()
    named = dataclasses.replace(splits, train=dataclasses.replace(splits.train, labels=torch.arange(300)))
    index = torch.arange(0, 300, 3)

    def made(batch_size: int, seed: int = 0, stream: str = "a", epochs: int = 2) -> list[dict[int, Tensor]]:
        given: dict[str, Any] = {"seed": seed, "stream": stream, "epochs": epochs, "scale": (0.35, 1.0)}
        batches = list(labelled_batches(named, index, (16, 16), batch_size=batch_size, **given))
        assert all(len(images) == batch_size for images, _ in batches), "whole batches"
        assert len(batches) == epochs * (100 // batch_size)
        each = 100 // batch_size * batch_size
        flat = [pair for images, labels in batches for pair in zip(labels.tolist(), images, strict=True)]
        return [dict(flat[start : start + each]) for start in range(0, len(flat), each)]

    one, other = made(10), made(30)
    assert set(one[0]) == set(one[1]) == set(index.tolist()) and set(other[0]) < set(one[0])
    assert list(one[0]) != list(one[1]), "every epoch has an order of its own"
    for first, second in zip(one, other, strict=True):
        for number, image in second.items():
            torch.testing.assert_close(image, first[number])
    for changed in (one[1], made(10, seed=1)[0], made(10, stream="b")[0]):
        assert sum(torch.equal(changed[number], one[0][number]) for number in one[0]) < 3
