"""Signs of collapse: known where a representation varies along known directions, and silent where all is well."""

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from maskbench.objectives.distillation import entropies
from maskbench.runs.run import run
from maskbench.training import collapse
from maskbench.training.collapse import (
    HIGHEST_ENTROPY,
    LOWEST_RANK,
    LOWEST_SPREAD,
    effective_rank,
    images_are_alike,
    signs_of_collapse,
)
from tests.helpers.tiny_run import tiny_config

HEALTHY = {"loss": 2.0, "online/knn/top1/cls": 0.3, "online/rank/cls": 40.0, "online/rank/mean": 30.0,
           "teacher/entropy": 0.4, "teacher/entropy-of-mean": 0.9}  # fmt: skip


def hadamard(size: int) -> Tensor:
    """Orthogonal columns of +-1; all but the first have mean 0."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("k", [1, 2, 5, 15])
def test_k_equal_singular_values_are_k_dimensions(k: int, dtype: torch.dtype) -> None:
    features = hadamard(16)[:, 1 : 1 + k] @ rotation(20)[:k] * 3 + 7
    assert effective_rank(features.to(dtype)) == pytest.approx(k, rel=1e-5)


def test_unequal_singular_values_count_by_their_entropy() -> None:
    sizes = [8.0, 4.0, 3.0, 1.0]
    features = hadamard(16)[:, 3:7] * torch.tensor(sizes).double() @ rotation(6)[:4]
    shares = [size / sum(sizes) for size in sizes]  # every column of the Hadamard matrix is equally long
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(features) == pytest.approx(expected, rel=1e-9)
    assert effective_rank(1e-4 * features + 5) == pytest.approx(expected, rel=1e-6)
    assert effective_rank(features[torch.randperm(16, generator=torch.Generator().manual_seed(0))]) == pytest.approx(
        expected, rel=1e-9
    )


def test_no_more_than_images_less_one_or_features() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows, cols in ((5, 40), (40, 5)):
        rank = effective_rank(torch.randn(rows, cols, generator=generator))
        assert min(rows - 1, cols) * 0.8 < rank <= min(rows - 1, cols) + 1e-9


def constant(kind: str, rows: int, dtype: torch.dtype) -> Tensor:
    row = {"zero": torch.zeros(24), "tenth": torch.full((24,), 0.1), "normal": torch.linspace(-3.1, 2.7, 24).exp()}[
        kind
    ]
    return row.to(dtype).expand(rows, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rows", [1, 7, 64, 300])
@pytest.mark.parametrize("kind", ["zero", "tenth", "normal"])
def test_equal_rows_have_no_dimension(kind: str, rows: int, dtype: torch.dtype) -> None:
    assert effective_rank(constant(kind, rows, dtype)) == 0


def test_rounding_is_no_dimension() -> None:
    # What is left of a collapsed encoder's float32 features is the last bit of some of them.
    features = constant("normal", 300, torch.float32)
    noise = torch.randint(-1, 2, features.shape, generator=torch.Generator().manual_seed(0))
    assert effective_rank(features * (1 + noise * torch.finfo(torch.float32).eps)) < LOWEST_RANK


def test_features_that_are_no_numbers_do_not_stop_a_run() -> None:
    for bad in (math.nan, math.inf):
        features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
        features[3, 2] = bad
        assert not effective_rank(features) > 0


def test_a_healthy_row_has_no_sign() -> None:
    assert signs_of_collapse(HEALTHY) == []
    assert signs_of_collapse({}) == []
    assert signs_of_collapse({"loss": 1.0, "epoch": 3.0}) == []


@pytest.mark.parametrize(
    ("name", "bound", "worse", "says"),
    [
        ("online/rank/cls", LOWEST_RANK, -1, "features (cls) vary along fewer than 2 dimensions"),
        ("online/rank/mean", LOWEST_RANK, -1, "features (mean) vary along fewer than 2 dimensions"),
        ("teacher/entropy-of-mean", LOWEST_SPREAD, -1, "the teacher answers nearly the same to all images"),
        ("teacher/entropy", HIGHEST_ENTROPY, 1, "the teacher's answers are nearly uniform"),
    ],
)
def test_each_sign_begins_beyond_its_bound(name: str, bound: float, worse: int, says: str) -> None:
    assert signs_of_collapse({**HEALTHY, name: bound}) == []
    assert signs_of_collapse({**HEALTHY, name: bound - worse * 1e-6}) == []
    (sign,) = signs_of_collapse({**HEALTHY, name: bound + worse * 1e-6})
    assert sign.startswith(f"collapse: {says}; ")
    (alone,) = signs_of_collapse({name: bound + worse * 1e-6})
    assert alone == sign


def test_signs_come_together() -> None:
    row = {**HEALTHY, "online/rank/cls": 1.0, "online/rank/mean": 0.0, "teacher/entropy-of-mean": 0.01}
    assert len(signs_of_collapse(row)) == 3


def test_too_few_steps_or_images_are_no_sign() -> None:
    """Two validation images vary along one dimension, whatever the encoder; and so do features after a step."""
    row = {**HEALTHY, "online/rank/cls": 0.9, "step": 100.0}
    assert len(signs_of_collapse(row, 10)) == 1
    assert signs_of_collapse(row, 9) == []
    assert signs_of_collapse({**row, "step": 99.0}, 10) == []
    assert len(signs_of_collapse({**row, "teacher/entropy": 1.0}, 2)) == 1, "the teacher answers to training images"


def test_images_that_are_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (16, 3, 8, 8), generator=generator).to(torch.uint8)
    assert not images_are_alike(noise)
    assert images_are_alike(noise[:1].expand(16, -1, -1, -1))
    greys = (torch.arange(16) * 16).view(16, 1, 1, 1).expand(-1, 3, 8, 8)
    assert images_are_alike(greys.to(torch.uint8)), "flat images of different brightness"


def test_constant_images_are_named_and_not_the_learning_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, count in (("train", 120), ("test", 10)):
        for number in range(count):
            path = tmp_path / "flat" / split / f"class{number % 2}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (120, 90, 60)).save(path)
    config = tiny_config(tmp_path / "out", data__dataset=str(tmp_path / "flat"), train__batch_size=60, probes="knn")
    assert run(config).warnings == [], "after four steps nothing can be said"
    monkeypatch.setattr(collapse, "MIN_STEPS", 1)
    assert run(config, force=True).warnings == [collapse.ALIKE]


def softmax_rows(count: int, width: int) -> Tensor:
    return (3 * torch.randn(count, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(1)


def test_entropies_are_shares_of_the_largest() -> None:
    answers = softmax_rows(6, 5)
    single, mean = 0.0, [0.0] * 5
    for answer in answers.tolist():
        single -= sum(p * math.log(p) for p in answer) / 6
        mean = [total + p / 6 for total, p in zip(mean, answer, strict=True)]
    of_mean = -sum(p * math.log(p) for p in mean)
    got = entropies(answers)
    assert set(got) == {"teacher/entropy", "teacher/entropy-of-mean"}
    assert float(got["teacher/entropy"]) == pytest.approx(single / math.log(5), rel=1e-12)
    assert float(got["teacher/entropy-of-mean"]) == pytest.approx(of_mean / math.log(5), rel=1e-12)
    assert single < of_mean  # the entropy is concave


@pytest.mark.parametrize(
    ("answers", "single", "of_mean"),
    [
        (torch.full((6, 8), 1 / 8), 1, 1),  # uniform
        (torch.eye(8)[[3, 3, 3, 3]], 0, 0),  # the same prototype for all
        (torch.eye(8), 0, 1),  # sure, and each image another
        (torch.eye(8)[[0, 0, 5, 5]], 0, 1 / 3),  # sure, of two: log 2 / log 8
        ((torch.eye(8)[0] + torch.eye(8)[1]).expand(5, -1) / 2, 1 / 3, 1 / 3),  # torn between the same two
    ],
    ids=["uniform", "one", "each", "two", "torn"],
)
def test_limits_of_the_entropies(answers: Tensor, single: float, of_mean: float) -> None:
    got = entropies(answers)
    assert float(got["teacher/entropy"]) == pytest.approx(single, abs=1e-6)
    assert float(got["teacher/entropy-of-mean"]) == pytest.approx(of_mean, abs=1e-6)


def test_collapsed_teachers_show_their_signs() -> None:
    uniform = {name: float(value) for name, value in entropies(torch.full((6, 8), 1 / 8)).items()}
    assert [sign.split(";")[0] for sign in signs_of_collapse(uniform)] == [
        "collapse: the teacher's answers are nearly uniform"
    ]
    same = {name: float(value) for name, value in entropies(torch.eye(8)[[3, 3, 3]]).items()}
    assert [sign.split(";")[0] for sign in signs_of_collapse(same)] == [
        "collapse: the teacher answers nearly the same to all images"
    ]
