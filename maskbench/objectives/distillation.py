"""Self-distillation: a student agrees with its own moving average across crops (DINO) and on hidden tokens (iBOT)."""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import precise
from maskbench.errors import UsageError
from maskbench.models.ema_teacher import Teacher
from maskbench.models.encoder import Encoded, Encoder, raster_order
from maskbench.objective import Examples, Head, LearnsFrom, Outcome, Recipe, register
from maskbench.objectives.two_crops import TwoCrops
from maskbench.runtime import distributed

Positive = Annotated[float, Field(gt=0)]
Scale = Annotated[float, Field(gt=0, le=1)]
Momentum = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Places = Tensor | tuple[Tensor, ...]  # (B, count) int64, as many in each row; or (M,) rows and (M,) columns


@dataclass(frozen=True, kw_only=True)
class Distillation(TwoCrops):
    """What the two have in common.

    Beside the two full-size crops, `local_crops` smaller ones, which the strategy does not touch and the student alone
    sees. The teacher is the moving average of encoder and projector, its momentum rising from `momentum` to 1 along a
    half cosine; it sees the clean crops. The projector: linear layers with GELU to `hidden`, then to `bottleneck`, unit
    length, and weight vectors of unit length for `prototypes`; they stay as they are for the first `frozen` share of
    the training. Teacher's answers: softmax at a temperature that rises linearly from `teacher_temperature_start` to
    `teacher_temperature` over the `warmup` share of the training, after the running mean (momentum `centring`) is taken
    away. Linear layers start truncated normal (0.02), biases at 0, as published.
    """

    version: ClassVar[int] = 2  # 1 blurred local crops less than published
    learns_from: ClassVar[LearnsFrom] = "crops"
    paints: ClassVar[bool] = False

    hidden: Count = 2048
    bottleneck: Count = 256
    layers: Count = 3
    prototypes: Annotated[int, Field(ge=2)] = 8192
    momentum: Momentum = 0.996
    student_temperature: Positive = 0.1
    teacher_temperature_start: Positive = 0.04
    teacher_temperature: Positive = 0.07
    warmup: Momentum = 0.3
    centring: Momentum = 0.9
    frozen: Momentum = 0.01
    local_crops: Annotated[int, Field(ge=0, le=32)] = 0
    local_size: Scale = 96 / 224
    local_scale: tuple[Scale, Scale] = (0.05, 0.25)

    def recipe(self, channels: int) -> Recipe:
        recipe = super().recipe(channels)
        return dataclasses.replace(
            recipe, local=self.local_crops, local_size=self.local_size, local_scale=self.local_scale
        )

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        if encoder.vit.cls_token is None:
            raise UsageError(
                f"objective {self.name} needs a class token, which this model has not; choose another model"
            )
        return DistillationHead(self, encoder, self.recipe(channels))


@register("dino")
@dataclass(frozen=True, kw_only=True)
class Dino(Distillation):
    """The student's class token in each crop predicts the teacher's in the other full-size ones.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv 2104.14294. With a
    strategy that hides or degrades, the student's full-size crops are so changed: AttMask's second setting (arXiv
    2203.12719). Hidden tokens become mask tokens. No deviation known but for colours (maskbench.data.color_jitter).
    """


@register("ibot")
@dataclass(frozen=True, kw_only=True)
class Ibot(Distillation):
    """dino, and the student's hidden tokens predict the teacher's answers for the same places.

    Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR 2022, arXiv 2111.07832; AttMask's first
    setting. The error over an image's hidden tokens is averaged, and then over images, those with nothing hidden
    counting as 0. `shared`: one projector for class token and patches, as published for ViT. Tokens that the strategy
    throws away are left out of the student's sequence. Deviations: colours (maskbench.data.color_jitter); the running
    mean of patches is that of the hidden ones, which alone are projected, where the reference's is that of all.
    """

    learns_from: ClassVar[LearnsFrom] = "tokens"

    shared: bool = True
    token_weight: Annotated[float, Field(ge=0)] = 1.0
    token_temperature_start: Positive = 0.04
    token_temperature: Positive = 0.07


class Projector(nn.Module):
    """(..., D) tokens to (..., prototypes) cosines."""

    def __init__(self, width: int, given: Distillation) -> None:
        super().__init__()
        sizes = [width, *[given.hidden] * (given.layers - 1), given.bottleneck]
        linears = [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]
        self.mlp = nn.Sequential(*[part for linear in linears[:-1] for part in (linear, nn.GELU())], linears[-1])
        self.prototypes = nn.Parameter(torch.empty(given.prototypes, given.bottleneck))
        for linear in linears:
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.prototypes)

    def forward(self, tokens: Tensor, *, frozen: bool = False) -> Tensor:
        prototypes = F.normalize(self.prototypes, dim=-1)
        return F.normalize(self.mlp(tokens), dim=-1) @ (prototypes.detach() if frozen else prototypes).T


class Student(nn.Module):
    """What the teacher is the moving average of."""

    def __init__(self, encoder: Encoder, given: Distillation) -> None:
        super().__init__()
        self.encoder = encoder
        self.of_class = Projector(encoder.width, given)
        self.of_patch: Projector | None = None
        if isinstance(given, Ibot):
            self.of_patch = self.of_class if given.shared else Projector(encoder.width, given)


class DistillationHead(Head):
    offers: ClassVar[frozenset[str]] = frozenset({"attention", "features"})

    def __init__(self, given: Distillation, encoder: Encoder, recipe: Recipe) -> None:
        super().__init__()
        self.given, self.recipe = given, recipe
        self.student = Student(encoder, given)
        self.teacher = Teacher(self.student, given.momentum)
        self._answered: dict[int, tuple[list[Tensor], list[int]]] = {}  # means and counts of a batch's parts so far
        self.class_centre: Tensor
        self.patch_centre: Tensor
        self.register_buffer("class_centre", torch.zeros(given.prototypes))
        self.register_buffer("patch_centre", torch.zeros(given.prototypes))
        self.temperature: Tensor
        self.token_temperature: Tensor
        self.register_buffer("temperature", torch.zeros(()), persistent=False)
        self.register_buffer("token_temperature", torch.zeros(()), persistent=False)
        self._schedule(0.0)

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        return self.student.encoder

    @property
    def taught(self) -> Student:
        """The teacher's counterpart of the student."""
        assert isinstance(self.teacher.copy, Student)
        return self.teacher.copy

    @torch.no_grad()
    def prepare(self, clean: tuple[Tensor, ...], progress: float) -> None:
        self._schedule(progress)
        for images in clean:
            self.teacher.look(images)

    def attention(self, images: Tensor) -> Tensor:
        """(B, N) the teacher's, of the class token in the last block."""
        return self.teacher.look(images)[1]

    def features(self, images: Tensor) -> Tensor:
        """(B, N, D) the teacher's last tokens."""
        return self.teacher.look(images)[0].patches

    def forward(self, given: Examples) -> Outcome:
        seen = [self.encoder.with_mask_tokens(view) for view in given.views]
        tokens = [encoded.prefix[:, 0] for encoded in seen]
        tokens += [self.encoder(images).prefix[:, 0] for images in given.local]
        answers = [precise(self.student.of_class(token, frozen=self.frozen)) for token in tokens]
        with torch.no_grad():
            taught = [self.teacher.look(images)[0] for images in given.clean]
            known = [precise(self.taught.of_class(encoded.prefix[:, 0])) for encoded in taught]
            targets = [((answer - self.class_centre) / self.temperature).softmax(-1) for answer in known]
        loss = self.class_loss(answers, targets)
        logs = {"loss/class": loss.detach(), **entropies(torch.cat(targets))}
        if isinstance(self.given, Ibot):
            token_loss = self.token_loss(self.given, given, seen, taught)
            logs["loss/token"] = token_loss.detach()
            loss = loss + self.given.token_weight * token_loss
        if self.training:
            self._centre(self.class_centre, torch.cat(known), given.last)
        return Outcome(loss, logs=logs)

    def class_loss(self, answers: list[Tensor], targets: list[Tensor]) -> Tensor:
        """The mean cross-entropy (B, prototypes) over all pairs of a teacher's crop and another crop of the student."""
        pairs = [
            cross_entropy(answer / self.given.student_temperature, target).mean()
            for taught, target in enumerate(targets)
            for crop, answer in enumerate(answers)
            if crop != taught
        ]
        return torch.stack(pairs).mean()

    def token_loss(self, ibot: Ibot, given: Examples, seen: list[Encoded], taught: list[Encoded]) -> Tensor:
        """The mean over crops and images of the mean cross-entropy over hidden tokens, 0 where none is."""
        project, teach = self.student.of_patch, self.taught.of_patch
        assert project is not None and teach is not None, "ibot has them"
        losses, known = [], []
        for view, student, teacher in zip(given.views, seen, taught, strict=True):
            hidden = view.recovered
            assert hidden is not None, "checked by maskbench.objectives.compatibility"
            even = view.length is not None and view.thrown is None and view.replaced is None
            places = _places(hidden, hidden.shape[1] - (view.length or 0) if even else None)
            with torch.no_grad():
                answer = precise(teach(_picked(teacher.patches, places)))
                target = ((answer - self.patch_centre) / self.token_temperature).softmax(-1)
                known.append(answer)
            predicted = precise(project(_picked(student.patches, places), frozen=self.frozen))
            errors = _put(cross_entropy(predicted / ibot.student_temperature, target), places, hidden.shape)
            losses.append((errors.sum(1) / hidden.sum(1).clamp_min(1)).mean())
        if self.training:
            self._centre(self.patch_centre, torch.cat(known), given.last)
        return torch.stack(losses).mean()

    def after_step(self, progress: float) -> None:
        """The teacher follows, more slowly the later."""
        start = self.given.momentum
        self.teacher.momentum = 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
        self.teacher.update(self.student)

    @torch.no_grad()
    def _centre(self, centre: Tensor, answers: Tensor, last: bool) -> None:
        """Move a running mean towards the answers (n, prototypes) of the whole batch, once its last part is there."""
        means, counts = self._answered.setdefault(id(centre), ([], []))
        means.append(answers.mean(0).to(centre))
        counts.append(len(answers))
        if last:
            centre.lerp_(distributed.pooled(means, counts, otherwise=centre), 1 - self.given.centring)
            del self._answered[id(centre)]

    def _schedule(self, progress: float) -> None:
        """What depends on the share of the training done. The temperatures are tensors so that a compiled step is not
        compiled again for each; it is once, where the prototypes thaw."""
        given = self.given
        warm = min(1.0, progress / given.warmup) if given.warmup else 1.0
        start, end = given.teacher_temperature_start, given.teacher_temperature
        self.frozen = progress < given.frozen
        self.temperature.fill_(start + (end - start) * warm)
        if isinstance(given, Ibot):
            start, end = given.token_temperature_start, given.token_temperature
            self.token_temperature.fill_(start + (end - start) * warm)


def _places(where: Tensor, count: int | None) -> Places:
    """The True places of `where` (B, N), row by row. count: how many there are in every row; where it is None, the
    device is asked, and waited for."""
    return tuple(where.nonzero(as_tuple=True)) if count is None else raster_order(where, count)


def _picked(tokens: Tensor, places: Places) -> Tensor:
    """(M, D): the tokens (B, N, D) at M places."""
    if isinstance(places, tuple):
        return tokens[places]
    return tokens.gather(1, places[..., None].expand(-1, -1, tokens.shape[-1])).flatten(0, 1)


def _put(values: Tensor, places: Places, shape: torch.Size) -> Tensor:
    """(B, N): the values (M,) at M places, 0 elsewhere. `masked_scatter` would wait for the device on its way back."""
    zeros = values.new_zeros(shape)
    if isinstance(places, tuple):
        return zeros.index_put(places, values)
    return zeros.scatter(1, places, values.view_as(places))


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(...,): -sum(target * log softmax(logits)) over the last dimension."""
    return -(target * logits.log_softmax(-1)).sum(-1)


def entropies(targets: Tensor) -> dict[str, Tensor]:
    """How far the teacher is from collapse, as shares of the largest possible entropy.

    of each answer (B, prototypes), 1 where all prototypes get the same; of the mean answer, 0 where all images get the
    same prototype.
    """
    largest = math.log(targets.shape[-1])
    mean = distributed.mean(targets.mean(0))
    return {
        "teacher/entropy": torch.special.entr(targets).sum(-1).mean() / largest,
        "teacher/entropy-of-mean": torch.special.entr(mean).sum() / largest,
    }
