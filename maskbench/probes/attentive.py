"""A learnt query over frozen patch tokens."""

import copy
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from maskbench.core.rng import seed_for
from maskbench.data.splits import Split
from maskbench.probe import Probe, ProbeResult, Subject, accuracy, register
from maskbench.runtime.hardware import autocast
from maskbench.training.crops import labelled_batches
from maskbench.training.schedules import scheduled, weight_decay_groups

Share = Annotated[float, Field(gt=0, le=1)]


@register("attentive")
@dataclass(frozen=True, kw_only=True)
class Attentive(Probe):
    """A query, learnt with a linear classifier, asks the frozen patch tokens what they hold.

    Attentive probing (CAE, arXiv 2202.03026): masked image modelling spreads what it knows over the patches and asks
    no token to sum it up, so the mean of all undersells it. The head is AIM's (arXiv 2401.08541): patches after the
    last norm, standardised by a batch norm without parameters, whose moments for evaluation are averages over all of
    training; one query; cross-attention with as many heads as the encoder has; a linear classifier. The class token is
    not read. AdamW, weight decay as in V-JEPA's probe (arXiv 2404.08471), linear warm-up, half cosine to 0.

    Random crops and flips, so nothing is encoded twice. They begin at 0.35 of the area and not at the 0.08 usual for
    224 pixels, of which small images have too few.

    A head for each of `rates` is trained on `fit`, all on the same encoded batches, which are the larger part of the
    cost. They reach high because few images make few steps: of an untrained encoder, 250 steps ask for 3e-2, 1,000 for
    1e-2. The rate is chosen by accuracy on validation (ties: the lowest); a head trained with it on all of train, from
    the same start, predicts test.
    """

    rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (1e-3, 3e-3, 1e-2, 3e-2)
    epochs: Annotated[int, Field(ge=1)] = 10
    warmup_epochs: Annotated[float, Field(ge=0)] = 1
    batch_size: Annotated[int, Field(ge=2)] = 256  # or all images where they are fewer
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    crop_scale: tuple[Share, Share] = (0.35, 1.0)

    def __call__(self, subject: Subject) -> ProbeResult:
        splits, rate = subject.splits, self.rate(subject)
        heads = self.trained(subject, torch.arange(len(splits.train)), [rate])
        predicted = predictions(subject, heads, splits.test)[0]
        top1 = accuracy(predicted, splits.test.labels)
        return ProbeResult(
            {"attentive/top1/patches": top1}, {"attentive/patches": predicted}, {"attentive/rate/patches": rate}
        )

    def rate(self, subject: Subject) -> float:
        """The one with the best accuracy on validation after training on `fit`."""
        rates, held_out = sorted(self.rates), subject.held_out
        if len(rates) == 1:
            return rates[0]
        heads = self.trained(subject, subject.splits.fit, rates)
        scores = [accuracy(predicted, held_out.labels) for predicted in predictions(subject, heads, held_out)]
        return rates[scores.index(max(scores))]

    def trained(self, subject: Subject, index: Tensor, rates: Sequence[float]) -> "Heads":
        """A head for each rate, trained side by side on the training images `index`."""
        encoder, splits, device = subject.encoder, subject.splits, subject.encoder.mask_token.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed_for(subject.seed, "attentive"))
            first = Head(encoder.width, encoder.vit.blocks[0].attn.num_heads, len(splits.classes))
        heads = Heads(first, len(rates)).to(device)
        groups = [
            {**group, "rate": rate}
            for rate, head in zip(rates, heads.heads, strict=True)
            for group in weight_decay_groups(head, self.weight_decay)
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.0, fused=True)
        batch = min(self.batch_size, len(index))
        per_epoch = len(index) // batch
        warmup, total = round(self.warmup_epochs * per_epoch), self.epochs * per_epoch
        training = encoder.training
        encoder.eval()
        batches = labelled_batches(
            splits, index, encoder.grid.image_size,
            seed=subject.seed, stream="attentive", epochs=self.epochs, batch_size=batch, scale=self.crop_scale,
            workers=subject.system.workers,
        )  # fmt: skip
        with closing(batches):
            for step, (images, labels) in enumerate(batches):
                with torch.no_grad(), autocast(subject.system):
                    tokens = encoder(images).patches
                loss = torch.stack([F.cross_entropy(logits, labels) for logits in heads(tokens)]).sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                for group in optimizer.param_groups:
                    group["lr"] = scheduled(group["rate"], 0.0, step, warmup, total)
                optimizer.step()
        encoder.train(training)
        return heads.eval()


class Heads(nn.Module):
    """`count` heads that read the same standardised tokens and start as copies of the first."""

    def __init__(self, first: "Head", count: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(len(first.query), affine=False, momentum=None)  # None: the average of all batches
        self.heads = nn.ModuleList(copy.deepcopy(first) for _ in range(count))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Of tokens (B, N, width) each head's logits (B, classes), float32."""
        with torch.autocast(tokens.device.type, enabled=False):
            standardised = self.norm(tokens.float().flatten(0, 1)).view(tokens.shape)
            return [head(standardised) for head in self.heads]


class Head(nn.Module):
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

        With a single query the projections need not touch every token: that of the keys may act on the query instead,
        that of the values on the weighted mean. The same numbers from width / heads times fewer products.
        """
        key, value = (part.weight.unflatten(0, (self.heads, -1)) for part in (self.key, self.value))
        query = self.query.view(self.heads, 1, -1) * key.shape[1] ** -0.5
        attention = (tokens @ (query @ key)[:, 0].T).softmax(1)  # (B, N, heads)
        means = attention.transpose(1, 2) @ tokens  # (B, heads, width)
        return self.classify(torch.einsum("bhw,hdw->bhd", means, value).flatten(1))


def predictions(subject: Subject, heads: Heads, images: Split) -> list[Tensor]:
    """(n,) int64 by each head, of clean images."""

    def read(batch: Tensor) -> dict[str, Tensor]:
        answers = heads(subject.encoder(batch).patches)
        return {str(number): logits.argmax(1) for number, logits in enumerate(answers)}

    return list(subject.extract(images, read).values())
