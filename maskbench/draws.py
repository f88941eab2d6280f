"""Counter-based random numbers: a draw is a pure function of (key, counter).

Every sample of every epoch has a key of its own, so its mask and its crop depend on nothing else: not on the batch it
is in, on the order of the data, on the number of processes or on an interruption. There is no generator state to save.

The generator is SplitMix64's output function (Steele, Lea, Flood, OOPSLA 2014) over `(key + counter) * golden`, in
torch's integer operations, hence bit-identical on every device. `Draws.bits` is the one place to
put another generator.
"""

import hashlib
import math

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit `value`; torch has no unsigned arithmetic."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser. int64 shifts are arithmetic, so the copied sign bits are masked off."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _FIRST
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _SECOND
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def seed_for(seed: int, *stream: str | int) -> int:
    """A seed in [0, 2**63) for the named stream, e.g. for torch's generator at initialisation."""
    digest = hashlib.sha256("/".join(map(str, (seed, *stream))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def keys(index: Tensor, seed: int, *stream: str | int) -> Tensor:
    """(B,) int64: the key of each sample `index` (B,) int64 in the stream named by e.g. ("masks", epoch).

    Streams of different names, numbers or seeds are independent of each other.
    """
    return _mix((index ^ seed_for(seed, *stream)) + _GOLDEN)


class Draws:
    """Random numbers for B keys; every call continues each key's own sequence.

    keys: (B,) int64. Every method returns (B, *shape).
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self._used = 0

    def bits(self, *shape: int) -> Tensor:
        """64 random bits each, as int64."""
        count = math.prod(shape)
        counter = torch.arange(self._used, self._used + count, device=self.keys.device)
        self._used += count
        return _mix((self.keys[:, None] + counter) * _GOLDEN).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """float32 in [0, 1), a multiple of 2**-24."""
        return ((self.bits(*shape) >> 40) & 0xFFFFFF).float() * 2**-24

    def normal(self, *shape: int) -> Tensor:
        """float32 standard normal: Box-Muller, both values of a pair from one 64-bit draw of 24 + 24 bits."""
        count = math.prod(shape)
        bits = self.bits((count + 1) // 2)
        radius = (-2 * torch.log(((bits & 0xFFFFFF).float() + 1) * 2**-24)).sqrt()
        angle = ((bits >> 40) & 0xFFFFFF).float() * (2 * math.pi * 2**-24)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], 1)[:, :count].reshape(-1, *shape)

    def integers(self, high: int | Tensor, *shape: int) -> Tensor:
        """int64 in [0, high), `high` < 2**31 a number or broadcastable to (B, *shape). Bias below 2**-32 * high."""
        return (((self.bits(*shape) >> 32) & 0xFFFFFFFF) * high) >> 32
