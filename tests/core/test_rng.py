"""The generator: reference values, statistics, and independence of everything but the key."""

import math

import pytest
import torch
from scipy import stats

from maskbench.core.rng import CounterRNG, derive_seed, sample_keys

INDEX = torch.arange(20_000)


def splitmix(x: int) -> int:
    """SplitMix64's finaliser in Python integers, from its published constants."""
    mask = (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def test_bits_are_splitmix64_of_key_and_counter() -> None:
    key = sample_keys(torch.arange(3), 7, "masks", 2)
    got = CounterRNG(key).bits(4)
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    for row in range(3):
        for counter in range(4):
            expected = splitmix(((int(key[row]) + counter) * golden) & mask)
            assert int(got[row, counter]) & mask == expected


def test_splitmix64_reference_output() -> None:
    # The first output of the published generator started from state 0.
    assert splitmix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


def some_bits(*shape: int) -> tuple[CounterRNG, torch.Tensor]:
    """A generator, and the bits that it will draw next for `shape`."""
    keys = sample_keys(INDEX[:50], 1, "masks", 0)
    return CounterRNG(keys), CounterRNG(keys).bits(*shape)


def test_uniform_is_the_top_24_bits() -> None:
    rng, bits = some_bits(9)
    expected = [[(value % 2**64 >> 40) / 2**24 for value in row] for row in bits.tolist()]
    assert rng.uniform(9).tolist() == expected


def test_integers_are_the_scaled_top_32_bits() -> None:
    rng, bits = some_bits(9)
    expected = [[(value % 2**64 >> 32) * 7 // 2**32 for value in row] for row in bits.tolist()]
    assert rng.integers(7, 9).tolist() == expected


def test_normal_is_box_muller_of_both_halves() -> None:
    rng, bits = some_bits(3)
    normal = rng.normal(6).double()
    for row, drawn in zip(bits.tolist(), normal, strict=True):
        halves = [half % 2**23 / 2**23 for value in row for half in (value % 2**32, value % 2**64 >> 32)]
        for number in range(3):
            radius = math.sqrt(-2 * math.log(1 - halves[number]))
            angle = 2 * math.pi * halves[number + 3]
            assert drawn[number] == pytest.approx(radius * math.sin(angle), abs=1e-5)
            assert drawn[number + 3] == pytest.approx(radius * math.cos(angle), abs=1e-5)


def test_uniform_is_uniform() -> None:
    u = CounterRNG(sample_keys(INDEX, 0, "masks", 0)).uniform(50)
    assert 0 <= float(u.min()) < float(u.max()) < 1
    counts = torch.histc(u.flatten(), 1000, 0, 1).numpy()
    assert stats.chisquare(counts).pvalue > 1e-4


def correlation_sigmas(a: torch.Tensor, b: torch.Tensor) -> float:
    """The sample correlation of two equally long uniform sequences in units of its standard deviation 1 / sqrt(n)."""
    a, b = (a.flatten().double() - 0.5) * math.sqrt(12), (b.flatten().double() - 0.5) * math.sqrt(12)
    return abs(float((a * b).mean())) * math.sqrt(a.numel())


@pytest.mark.parametrize(
    "other",
    [
        sample_keys(INDEX + 1, 0, "masks", 0),
        sample_keys(INDEX, 1, "masks", 0),
        sample_keys(INDEX, 0, "augment", 0),
        sample_keys(INDEX, 0, "masks", 1),
    ],
    ids=["next sample", "next seed", "other stream", "next epoch"],
)
def test_streams_are_uncorrelated(other: torch.Tensor) -> None:
    # |correlation| of n independent pairs exceeds 4 / sqrt(n) with probability 6e-5.
    u, v = CounterRNG(sample_keys(INDEX, 0, "masks", 0)).uniform(50), CounterRNG(other).uniform(50)
    assert correlation_sigmas(u, v) < 4
    assert correlation_sigmas(u[:, 1:], v[:, :-1]) < 4


def test_successive_draws_of_a_row_are_uncorrelated() -> None:
    u = CounterRNG(sample_keys(INDEX, 0, "masks", 0)).uniform(50)
    assert correlation_sigmas(u[:, 1:], u[:, :-1]) < 4


def test_normal_is_normal() -> None:
    x = CounterRNG(sample_keys(INDEX, 0, "masks", 0)).normal(25)
    assert stats.kstest(x.flatten().numpy()[:200_000], "norm").pvalue > 1e-4
    # Both values of a Box-Muller pair come from one draw; they must not know of each other.
    pairs = CounterRNG(sample_keys(INDEX, 0, "masks", 0)).normal(2)
    assert abs(float((pairs[:, 0] * pairs[:, 1]).mean())) * math.sqrt(len(pairs)) < 4


def test_integers_cover_their_range_evenly() -> None:
    x = CounterRNG(sample_keys(INDEX, 0, "masks", 0)).integers(7, 20)
    assert stats.chisquare(torch.bincount(x.flatten(), minlength=7).numpy()).pvalue > 1e-4


def test_integers_take_a_bound_for_each_row() -> None:
    high = torch.tensor([[1], [3], [1000]])
    x = CounterRNG(sample_keys(torch.arange(3), 0, "masks", 0)).integers(high, 500)
    assert (x.amax(1) == torch.tensor([0, 2, int(x[2].max())])).all()
    assert int(x.min()) == 0
    assert 900 < int(x[2].max()) < 1000


def test_a_row_does_not_depend_on_the_others() -> None:
    whole = CounterRNG(sample_keys(INDEX[:64], 3, "masks", 5)).uniform(10)
    some = torch.tensor([40, 2, 63])
    assert torch.equal(whole[some], CounterRNG(sample_keys(some, 3, "masks", 5)).uniform(10))


def test_shapes_and_continuation() -> None:
    draws = CounterRNG(sample_keys(INDEX[:4], 0, "masks", 0))
    first, second = draws.uniform(2, 3), draws.uniform(6)
    assert first.shape == (4, 2, 3)
    again = CounterRNG(sample_keys(INDEX[:4], 0, "masks", 0)).uniform(12)
    assert torch.equal(torch.cat([first.flatten(1), second], 1), again)
    assert CounterRNG(sample_keys(INDEX[:4], 0, "masks", 0)).normal(5).shape == (4, 5)
    assert CounterRNG(sample_keys(INDEX[:4], 0, "masks", 0)).uniform().shape == (4,)


def test_derived_seeds_are_stable() -> None:
    # Changing this value changes every result ever recorded.
    assert derive_seed(0, "init", "encoder") == derive_seed(0, "init", "encoder")
    assert derive_seed(0, "init") != derive_seed(1, "init")
    assert derive_seed(0, "init") == 3330654677893223573
