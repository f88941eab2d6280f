"""DINO: the student's class token in a crop predicts the teacher's in another one."""

from dataclasses import dataclass

from maskbench.core.grid import Grid
from maskbench.models.encoder import Encoder
from maskbench.objective import Head, register
from maskbench.objectives.distillation import Distillation, DistillationHead, Student


@register("dino")
@dataclass(frozen=True, kw_only=True)
class Dino(Distillation):
    """The student's class token in each crop predicts the teacher's in the other full-size ones.

    Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv 2104.14294. With a
    strategy that hides or degrades, the student's full-size crops are so changed: AttMask's second setting (arXiv
    2203.12719). Hidden tokens become mask tokens. No deviation known but for colours (maskbench.data.color_jitter).

    Crops: two full-size ones, and `local_crops` smaller ones, which the strategy does not change and the student alone
    sees. Teacher: the moving average of encoder and projection head, its momentum rising from `momentum` to 1 along a
    half cosine; it sees the clean crops. Projection head: `layers` linear layers with GELU, to `hidden` and at last to
    `bottleneck`, at unit length, then cosines with `prototypes` vectors of unit length, which stay as they are for the
    first `frozen` share of the training; with `norm_last_layer=false` their lengths are trained. Targets: softmax of
    the teacher's output after its running mean (momentum `centring`) is subtracted, at a temperature that rises
    linearly from `teacher_temperature_start` to `teacher_temperature` over the `warmup` share of the training.
    """

    def build(self, encoder: Encoder, grid: Grid, channels: int, classes: int, *, plain_attention: bool) -> Head:
        self.ensure_class_token(encoder)
        student = Student(encoder, self.build_projection_head(encoder))
        return DistillationHead(self, student, self.recipe(channels))
