"""dino and ibot against their definitions, written out in loops of Python numbers."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from maskbench.config.resolve import load_preset
from maskbench.config.settings import RunConfig
from maskbench.core.grid import Grid
from maskbench.core.view import View, complete
from maskbench.errors import UsageError
from maskbench.models.encoder import Encoder, build_encoder
from maskbench.objective import REGISTRY, Examples
from maskbench.objectives.distillation import DistillationHead
from maskbench.objectives.projection_head import ProjectionHead
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.training.crops import Crops, make_full_crops
from maskbench.training.schedules import weight_decay_groups
from maskbench.training.train_state import initial_state
from maskbench.training.views import make_context, make_view
from tests.helpers.tiny_run import tiny_config

GRID = Grid(3, 4, 4)
SIZES: dict[str, Any] = {"hidden": 7, "bottleneck": 6, "prototypes": 5}
TEMPERATURES = {"teacher_temperature_start": 0.1, "teacher_temperature": 0.2, "student_temperature": 0.25}
TOKEN_TEMPERATURES = {"token_temperature_start": 0.15, "token_temperature": 0.35}
both = pytest.mark.parametrize("name", ["dino", "ibot"])


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64, also what the code rounds to float32 with `.float()`."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def head_for(
    name: str, *, plain: bool = True, kwargs: dict[str, Any] | None = None, **parameters: Any
) -> DistillationHead:
    """A head whose teacher and student differ, and whose centres are not 0."""
    torch.manual_seed(0)
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2, **(kwargs or {})}
    encoder = build_encoder("vit_tiny_patch16_224", GRID, 3, small, plain_attention=plain)
    objective = REGISTRY.create(name, **{**SIZES, **parameters})
    head = objective.build(encoder, GRID, 3, 10, plain_attention=plain)
    assert isinstance(head, DistillationHead)
    with torch.no_grad():
        for parameter in head.parameters():  # the teacher's too
            parameter.add_(0.3 * torch.randn_like(parameter))
        head.class_centre.copy_(torch.linspace(-0.4, 0.4, 5))
        head.patch_centre.copy_(torch.tensor([0.3, -0.1, 0.2, -0.3, 0.1]))
    head.prepare((), 0.12)
    return head


def images(seed: int, rows: int = 12, cols: int = 16) -> Tensor:
    return torch.randn(3, 3, rows, cols, generator=torch.Generator().manual_seed(seed)).to(torch.get_default_dtype())


def tokens(*rows: list[int]) -> Tensor:
    mask = torch.zeros(3, 12, dtype=torch.bool)
    for row, chosen in enumerate(rows):
        mask[row, chosen] = True
    return mask


def uneven() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two crops' masks: in each one image with nothing hidden and one with nearly all or all, some of it thrown away
    or only replaced."""
    first = {
        "hidden": tokens([0, 1, 2, 3, 5, 6, 7, 8, 9, 11], [], [4, 10]),
        "thrown": tokens([2, 3], [], [4]),
        "replaced": tokens([5], [], []),
    }
    second = {"hidden": tokens([], list(range(12)), [11])}
    return first, second


def examples(masks: tuple[dict[str, Tensor], ...] = ({}, {}), local: tuple[Tensor, ...] = ()) -> Examples:
    """Two crops of three images; what the student is shown of them is not what the teacher is shown."""
    clean = (images(1), images(2))
    views = tuple(
        complete(View(crop + 0.5 * images(3), **mask), crop, GRID)  # type: ignore[arg-type]
        for crop, mask in zip(clean, masks, strict=True)
    )
    return Examples(views, clean, torch.zeros(3, dtype=torch.long), local)


# The definitions, one image, one token and one number at a time.


def positions_of(encoder: Encoder, rows: int, cols: int) -> Tensor:
    """(rows * cols, D): the grid's positions, resized by Pillow if need be."""
    grid = encoder.vit.pos_embed[0, encoder.vit.pos_embed.shape[1] - GRID.size :].detach()
    if (rows, cols) == (GRID.rows, GRID.cols):
        return grid
    channels = []
    for channel in range(encoder.width):
        values = grid[:, channel].reshape(GRID.rows, GRID.cols).to(torch.float32).numpy()
        resized = Image.fromarray(values).resize((cols, rows), Image.Resampling.BICUBIC)
        channels.append(torch.from_numpy(np.array(resized)).flatten())
    return torch.stack(channels, 1).to(grid.dtype)


def plain_embeddings(encoder: Encoder, image: Tensor, hidden: list[int]) -> list[Tensor]:
    """The tokens of one image (C, H, W), mask tokens where hidden, with positions."""
    rows, cols = image.shape[1] // 4, image.shape[2] // 4
    positions = positions_of(encoder, rows, cols)
    weight, bias = encoder.vit.patch_embed.proj.weight, encoder.vit.patch_embed.proj.bias
    embedded = []
    for token in range(rows * cols):
        top, left = token // cols * 4, token % cols * 4
        content = weight.flatten(1) @ image[:, top : top + 4, left : left + 4].flatten() + bias
        embedded.append((encoder.mask_token[0, 0] if token in hidden else content) + positions[token])
    return embedded


def plain_encoder(
    encoder: Encoder, image: Tensor, hidden: Tensor | None = None, thrown: Tensor | None = None
) -> tuple[list[float], dict[int, list[float]]]:
    """The class token and the patches, by place, of one image, whose sequence is put together by hand."""
    masked = [] if hidden is None else hidden.nonzero()[:, 0].tolist()
    left_out = [] if thrown is None else thrown.nonzero()[:, 0].tolist()
    embedded = plain_embeddings(encoder, image, masked)
    kept = [token for token in range(len(embedded)) if token not in left_out]
    first = encoder.vit.cls_token[0, 0] + encoder.vit.pos_embed[0, 0]
    sequence = torch.stack([first, *[embedded[token] for token in kept]])[None]
    for block in encoder.vit.blocks:
        sequence = block(sequence)
    sequence = encoder.vit.norm(sequence)[0]
    return sequence[0].tolist(), {token: sequence[1 + place].tolist() for place, token in enumerate(kept)}


def plain_projector(projector: ProjectionHead, token: list[float]) -> list[float]:
    """Cosines of the prototypes with a token's bottleneck."""
    linears = [part for part in projector.mlp if isinstance(part, nn.Linear)]
    for number, linear in enumerate(linears, 1):
        rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
        token = [sum(w * x for w, x in zip(weights, token, strict=True)) + bias for weights, bias in rows]
        if number < len(linears):
            token = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in token]
    length = math.sqrt(sum(x * x for x in token))
    cosines = []
    for number, prototype in enumerate(projector.prototypes.tolist()):
        norm = math.sqrt(sum(x * x for x in prototype))
        scale = 1.0 if projector.lengths is None else projector.lengths[number].item()
        cosines.append(scale * sum(a * b for a, b in zip(prototype, token, strict=True)) / norm / length)
    return cosines


def plain_softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def plain_cross_entropy(student: list[float], taught: list[float], centre: list[float], warm: float) -> float:
    """-sum p log q: p of the teacher's centred answer at temperature `warm`, q of the student's at 0.25."""
    p = plain_softmax([(value - middle) / warm for value, middle in zip(taught, centre, strict=True)])
    q = plain_softmax([value / 0.25 for value in student])
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def plain_class_answers(head: DistillationHead, given: Examples) -> tuple[list[list[list[float]]], ...]:
    """The student's and the teacher's answers to the class token, [crop][image][prototype]."""
    student, teacher = head.student, head.teacher_network
    answers = [
        [
            plain_projector(student.of_class, plain_encoder(student.encoder, view.images[row], *masks_of(view, row))[0])
            for row in range(3)
        ]
        for view in given.views
    ]
    for crop in given.local:
        answers.append(
            [plain_projector(student.of_class, plain_encoder(student.encoder, crop[row])[0]) for row in range(3)]
        )
    known = [
        [plain_projector(teacher.of_class, plain_encoder(teacher.encoder, crop[row])[0]) for row in range(3)]
        for crop in given.clean
    ]
    return answers, known


def masks_of(view: View, row: int) -> tuple[Tensor | None, Tensor | None]:
    return tuple(None if mask is None else mask[row] for mask in (view.hidden, view.thrown))  # type: ignore[return-value]


def plain_class_loss(head: DistillationHead, given: Examples, warm: float) -> float:
    answers, known = plain_class_answers(head, given)
    losses = []
    for taught in range(len(known)):
        for crop in range(len(answers)):
            if crop != taught:  # a crop is not compared with itself
                for row in range(3):
                    losses.append(
                        plain_cross_entropy(answers[crop][row], known[taught][row], head.class_centre.tolist(), warm)
                    )
    return sum(losses) / len(losses)


def plain_token_answers(head: DistillationHead, given: Examples) -> list[list[list[tuple[list[float], list[float]]]]]:
    """(student's, teacher's) answers, [crop][image][token to be recovered]."""
    student, teacher = head.student, head.teacher_network
    assert student.of_patch is not None and teacher.of_patch is not None
    answers = []
    for view, clean in zip(given.views, given.clean, strict=True):
        answers.append([])
        for row in range(3):
            _, seen = plain_encoder(student.encoder, view.images[row], *masks_of(view, row))
            _, taught = plain_encoder(teacher.encoder, clean[row])
            assert view.hidden is not None
            left_out = [mask[row] for mask in (view.thrown, view.replaced) if mask is not None]
            chosen = [
                token for token in range(12) if view.hidden[row, token] and not any(mask[token] for mask in left_out)
            ]
            answers[-1].append(
                [
                    (
                        plain_projector(student.of_patch, seen[token]),
                        plain_projector(teacher.of_patch, taught[token]),
                    )
                    for token in chosen
                ]
            )
    return answers


def plain_token_loss(head: DistillationHead, given: Examples, warm: float) -> float:
    centre, total = head.patch_centre.tolist(), 0.0
    for crop in plain_token_answers(head, given):
        for row in crop:
            errors = [plain_cross_entropy(student, taught, centre, warm) for student, taught in row]
            total += sum(errors) / len(errors) / 3 / 2 if errors else 0.0
    return total


def float64_copy(head: DistillationHead) -> DistillationHead:
    return copy.deepcopy(head).double()


def float64_examples(given: Examples) -> Examples:
    views = tuple(
        complete(View(view.images.double(), view.hidden, view.replaced, view.thrown), view.images.double(), GRID)
        for view in given.views
    )
    clean = tuple(crop.double() for crop in given.clean)
    return Examples(views, clean, given.labels, tuple(crop.double() for crop in given.local))


@pytest.mark.parametrize("local", [(), (images(4, 8, 8), images(5, 4, 12))], ids=["full", "local"])
@pytest.mark.parametrize("masks", [({}, {}), uneven()], ids=["clean", "masked"])
@torch.no_grad()
def test_dinos_loss_is_the_cross_entropy_over_all_pairs_of_different_crops(
    masks: tuple[dict[str, Tensor], ...], local: tuple[Tensor, ...]
) -> None:
    head = head_for("dino", **TEMPERATURES, warmup=0.3)
    given = examples(masks, local)
    expected = plain_class_loss(float64_copy(head), float64_examples(given), 0.1 + (0.2 - 0.1) * 0.12 / 0.3)
    outcome = head(given)
    assert float(outcome.loss) == pytest.approx(expected, rel=2e-5)
    assert float(outcome.logs["loss/class"]) == float(outcome.loss)


@pytest.mark.parametrize(("progress", "warm"), [(0.0, 0.1), (0.15, 0.15), (0.3, 0.2), (0.9, 0.2)])
@torch.no_grad()
def test_the_teachers_temperature_rises_linearly_and_then_stays(progress: float, warm: float) -> None:
    head, given = head_for("dino", **TEMPERATURES, warmup=0.3), examples()
    head.prepare((), progress)
    expected = plain_class_loss(float64_copy(head), float64_examples(given), warm)
    assert float(head(given).loss) == pytest.approx(expected, rel=2e-5)


@torch.no_grad()
def test_without_a_warm_up_the_temperature_is_the_final_one() -> None:
    head, given = head_for("dino", **TEMPERATURES, warmup=0), examples()
    head.prepare((), 0.0)
    expected = plain_class_loss(float64_copy(head), float64_examples(given), 0.2)
    assert float(head(given).loss) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fused"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "separate"])
@pytest.mark.parametrize("norm_last_layer", [True, False], ids=["norm", "trained"])
@torch.no_grad()
def test_ibots_token_loss_is_averaged_over_an_images_hidden_tokens_and_then_over_images(
    norm_last_layer: bool, shared: bool, plain: bool
) -> None:
    given = examples(uneven(), (images(4, 8, 8),))
    settings = {**TEMPERATURES, **TOKEN_TEMPERATURES, "warmup": 0.3, "shared": shared, "token_weight": 0.7,
                "norm_last_layer": norm_last_layer}  # fmt: skip
    head = head_for("ibot", plain=plain, **settings)
    precise, precisely = float64_copy(head), float64_examples(given)
    of_class = plain_class_loss(precise, precisely, 0.1 + (0.2 - 0.1) * 0.4)
    of_tokens = plain_token_loss(precise, precisely, 0.15 + (0.35 - 0.15) * 0.4)
    outcome = head(given)
    assert float(outcome.logs["loss/class"]) == pytest.approx(of_class, rel=2e-5)
    assert float(outcome.logs["loss/token"]) == pytest.approx(of_tokens, rel=2e-5)
    assert float(outcome.loss) == pytest.approx(of_class + 0.7 * of_tokens, rel=2e-5)


@torch.no_grad()
def test_an_image_with_nothing_hidden_counts_as_no_error() -> None:
    head = head_for("ibot", **TEMPERATURES)
    masks = {"hidden": tokens([1, 2, 3], [4, 5, 6], [7, 8])}
    whole = float(head.eval()(examples((masks, masks))).logs["loss/token"])
    parts = []
    for kept in range(3):
        hidden = torch.where(torch.arange(3)[:, None] == kept, masks["hidden"], False)
        parts.append(float(head(examples(({"hidden": hidden}, {"hidden": hidden}))).logs["loss/token"]))
    assert whole == pytest.approx(sum(parts), rel=1e-5)
    assert min(parts) > 0


class Asked(TorchDispatchMode):
    """Counts what asks a GPU how many there are, and waits for its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += any(name in str(function) for name in ("nonzero", "masked_select", "masked_scatter", "item"))
        return function(*args, **(kwargs or {}))


def test_the_device_is_asked_once_a_crop_where_counts_vary() -> None:
    head = head_for("ibot")
    with Asked() as asked:
        head(examples(({"hidden": tokens([1, 2], [3], [])}, {"hidden": tokens([], [3], [4])}))).loss.backward()
    assert asked.count == 2


def test_nothing_hidden_anywhere_is_no_loss_and_no_trouble() -> None:
    head = head_for("ibot").train()
    nothing = {"hidden": tokens()}
    before = head.patch_centre.clone()
    outcome = head(examples((nothing, nothing)))
    outcome.loss.backward()
    assert float(outcome.logs["loss/token"]) == 0
    assert torch.equal(head.patch_centre, before)
    gradients = [parameter.grad for parameter in head.student.parameters() if parameter.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "shared", "norm"),
    [("dino", None, True), ("dino", None, False), ("ibot", True, True), ("ibot", False, False)],
)
def test_the_gradient_agrees_with_finite_differences(name: str, shared: bool | None, norm: bool) -> None:
    settings = {} if shared is None else {"shared": shared, **TOKEN_TEMPERATURES}
    settings["norm_last_layer"] = norm
    head = head_for(name, **TEMPERATURES, **settings).eval()
    given = examples(uneven(), (images(4, 8, 8),))
    assert head(given).loss.dtype == torch.float64
    head(given).loss.backward()
    student, vit = head.student, head.encoder.vit
    checked = [
        vit.patch_embed.proj.weight, vit.blocks[0].attn.qkv.weight, vit.blocks[1].mlp.fc2.bias, vit.norm.weight,
        vit.cls_token, vit.pos_embed, head.encoder.mask_token,
        student.of_class.mlp[0].weight, student.of_class.mlp[4].bias, student.of_class.prototypes,
    ]  # fmt: skip
    if student.of_patch is not None:
        checked += [student.of_patch.mlp[2].weight, student.of_patch.prototypes]
    checked += [lengths for name, lengths in student.named_parameters() if name.endswith("lengths")]
    assert len(checked) == 10 + 2 * (name == "ibot") + (not norm) * (1 + (shared is False))
    # The error of a central difference is about step^2 and rounding / step = 1e-16 / 1e-6, both below 1e-9.
    step = 1e-6
    for parameter in checked:
        flat, gradient = parameter.data.view(-1), parameter.grad.reshape(-1)
        places = {int(gradient.abs().argmax()), 0, len(flat) // 2, len(flat) - 1}
        assert gradient.abs().max() > 1e-4
        for place in places:
            kept = float(flat[place])
            with torch.no_grad():
                flat[place] = kept + step
                above = float(head(given).loss)
                flat[place] = kept - step
                below = float(head(given).loss)
                flat[place] = kept
            assert (above - below) / (2 * step) == pytest.approx(float(gradient[place]), rel=1e-5, abs=1e-8)


@both
def test_the_teacher_gets_no_gradient_and_all_of_the_student_does(name: str) -> None:
    head = head_for(name)
    head.prepare((), 0.5)
    head(examples(uneven(), (images(4, 8, 8),))).loss.backward()
    assert list(head.teacher.parameters())
    for parameter in head.teacher.parameters():
        assert not parameter.requires_grad
        assert parameter.grad is None
    idle = [key for key, parameter in head.student.named_parameters() if parameter.grad is None]
    assert idle == []


@pytest.mark.parametrize("shared", [True, False])
def test_prototypes_have_no_gradient_while_frozen_and_have_after(shared: bool) -> None:
    head = head_for("ibot", shared=shared, frozen=0.25, norm_last_layer=False).eval()
    projectors = [head.student.of_class, head.student.of_patch]
    for progress, moves in ((0.0, False), (0.2499, False), (0.25, True), (0.9, True)):
        head.zero_grad(set_to_none=True)
        head.prepare((), progress)
        head(examples(uneven())).loss.backward()
        for projector in projectors:
            assert projector is not None
            assert (projector.prototypes.grad is not None) == moves
            assert projector.lengths is not None and (projector.lengths.grad is not None) == moves
            assert projector.mlp[0].weight.grad is not None


def test_a_share_of_0_freezes_nothing() -> None:
    head = head_for("dino", frozen=0.0)
    head.prepare((), 0.0)
    head(examples()).loss.backward()
    assert head.student.of_class.prototypes.grad is not None


@both
@torch.no_grad()
def test_what_is_hidden_reaches_the_teacher_alone(name: str) -> None:
    head, given = (
        head_for(name, **TEMPERATURES).eval(),
        examples(uneven()),
    )  # colder ones saturate
    base = head(given).loss

    def changed(crop: int, where: Tensor, *, clean: bool) -> Tensor:
        view, seen = given.views[crop], given.clean[crop]
        other = torch.where(GRID.pixels(where), torch.full((), 9.0), seen if clean else view.images)
        views, crops = list(given.views), list(given.clean)
        if clean:
            crops[crop] = other
        else:
            views[crop] = complete(View(other, view.hidden, view.replaced, view.thrown), seen, GRID)
        return head(Examples(tuple(views), tuple(crops), given.labels)).loss

    for crop in (0, 1):
        hidden = given.views[crop].hidden
        assert hidden is not None
        assert torch.equal(changed(crop, hidden, clean=False), base)
        assert not torch.equal(changed(crop, ~hidden, clean=False), base)
        assert not torch.equal(changed(crop, hidden, clean=True), base)


@torch.no_grad()
def test_thrown_tokens_reach_nothing_not_even_by_their_positions() -> None:
    head = head_for("ibot").eval()
    hidden, thrown = tokens([0, 1, 5, 6], [0, 5, 6, 7], [5, 6, 8]), tokens([5, 6], [5, 6], [5, 6])
    mask = {"hidden": hidden, "thrown": thrown}
    given = examples((mask, mask))
    base = head(given).loss
    far = 3 * torch.randn(2, 16, generator=torch.Generator().manual_seed(0))  # no constant: layer norms take that away
    head.encoder.vit.pos_embed[:, 1 + 5 : 1 + 7] += far  # the student's alone
    torch.testing.assert_close(head(given).loss, base)
    head.encoder.vit.pos_embed[:, 1 + 7] += far[0]  # hidden in one image, seen in the others
    assert not torch.isclose(head(given).loss, base)


@pytest.mark.parametrize(("name", "shared"), [("dino", None), ("ibot", True), ("ibot", False)])
def test_teacher_and_centres_follow_step_by_step(name: str, shared: bool | None) -> None:
    settings = {} if shared is None else {"shared": shared}
    head = head_for(name, momentum=0.6, centring=0.8, **TEMPERATURES, **settings).train()
    expected = [parameter.detach().double() for parameter in head.teacher_network.parameters()]
    class_centre, patch_centre = head.class_centre.tolist(), head.patch_centre.tolist()
    for step in range(4):
        given = examples(uneven())
        head.prepare(given.clean, step / 4)
        with torch.no_grad():
            precise, precisely = float64_copy(head), float64_examples(given)
            _, known = plain_class_answers(precise, precisely)
            rows = [row for crop in known for row in crop]
            assert len(rows) == 6
            for k in range(5):
                class_centre[k] = 0.8 * class_centre[k] + 0.2 * sum(row[k] for row in rows) / len(rows)
            if name == "ibot":  # every hidden token of both crops weighs the same
                rows = [taught for crop in plain_token_answers(precise, precisely) for row in crop for _, taught in row]
                assert len(rows) == 7 + 1 + 12 + 1
                for k in range(5):
                    patch_centre[k] = 0.8 * patch_centre[k] + 0.2 * sum(row[k] for row in rows) / len(rows)
        head.zero_grad()
        head(given).loss.backward()
        with torch.no_grad():
            for parameter in head.student.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        progress = (step + 1) / 4
        head.after_step(progress)
        momentum = 1 - (1 - 0.6) * (math.cos(math.pi * progress) + 1) / 2
        followed = [parameter.detach().double() for parameter in head.student.parameters()]
        expected = [momentum * old + (1 - momentum) * new for old, new in zip(expected, followed, strict=True)]
        for got, value in zip(head.teacher_network.parameters(), expected, strict=True):
            torch.testing.assert_close(got.double(), value, rtol=1e-5, atol=1e-6)
        assert head.class_centre.tolist() == pytest.approx(class_centre, abs=2e-6)
        assert head.patch_centre.tolist() == pytest.approx(patch_centre, abs=2e-6)


@both
def test_the_teacher_moves_less_the_later_and_not_at_all_at_the_end(name: str) -> None:
    head = head_for(name, momentum=0.9)
    moved = []
    for progress in (0.01, 0.5, 0.99, 1.0):
        before = [parameter.clone() for parameter in head.teacher_network.parameters()]
        head.after_step(progress)
        pairs = zip(before, head.teacher_network.parameters(), strict=True)
        moved.append(sum(float((new - old).abs().sum()) for old, new in pairs))
    assert moved[0] > moved[1] > moved[2] > moved[3] == 0


@both
def test_nothing_changes_in_eval_mode(name: str) -> None:
    head = head_for(name).eval()
    before = copy.deepcopy(head.state_dict())
    outcome = head(examples(uneven(), (images(4, 8, 8),)))
    head.prepare((images(1), images(2)), 0.12)
    head.attention(images(1))
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())
    after = head.train()(examples(uneven(), (images(4, 8, 8),)))
    assert torch.equal(outcome.loss, after.loss)  # this step's centres are those of the steps before
    changed = {key for key, value in head.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == ({"class_centre"} if name == "dino" else {"class_centre", "patch_centre"})


def test_the_centres_take_in_no_half_precision() -> None:
    head = head_for("ibot").train()
    with torch.autocast("cpu", torch.bfloat16):
        outcome = head(examples(uneven()))
    assert outcome.loss.dtype == head.class_centre.dtype == head.patch_centre.dtype == torch.float32


@pytest.mark.parametrize(
    "kwargs",
    [{"drop_path_rate": 0.5}, {"proj_drop_rate": 0.5}, {"attn_drop_rate": 0.5}],
    ids=lambda given: next(iter(given)),
)
@torch.no_grad()
def test_the_teacher_drops_nothing_while_the_student_does(kwargs: dict[str, float]) -> None:
    head, crop = head_for("ibot", kwargs=kwargs), images(1)
    expected = head.eval().teacher.encoder(crop).patches
    head.train()  # as the training loop does
    assert not torch.equal(head.encoder(crop).patches, head.encoder(crop).patches)
    torch.testing.assert_close(head.features(crop), expected)


@both
@torch.no_grad()
def test_attention_and_features_are_the_teachers_own_and_refreshed_after_a_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, crops = head_for(name, momentum=0.5), (images(1), images(2))
    passes = []
    encode = Encoder.encode_with_attention
    monkeypatch.setattr(Encoder, "encode_with_attention", lambda self, crop: passes.append(self) or encode(self, crop))
    head.prepare(crops, 0.5)
    seen = []
    for crop in crops:
        seen.append(head.attention(crop))
        torch.testing.assert_close(seen[-1], head.teacher.encoder.cls_attention(crop))
        torch.testing.assert_close(head.features(crop), head.teacher.encoder(crop).patches)
        assert not torch.allclose(seen[-1], head.encoder.cls_attention(crop), atol=1e-4)  # not the student's
    views = tuple(complete(View(crop, tokens([1], [2], [3])), crop, GRID) for crop in crops)
    head(Examples(views, crops, torch.zeros(3, dtype=torch.long)))
    assert passes == [head.teacher.encoder] * 2  # each crop once, for the strategy and for the loss
    head.after_step(0.1)
    for crop, before in zip(crops, seen, strict=True):
        assert not torch.allclose(head.attention(crop), before, atol=1e-4)
        torch.testing.assert_close(head.attention(crop), head.teacher.encoder.cls_attention(crop))
        torch.testing.assert_close(head.features(crop), head.teacher.encoder(crop).patches)
    assert passes == [head.teacher.encoder] * 4


@torch.no_grad()
def test_loading_a_state_forgets_what_the_old_teacher_saw() -> None:
    head, other, crop = head_for("dino"), head_for("dino"), images(1)
    for parameter in other.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    head.attention(crop)
    head.load_state_dict(other.state_dict())
    torch.testing.assert_close(head.attention(crop), other.attention(crop))


def ready(folder: Path, objective: str, strategy: str = "attmask-high") -> tuple[RunConfig, Any, Any, Any]:
    objective += ":prototypes=16:hidden=16:bottleneck=8:momentum=0.5"
    planned, splits = load_data(make_plan(tiny_config(folder, strategy, objective=objective)))
    return planned.config, planned.strategy, splits, build_state(planned, splits)


@both
def test_strategies_get_the_teachers_attention_to_the_clean_crops(name: str, tmp_path: Path) -> None:
    config, strategy, splits, state = ready(tmp_path, name)
    head, index = state.head.train(), torch.arange(6)
    assert state.teacher is None  # the objective's own serves

    def batches() -> list[Crops]:
        return make_full_crops(config, strategy, splits, head.recipe, splits.train.take(index), index, 0)

    def attention(batch: Crops) -> Tensor:
        return make_context(config, strategy, state, batch, 0, 0.5).attention

    made = batches()
    assert len(made) == 2
    assert not torch.equal(made[0].images, made[1].images)
    head.prepare(tuple(batch.images for batch in made), 0.5)
    before = [attention(batch) for batch in made]
    for batch, offered in zip(made, before, strict=True):
        torch.testing.assert_close(offered, head.teacher.encoder.cls_attention(batch.images))
        view = make_view(strategy, batch, make_context(config, strategy, state, batch, 0, 0.5))
        for row, hidden in enumerate(view.hidden):
            most = offered[row].argsort(descending=True)[: int(hidden.sum())]
            assert set(most.tolist()) == set(hidden.nonzero()[:, 0].tolist())
    with torch.no_grad():
        for parameter in head.student.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(attention(made[0]), before[0])  # the student's step alone changes nothing
    head.after_step(0.1)
    again = batches()
    for batch, old in zip(again, before, strict=True):
        torch.testing.assert_close(attention(batch), head.teacher.encoder.cls_attention(batch.images))
        assert not torch.allclose(attention(batch), old, atol=1e-5)


@pytest.mark.parametrize(("name", "shared"), [("dino", None), ("ibot", True), ("ibot", False)])
def test_the_optimizer_gets_each_trained_parameter_once_and_none_of_the_teacher(name: str, shared: bool | None) -> None:
    head = head_for(name, **({} if shared is None else {"shared": shared}))
    handed = [id(parameter) for group in weight_decay_groups(head, 0.05) for parameter in group["params"]]
    assert len(handed) == len(set(handed))
    assert set(handed) == {id(parameter) for parameter in head.student.parameters()}
    assert not set(handed) & {id(parameter) for parameter in head.teacher.parameters()}
    decayed, kept = ({id(parameter) for parameter in group["params"]} for group in weight_decay_groups(head, 0.05))
    assert id(head.student.of_class.prototypes) in decayed
    assert {id(head.encoder.mask_token), id(head.student.of_class.mlp[0].bias)} <= kept


def test_the_state_of_a_run_optimizes_the_student_alone(tmp_path: Path) -> None:
    config, strategy, _, state = ready(tmp_path, "ibot")
    fresh = initial_state(config, state.head, strategy)
    handed = [id(parameter) for group in fresh.optimizer.param_groups for parameter in group["params"]]
    assert sorted(handed) == sorted(id(parameter) for parameter in state.head.student.parameters())


def test_projectors_are_shared_or_separate_in_student_and_teacher() -> None:
    assert head_for("dino").student.of_patch is None
    for shared in (True, False):
        head = head_for("ibot", shared=shared)
        for owner in (head.student, head.teacher_network):
            assert (owner.of_patch is owner.of_class) == shared
            assert owner.of_patch is not None and owner.of_patch.mlp is owner.of_class.mlp, "as published"
            assert (owner.of_patch.prototypes is owner.of_class.prototypes) == shared
        apart = {parameter.data_ptr() for parameter in head.student.parameters()}
        assert not apart & {parameter.data_ptr() for parameter in head.teacher.parameters()}
    linears = len([part for part in head_for("dino", layers=1).student.of_class.mlp if isinstance(part, nn.Linear)])
    assert linears == 1


@pytest.mark.parametrize("shared", [True, False])
def test_projector_starts_as_published_and_teacher_as_the_student(shared: bool) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(
        "vit_tiny_patch16_224", GRID, 3, {"embed_dim": 16, "depth": 1, "num_heads": 2}, plain_attention=True
    )
    ibot = REGISTRY.create("ibot", hidden=300, bottleneck=40, prototypes=60, shared=shared)
    head = ibot.build(encoder, GRID, 3, 10, plain_attention=True)
    assert isinstance(head, DistillationHead)
    for one, other in zip(head.student.parameters(), head.teacher_network.parameters(), strict=True):
        assert torch.equal(one, other)
    for linear in head.student.of_class.mlp:
        if isinstance(linear, nn.Linear):
            assert not linear.bias.any()
            # The standard deviation of a sample's standard deviation is sigma / sqrt(2 n) for normal values.
            bound = 4 * 0.02 / math.sqrt(2 * linear.weight.numel())
            assert abs(linear.weight.std().item() - 0.02) < bound
    assert not head.class_centre.any() and not head.patch_centre.any()


def test_the_norms_of_the_last_layer_are_trained_where_the_switch_says_so() -> None:
    """They start at 1, where the loss is the one without them; they decay like a matrix, and the teacher follows."""
    torch.manual_seed(0)
    kept = ProjectionHead(16, hidden=7, bottleneck=6, layers=3, prototypes=5)
    torch.manual_seed(0)
    trained = ProjectionHead(16, hidden=7, bottleneck=6, layers=3, prototypes=5, norm_last_layer=False)
    token = torch.randn(2, 16)
    assert torch.equal(kept(token), trained(token))
    assert "lengths" not in kept.state_dict() and trained.state_dict()["lengths"].shape == (5, 1)
    head = head_for("dino", norm_last_layer=False, momentum=0.5)
    decayed, _ = ({id(parameter) for parameter in group["params"]} for group in weight_decay_groups(head, 0.05))
    student, teacher = head.student.of_class.lengths, head.teacher_network.of_class.lengths
    assert student is not None and teacher is not None and id(student) in decayed
    expected = (student.detach() + teacher) / 2
    head.after_step(0.0)
    torch.testing.assert_close(teacher, expected)


@pytest.mark.parametrize("name", ["attmask-dino", "attmask-high-ibot", "attmask-hint-ibot"])
def test_presets_train_the_norms_of_the_last_layer_as_the_published_commands_do(name: str) -> None:
    assert load_preset(name)["objective"]["parameters"]["norm_last_layer"] is False


def test_runs_that_keep_the_norms_have_the_names_that_they_had() -> None:
    def identity(**parameters: Any) -> str:
        return RunConfig(objective={"name": "dino", "parameters": parameters}).identity(1, 2)  # type: ignore[arg-type]

    assert identity() == identity(norm_last_layer=True) != identity(norm_last_layer=False)


@torch.no_grad()
def test_the_length_of_prototypes_does_not_matter() -> None:
    head, given = head_for("ibot").eval(), examples(uneven())
    base = head(given).loss
    for projector in (head.student.of_class, head.teacher_network.of_class):
        projector.prototypes.mul_(torch.tensor([[0.5], [2.0], [7.0], [0.1], [1.5]]))
    torch.testing.assert_close(head(given).loss, base)


@both
def test_a_model_without_a_class_token_is_refused(name: str) -> None:
    kwargs = {"embed_dim": 16, "depth": 1, "num_heads": 2, "class_token": False, "global_pool": "avg"}
    encoder = build_encoder("vit_tiny_patch16_224", GRID, 3, kwargs, plain_attention=True)
    with pytest.raises(UsageError, match=f"objective {name} needs a class token"):
        REGISTRY.create(name).build(encoder, GRID, 3, 10, plain_attention=True)


# Crops of another size than the grid's.

PREFIXES = [{}, {"no_embed_class": True, "reg_tokens": 2}, {"reg_tokens": 1}]


def encoder_with(kwargs: dict[str, Any]) -> Encoder:
    torch.manual_seed(0)
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2, **kwargs}
    encoder = build_encoder("vit_tiny_patch16_224", GRID, 3, small, plain_attention=True).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return encoder


@pytest.mark.parametrize("kwargs", PREFIXES, ids=["class", "no-embed-class", "registers"])
@torch.no_grad()
def test_crops_of_the_grids_size_are_timms_own_exactly(kwargs: dict[str, Any]) -> None:
    """But for the convolution, which is a matrix product here and rounds otherwise (tests/models/test_encoder.py)."""
    encoder = encoder_with(kwargs)
    encoded = encoder(images(1))
    proj = encoder.vit.patch_embed.proj

    def product(embed: nn.Module, given: tuple[Tensor], found: Tensor) -> Tensor:
        return F.linear(F.unfold(given[0], 4, stride=4).mT.contiguous(), proj.weight.flatten(1), proj.bias)

    encoder.vit.patch_embed.register_forward_hook(product)
    assert torch.equal(torch.cat([encoded.prefix, encoded.patches], 1), encoder.vit.forward_features(images(1)))


@pytest.mark.parametrize("kwargs", PREFIXES, ids=["class", "no-embed-class", "registers"])
@pytest.mark.parametrize("size", [(8, 8), (4, 4), (16, 12), (12, 12), (24, 20)], ids=str)
@torch.no_grad()
def test_crops_of_another_size_get_positions_that_are_resized_bicubically(
    kwargs: dict[str, Any], size: tuple[int, int]
) -> None:
    # 16 x 12 has as many patches as the grid in another shape.
    encoder, crop = encoder_with(kwargs), images(4, *size)
    for row in range(3):
        expected = torch.stack(plain_embeddings(encoder, crop[row], []))
        torch.testing.assert_close(encoder.embed_patches(crop)[row], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_local_crops_class_token_depends_on_where_its_patches_are() -> None:
    encoder, crop = encoder_with({}), images(4, 8, 8)
    swapped = crop.roll(4, 3)  # left and right patches change places
    base = encoder(crop).prefix
    assert not torch.allclose(base, encoder(swapped).prefix, atol=1e-2)
    encoder.vit.pos_embed[:, 1:] = 0.0  # a transformer without positions sees a set
    assert not torch.allclose(base, encoder(crop).prefix, atol=1e-2)
    torch.testing.assert_close(encoder(crop).prefix, encoder(swapped).prefix, rtol=1e-4, atol=1e-5)


def test_positions_learn_from_local_crops() -> None:
    encoder = encoder_with({})
    encoder(images(4, 8, 8)).prefix.sum().backward()
    gradient = encoder.vit.pos_embed.grad
    assert gradient is not None
    assert (gradient[0].abs().sum(1) > 0).all()
