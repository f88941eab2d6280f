"""iBOT: DINO, and the student's masked tokens predict the teacher's output for the same patches."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.step_output import at_least_float32
from maskbench.core.view import View
from maskbench.models.encoder import Encoder
from maskbench.models.tokens import EncodedTokens, true_indices
from maskbench.objective import Examples, Head, LearnsFrom, Recipe, StepOutput, register
from maskbench.objectives.distillation import Distillation, DistillationHead, Positive, Student, cross_entropy

TokenIndex = Tensor | tuple[Tensor, ...]  # (B, count) int64 columns, as many in each row; or (M,) rows, (M,) columns


@register("ibot")
@dataclass(frozen=True, kw_only=True)
class Ibot(Distillation):
    """`dino`, and the student's hidden tokens predict the teacher's output for the same patches.

    Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR 2022, arXiv 2111.07832; AttMask's first
    setting. The error over an image's hidden tokens is averaged, and then over images, those with nothing hidden
    counting as 0. `shared`: one projection head for class token and patches, as published for ViT; otherwise patches
    have prototypes of their own behind the same linear layers. `token_weight`: of the masked-token loss.
    `token_temperature_start`, `token_temperature`: the teacher's for patches. All other parameters are those of `dino`.
    Tokens that the strategy drops are left out of the student's sequence. Deviations: colours
    (maskbench.data.color_jitter); the running mean of patches is that of the hidden ones, which alone are projected,
    where the reference's is that of all.
    """

    version: ClassVar[int] = 3  # 2 had two projection heads with nothing in common where `shared` is False
    learns_from: ClassVar[LearnsFrom] = "tokens"

    shared: bool = True
    token_weight: Annotated[float, Field(ge=0)] = 1.0
    token_temperature_start: Positive = 0.04
    token_temperature: Positive = 0.07

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        self.ensure_class_token(encoder)
        of_class = self.build_projection_head(encoder)
        of_patch = of_class if self.shared else self.build_projection_head(encoder, of_class.mlp)
        return IbotHead(self, Student(encoder, of_class, of_patch), self.recipe(channels))


class IbotHead(DistillationHead):
    """Adds the masked-token loss.

    Attributes:
        token_temperature: () the teacher's temperature for patches at this step.
    """

    config: Ibot

    def __init__(self, config: Ibot, student: Student, recipe: Recipe) -> None:
        super().__init__(config, student, recipe)
        self.token_temperature: Tensor
        self.register_buffer("token_temperature", torch.zeros(()), persistent=False)
        self.update_token_temperature(0.0)

    def prepare(self, clean: tuple[Tensor, ...], progress: float) -> None:
        super().prepare(clean, progress)
        self.update_token_temperature(progress)

    def update_token_temperature(self, progress: float) -> None:
        start, end = self.config.token_temperature_start, self.config.token_temperature
        self.token_temperature.fill_(self.temperature_at(progress, start, end))

    def forward(self, examples: Examples) -> StepOutput:
        student, teacher = self.encode_crops(examples)
        class_loss, logs = self.class_loss(examples, student, teacher)
        token_loss = self.token_loss(examples, student, teacher)
        loss = class_loss + self.config.token_weight * token_loss
        return StepOutput(loss, logs={**logs, "loss/token": token_loss.detach()})

    def token_loss(self, examples: Examples, student: list[EncodedTokens], teacher: list[EncodedTokens]) -> Tensor:
        """The masked-token loss: the mean over crops and images of the mean over hidden tokens, 0 where none is."""
        losses, outputs = [], []
        for view, seen, clean in zip(examples.views, student, teacher, strict=True):
            loss, output = self.token_loss_of_crop(view, seen, clean)
            losses.append(loss)
            outputs.append(output)
        if self.training:
            self.update_centre("patch_centre", torch.cat(outputs), examples.last)
        return torch.stack(losses).mean()

    def token_loss_of_crop(self, view: View, student: EncodedTokens, teacher: EncodedTokens) -> tuple[Tensor, Tensor]:
        """The loss of one crop, and the teacher's outputs (M, prototypes) for its M hidden tokens."""
        project, teach = self.student.of_patch, self.teacher_network.of_patch
        assert project is not None and teach is not None, "ibot has them"
        hidden = view.recovered
        assert hidden is not None, "checked by maskbench.objectives.compatibility"
        index = hidden_index(view, hidden)
        with torch.no_grad():
            output = at_least_float32(teach(gather_tokens(teacher.patches, index)))
            target = ((output - self.patch_centre) / self.token_temperature).softmax(-1)
        prediction = self.project(project, gather_tokens(student.patches, index))
        errors = cross_entropy(prediction / self.config.student_temperature, target)
        errors = scatter_values(errors, index, hidden.shape)
        return (errors.sum(1) / hidden.sum(1).clamp_min(1)).mean(), output


def hidden_index(view: View, hidden: Tensor) -> TokenIndex:
    """The index of the True entries of `hidden` (B, N), row by row.

    Where every row has as many, and the view says how many, nothing waits for the device.
    """
    if view.length is None or view.thrown is not None or view.replaced is not None:
        return tuple(hidden.nonzero(as_tuple=True))
    return true_indices(hidden, hidden.shape[1] - view.length)


def gather_tokens(tokens: Tensor, index: TokenIndex) -> Tensor:
    """(M, D): the tokens (B, N, D) at M places."""
    if isinstance(index, tuple):
        return tokens[index]
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1])).flatten(0, 1)


def scatter_values(values: Tensor, index: TokenIndex, shape: torch.Size) -> Tensor:
    """(B, N): the values (M,) at M places, 0 elsewhere. `masked_scatter` would wait for the device in its backward."""
    zeros = values.new_zeros(shape)
    if isinstance(index, tuple):
        return zeros.index_put(index, values)
    return zeros.scatter(1, index, values.view_as(index))
