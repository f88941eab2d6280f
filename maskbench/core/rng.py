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


def _mix_(x: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place. int64 shifts are arithmetic, so the copied sign bits are masked off."""
    shifted = torch.empty_like(x)  # new memory is the larger part of the cost of many draws
    for places, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
        torch.bitwise_right_shift(x, places, out=shifted)
        x.bitwise_xor_(shifted.bitwise_and_((1 << (64 - places)) - 1)).mul_(factor)
    return x


def seed_for(seed: int, *stream: str | int) -> int:
    """A seed in [0, 2**63) for the named stream, e.g. for torch's generator at initialisation."""
    digest = hashlib.sha256("/".join(map(str, (seed, *stream))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def keys(index: Tensor, seed: int, *stream: str | int) -> Tensor:
    """(B,) int64: the key of each sample `index` (B,) int64 in the stream named by e.g. ("masks", epoch).

    Streams of different names, numbers or seeds are independent of each other.
    """
    return _mix_((index ^ seed_for(seed, *stream)) + _GOLDEN)


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
        return _mix_((self.keys[:, None] + counter).mul_(_GOLDEN)).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """float32 in [0, 1), a multiple of 2**-24."""
        return (self.bits(*shape) >> 40).bitwise_and_(0xFFFFFF).float().mul_(2**-24)

    def normal(self, *shape: int) -> Tensor:
        """float32 standard normal: Box-Muller, both values of a pair from the two halves of one 64-bit draw."""
        count = math.prod(shape)
        halves = self.bits((count + 1) // 2).view(torch.int32)
        # 23 bits under the exponent of 1 are a number in [1, 2): no conversion, no memory but that of the bits.
        drawn = halves.bitwise_and_(0x7FFFFF).bitwise_or_(0x3F800000).view(torch.float32)
        radius, angle = drawn.chunk(2, 1)
        radius.neg_().add_(2).log_().mul_(-2).sqrt_()
        angle.mul_(2 * math.pi)
        sine = angle.sin().mul_(radius)
        angle.cos_().mul_(radius)
        radius.copy_(sine)
        return drawn[:, :count].reshape(-1, *shape)

    def integers(self, high: int | Tensor, *shape: int) -> Tensor:
        """int64 in [0, high), `high` < 2**31 a number or broadcastable to (B, *shape). Bias below 2**-32 * high."""
        return (((self.bits(*shape) >> 32) & 0xFFFFFFFF) * high) >> 32
