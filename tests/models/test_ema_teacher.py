"""The teacher's signals: followed exactly, measured on what is hidden."""

import copy

import torch

from maskbench.core.grid import Grid
from maskbench.core.rng import CounterRNG, sample_keys
from maskbench.core.view import View, complete
from maskbench.models.ema_teacher import EMATeacher
from maskbench.models.encoder import build_encoder
from maskbench.objective import Examples
from maskbench.objectives.mae import Mae, MaeHead

GRID = Grid(4, 6, 4)


def head() -> MaeHead:
    torch.manual_seed(0)
    kwargs = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    encoder = build_encoder("vit_tiny_patch16_224", GRID, 3, kwargs, plain_attention=True)
    mae = Mae(decoder_width=16, decoder_depth=1, decoder_heads=2)
    return mae.build(encoder, GRID, 3, 10, plain_attention=True)  # type: ignore[return-value]


def test_the_copy_is_a_moving_average_of_the_encoder_or_of_the_whole_head() -> None:
    for whole in (False, True):
        student = head()
        teacher = EMATeacher(student if whole else student.encoder, 0.9)
        before = {name: value.clone() for name, value in teacher.copy.named_parameters()}
        with torch.no_grad():
            for value in student.parameters():
                value.add_(1.0)
        teacher.update(student if whole else student.encoder)
        followed = dict((student if whole else student.encoder).named_parameters())
        assert before.keys() == followed.keys()
        for name, value in teacher.copy.named_parameters():
            torch.testing.assert_close(value, 0.9 * before[name] + 0.1 * followed[name].detach())
            assert not value.requires_grad


def test_the_loss_of_a_patch_is_measured_while_it_is_hidden() -> None:
    student = head().eval()
    teacher = EMATeacher(student, 0.9)
    images, labels = torch.randn(6, 3, 16, 24), torch.zeros(6, dtype=torch.long)
    got = teacher.patch_loss(images, labels, CounterRNG(sample_keys(torch.arange(6), 0, "patch-loss")))
    # Each patch's loss is what the head says under one of two complementary masks of half of the patches.
    draws = CounterRNG(sample_keys(torch.arange(6), 0, "patch-loss")).uniform(24)
    hidden = torch.zeros(6, 24, dtype=torch.bool)
    for row in range(6):
        hidden[row, draws[row].argsort(descending=True)[:12]] = True
    for mask in (hidden, ~hidden):
        with torch.no_grad():
            view = complete(View(images, mask, length=12), images, GRID)
            prediction = student(Examples((view,), (images,), labels)).prediction
        for row, patch in mask.nonzero().tolist()[:40]:
            top, left = patch // 6 * 4, patch % 6 * 4
            target = images[row, :, top : top + 4, left : left + 4]
            target = (target - target.mean()) / (target.var() + 1e-6).sqrt()
            expected = (prediction[row, :, top : top + 4, left : left + 4] - target).square().mean()
            torch.testing.assert_close(got[row, patch], expected, rtol=1e-4, atol=1e-5)


def test_the_student_does_not_change_with_its_copy() -> None:
    student = head()
    before = copy.deepcopy(student.state_dict())
    EMATeacher(student, 0.5).update(student)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
