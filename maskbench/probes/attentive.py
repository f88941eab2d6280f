"""Attentive probing: a learnt query over frozen patch tokens."""

import copy
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from maskbench.core.rng import derive_seed
from maskbench.data.splits import Split
from maskbench.probe import Probe, ProbeResult, Subject, accuracy, register
from maskbench.runtime.hardware import autocast
from maskbench.training.crops import labelled_batches
from maskbench.training.schedules import warmup_cosine, weight_decay_groups

Share = Annotated[float, Field(gt=0, le=1)]


@register("attentive")
@dataclass(frozen=True, kw_only=True)
class Attentive(Probe):
    """A query, learnt with a linear classifier, attends to the frozen patch tokens.

    Attentive probing (CAE, arXiv 2202.03026): masked image modelling spreads what it knows over the patches and trains
    no token to sum it up, so the mean of all undersells it. The head is AIM's (arXiv 2401.08541): patches after the
    last norm, standardised by a batch norm without parameters, whose moments for evaluation are averages over all of
    training; one query; cross-attention with as many heads as the encoder has; a linear classifier. The class token is
    not read. AdamW, weight decay as in V-JEPA's probe (arXiv 2404.08471), linear warm-up, half cosine to 0.

    Random crops and flips, so nothing is encoded twice. They begin at 0.35 of the area and not at the 0.08 usual for
    224 pixels, of which small images have too few.

    A head for each learning rate of `rates` is trained on `fit`, all on the same encoded batches, which are the larger
    part of the cost. The rates reach high because few images make few steps: on an untrained encoder, 3e-2 is best for
    250 steps and 1e-2 for 1,000. The rate is chosen by accuracy on validation (ties: the lowest); a head trained with
    it on all of train, from the same start, predicts test.
    """

    rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1e-3, 3e-3, 1e-2, 3e-2)
    epochs: Annotated[int, Field(ge=1)] = 10
    warmup_epochs: Annotated[float, Field(ge=0)] = 1
    batch_size: Annotated[int, Field(ge=2)] = 256  # or all images where they are fewer
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    crop_scale: tuple[Share, Share] = (0.35, 1.0)

    def __call__(self, subject: Subject) -> ProbeResult:
        splits, rate = subject.splits, self.choose_rate(subject)
        heads = self.train_heads(subject, torch.arange(len(splits.train)), [rate])
        predicted = predict(subject, heads, splits.test)[0]
        top1 = accuracy(predicted, splits.test.labels)
        return ProbeResult(
            {"attentive/top1/patches": top1}, {"attentive/patches": predicted}, {"attentive/rate/patches": rate}
        )

    def choose_rate(self, subject: Subject) -> float:
        """The learning rate with the best accuracy on validation after training on `fit`."""
        rates, held_out = sorted(self.rates), subject.validation_split
        if len(rates) == 1:
            return rates[0]
        heads = self.train_heads(subject, subject.splits.fit, rates)
        scores = [accuracy(predicted, held_out.labels) for predicted in predict(subject, heads, held_out)]
        return rates[scores.index(max(scores))]

    def train_heads(self, subject: Subject, index: Tensor, rates: Sequence[float]) -> "AttentiveHeads":
        """Train a head for each learning rate, side by side, on the training images `index`."""
        encoder, system = subject.encoder, subject.system
        heads = self.initial_heads(subject, len(rates))
        groups = [
            {**group, "rate": rate}
            for rate, head in zip(rates, heads.heads, strict=True)
            for group in weight_decay_groups(head, self.weight_decay)
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
        batch_size = min(self.batch_size, len(index))
        per_epoch = len(index) // batch_size
        warmup, total = round(self.warmup_epochs * per_epoch), self.epochs * per_epoch
        training = encoder.training
        encoder.eval()
        batches = labelled_batches(
            subject.splits, index, encoder.grid.image_size,
            seed=subject.seed, stream="attentive", epochs=self.epochs, batch_size=batch_size, scale=self.crop_scale,
            workers=system.workers,
        )  # fmt: skip
        with closing(batches):
            for step, (images, labels) in enumerate(batches):
                with torch.no_grad(), autocast(system):
                    tokens = encoder(images).patches
                loss = torch.stack([F.cross_entropy(logits, labels) for logits in heads(tokens)]).sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                for group in optimizer.param_groups:
                    group["lr"] = warmup_cosine(group["rate"], 0.0, step, warmup, total)
                optimizer.step()
        encoder.train(training)
        return heads.eval()

    def initial_heads(self, subject: Subject, count: int) -> "AttentiveHeads":
        """Heads that all start alike, from the run's seed, on the encoder's device."""
        encoder, device = subject.encoder, subject.encoder.mask_token.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(derive_seed(subject.seed, "attentive"))
            first = AttentiveHead(encoder.width, encoder.vit.blocks[0].attn.num_heads, len(subject.splits.classes))
        return AttentiveHeads(first, count).to(device)


class AttentiveHeads(nn.Module):
    """`count` heads that read the same standardised tokens and start as copies of the first."""

    def __init__(self, first: "AttentiveHead", count: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(len(first.query), affine=False, momentum=None)  # None: the average of all batches
        self.heads = nn.ModuleList(copy.deepcopy(first) for _ in range(count))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Each head's logits (B, classes), float32, of tokens (B, N, width)."""
        with torch.autocast(tokens.device.type, enabled=False):
            standardised = self.norm(tokens.float().flatten(0, 1)).view(tokens.shape)
            return [head(standardised) for head in self.heads]


class AttentiveHead(nn.Module):
    """Multi-head cross-attention of one learnt query, then a linear classifier."""

    def __init__(self, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(width).normal_(std=0.02))  # at first almost the mean of the tokens
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.classify = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, classes) logits of tokens (B, N, width).

        With a single query the projections need not touch every token: the keys' acts on the query instead, and the
        values' on the weighted mean. The result is the same, from width / heads times fewer products.
        """
        key, value = (layer.weight.unflatten(0, (self.heads, -1)) for layer in (self.key, self.value))
        query = self.query.view(self.heads, 1, -1) * key.shape[1] ** -0.5
        attention = (tokens @ (query @ key)[:, 0].T).softmax(1)  # (B, N, heads)
        means = attention.transpose(1, 2) @ tokens  # (B, heads, width)
        return self.classify(torch.einsum("bhw,hdw->bhd", means, value).flatten(1))


def predict(subject: Subject, heads: AttentiveHeads, images: Split) -> list[Tensor]:
    """(n,) int64 predicted classes of clean images, for each head."""

    def read(batch: Tensor) -> dict[str, Tensor]:
        all_logits = heads(subject.encoder(batch).patches)
        return {str(number): logits.argmax(1) for number, logits in enumerate(all_logits)}

    return list(subject.extract(images, read).values())
