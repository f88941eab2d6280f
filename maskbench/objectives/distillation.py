"""Self-distillation across crops: a student predicts the output of a teacher, its own moving average.

This is the common part of `dino` and `ibot`: student, EMA teacher, projection heads, centring, temperature schedule and
the loss of the class token over multi-crop pairs.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from maskbench.core.step_output import at_least_float32
from maskbench.errors import UsageError
from maskbench.models.ema_teacher import EMATeacher
from maskbench.models.encoder import Encoder
from maskbench.models.tokens import EncodedTokens
from maskbench.objective import Examples, Head, LearnsFrom, Recipe, StepOutput
from maskbench.objectives.projection_head import ProjectionHead
from maskbench.objectives.two_crops import TwoCrops
from maskbench.runtime import collectives

Positive = Annotated[float, Field(gt=0)]
Scale = Annotated[float, Field(gt=0, le=1)]
Momentum = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Distillation(TwoCrops):
    """The parameters that `dino` and `ibot` share; `Dino` says what they do."""

    version: ClassVar[int] = 2  # 1 blurred local crops less than published
    learns_from: ClassVar[LearnsFrom] = "crops"
    predicts_pixels: ClassVar[bool] = False

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
    norm_last_layer: bool = True
    local_crops: Annotated[int, Field(ge=0, le=32)] = 0
    local_size: Scale = 96 / 224
    local_scale: tuple[Scale, Scale] = (0.05, 0.25)

    def recipe(self, channels: int) -> Recipe:
        recipe = super().recipe(channels)
        return dataclasses.replace(
            recipe, local=self.local_crops, local_size=self.local_size, local_scale=self.local_scale
        )

    def ensure_class_token(self, encoder: Encoder) -> None:
        """Raise UsageError where the encoder has none."""
        if encoder.vit.cls_token is None:
            raise UsageError(
                f"objective {self.name} needs a class token, which this model has not; choose another model"
            )

    def build_projection_head(self, encoder: Encoder, mlp: nn.Sequential | None = None) -> ProjectionHead:
        """mlp: that of another head, to share it."""
        return ProjectionHead(
            encoder.width,
            hidden=self.hidden,
            bottleneck=self.bottleneck,
            layers=self.layers,
            prototypes=self.prototypes,
            norm_last_layer=self.norm_last_layer,
            mlp=mlp,
        )


class Student(nn.Module):
    """The encoder and its projection heads, of which the teacher is the moving average.

    Attributes:
        encoder: The encoder in training.
        of_class: Projection head of the class token.
        of_patch: Projection head of the patches, for a masked-token loss. The names are keys of checkpoints.
    """

    def __init__(self, encoder: Encoder, of_class: ProjectionHead, of_patch: ProjectionHead | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.of_class = of_class
        self.of_patch = of_patch


class DistillationHead(Head):
    """Student and teacher, and the loss between their class tokens.

    Attributes:
        config: The objective.
        student: What is trained.
        teacher: Its moving average, which sees the clean crops.
        class_centre: (prototypes,) running mean of the teacher's outputs for class tokens.
        patch_centre: The same for patches. `dino` leaves it at 0.
        temperature: () the teacher's temperature at this step.
        prototypes_frozen: Whether the prototypes stay as they are at this step.
    """

    provides_signals: ClassVar[frozenset[str]] = frozenset({"attention", "features"})

    def __init__(self, config: Distillation, student: Student, recipe: Recipe) -> None:
        super().__init__()
        self.config, self.recipe = config, recipe
        self.student = student
        self.teacher = EMATeacher(student, config.momentum)
        self._pending: dict[str, tuple[list[Tensor], list[int]]] = {}  # means and counts of micro-batches, by centre
        self.class_centre: Tensor
        self.patch_centre: Tensor
        self.register_buffer("class_centre", torch.zeros(config.prototypes))
        self.register_buffer("patch_centre", torch.zeros(config.prototypes))
        self.temperature: Tensor
        self.register_buffer("temperature", torch.zeros(()), persistent=False)
        self.update_schedules(0.0)

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        return self.student.encoder

    @property
    def teacher_network(self) -> Student:
        """The teacher's counterpart of the student."""
        assert isinstance(self.teacher.copy, Student)
        return self.teacher.copy

    @torch.no_grad()
    def prepare(self, clean: tuple[Tensor, ...], progress: float) -> None:
        self.update_schedules(progress)
        for images in clean:
            self.teacher.encode_with_attention(images)  # computed once, for the strategy and for `forward`

    def attention(self, images: Tensor) -> Tensor:
        """(B, N) the teacher's attention of the class token in the last block."""
        return self.teacher.encode_with_attention(images)[1]

    def features(self, images: Tensor) -> Tensor:
        """(B, N, D) the teacher's last tokens."""
        return self.teacher.encode_with_attention(images)[0].patches

    def forward(self, examples: Examples) -> StepOutput:
        student, teacher = self.encode_crops(examples)
        loss, logs = self.class_loss(examples, student, teacher)
        return StepOutput(loss, logs=logs)

    def encode_crops(self, examples: Examples) -> tuple[list[EncodedTokens], list[EncodedTokens]]:
        """Each full-size crop: the student's tokens of the strategy's view, and the teacher's of the clean crop."""
        student = [self.encoder.encode_with_mask_tokens(view) for view in examples.views]
        with torch.no_grad():
            teacher = [self.teacher.encode_with_attention(images)[0] for images in examples.clean]
        return student, teacher

    def class_loss(
        self, examples: Examples, student: list[EncodedTokens], teacher: list[EncodedTokens]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the class token over all multi-crop pairs, and what is logged of it."""
        tokens = [encoded.prefix[:, 0] for encoded in student]
        tokens += [self.encoder(images).prefix[:, 0] for images in examples.local]
        predictions = [self.project(self.student.of_class, token) for token in tokens]
        with torch.no_grad():
            outputs = [at_least_float32(self.teacher_network.of_class(encoded.prefix[:, 0])) for encoded in teacher]
            targets = [((output - self.class_centre) / self.temperature).softmax(-1) for output in outputs]
        loss = multi_crop_loss(predictions, targets, self.config.student_temperature)
        if self.training:
            self.update_centre("class_centre", torch.cat(outputs), examples.last)
        return loss, {"loss/class": loss.detach(), **entropies(torch.cat(targets))}

    def project(self, head: ProjectionHead, tokens: Tensor) -> Tensor:
        """The student's logits (..., prototypes) before the temperature."""
        return at_least_float32(head(tokens, frozen=self.prototypes_frozen))

    def after_step(self, progress: float) -> None:
        """Move the teacher towards the student. Its momentum rises to 1 along a half cosine."""
        start = self.config.momentum
        self.teacher.momentum = 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
        self.teacher.update(self.student)

    def update_schedules(self, progress: float) -> None:
        """Set what depends on progress.

        The temperature is a tensor, so that a compiled step is not compiled again for each value. `prototypes_frozen`
        is none: the step is compiled a second time when the prototypes start to train.
        """
        config = self.config
        self.prototypes_frozen = progress < config.frozen
        start, end = config.teacher_temperature_start, config.teacher_temperature
        self.temperature.fill_(self.temperature_at(progress, start, end))

    def temperature_at(self, progress: float, start: float, end: float) -> float:
        """A teacher temperature: linear from `start` to `end` over the `warmup` share of the training, then `end`."""
        warmup = self.config.warmup
        return start + (end - start) * (min(1.0, progress / warmup) if warmup else 1.0)

    @torch.no_grad()
    def update_centre(self, name: str, outputs: Tensor, last: bool) -> None:
        """Move the buffer `name` towards the mean of the teacher's outputs (n, prototypes) over the global batch.

        This happens once its last micro-batch is there.
        """
        centre: Tensor = getattr(self, name)
        means, counts = self._pending.setdefault(name, ([], []))
        means.append(outputs.mean(0).to(centre))
        counts.append(len(outputs))
        if last:
            mean = collectives.all_reduce_weighted_mean(means, counts, default=centre)
            centre.lerp_(mean, 1 - self.config.centring)
            del self._pending[name]


def multi_crop_loss(predictions: list[Tensor], targets: list[Tensor], temperature: float) -> Tensor:
    """Mean cross-entropy of all pairs of a teacher's crop and another crop of the student.

    Args:
        predictions: (B, prototypes) logits of each crop by the student: the full-size crops, then the local ones.
        targets: (B, prototypes) probabilities of each full-size crop by the teacher.
        temperature: The student's.
    """
    pairs = [
        cross_entropy(prediction / temperature, target).mean()
        for teacher_crop, target in enumerate(targets)
        for student_crop, prediction in enumerate(predictions)
        if student_crop != teacher_crop
    ]
    return torch.stack(pairs).mean()


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(...,): -sum(target * log softmax(logits)) over the last dimension."""
    return -(target * logits.log_softmax(-1)).sum(-1)


def entropies(targets: Tensor) -> dict[str, Tensor]:
    """How far the teacher is from collapse, as shares of the largest possible entropy.

    Of each output (B, prototypes): 1 where all prototypes are equally likely. Of the mean output: 0 where all images
    get the same prototype.
    """
    largest = math.log(targets.shape[-1])
    mean = collectives.all_reduce_mean(targets.mean(0))
    return {
        "teacher/entropy": torch.special.entr(targets).sum(-1).mean() / largest,
        "teacher/entropy-of-mean": torch.special.entr(mean).sum() / largest,
    }
