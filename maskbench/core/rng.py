"""Counter-based random numbers: a draw is a pure function of (key, counter).

Every sample of every epoch has a key of its own. So its mask and its crop depend on nothing else: not on the batch it
is in, on the order of the data, on the number of processes or on an interruption. There is no generator state to save.

The generator is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014): its output function of `(key + counter) * golden`, in
torch's integer operations, hence bit-identical on every device. To use another generator, change `CounterRNG.bits`.
"""

import hashlib
import math

import torch
from torch import Tensor


def _as_int64(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit `value`; torch has no unsigned arithmetic."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _as_int64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio
_FIRST_FACTOR = _as_int64(0xBF58476D1CE4E5B9)
_SECOND_FACTOR = _as_int64(0x94D049BB133111EB)


def _splitmix64_(x: Tensor) -> Tensor:
    """SplitMix64's output function of each int64, in place: three times "xor with the upper bits, then multiply".

    A right shift of a negative int64 fills up with ones; the mask sets these bits to 0, as an unsigned shift would.

    Example, 64-bit numbers in hexadecimal:
        x = 9E3779B97F4A7C15                      the first state of a generator seeded with 0
        x ^ (x >> 30) = 9E3779BB07979AF0          then times the first factor, and so on
        result: E220A8397B1DCDAF                  the published generator's first output
    A test holds it to a plain loop over Python integers: test_bits_are_splitmix64_of_key_and_counter.
    """
    shifted = torch.empty_like(x)  # one buffer for all steps: to allocate costs more than to compute
    for places, factor in ((30, _FIRST_FACTOR), (27, _SECOND_FACTOR), (31, 1)):
        torch.bitwise_right_shift(x, places, out=shifted)
        x.bitwise_xor_(shifted.bitwise_and_((1 << (64 - places)) - 1)).mul_(factor)
    return x


def _fraction_from_top_24_bits(bits: Tensor) -> Tensor:
    """float32 in [0, 1): the upper 24 of 64 random bits, read as a binary fraction. float32 holds 24 bits exactly.

    Example:
        bits = C000000000000000 (hexadecimal), a negative int64
        bits >> 40 = FFFFFFFFFFC00000             the sign is copied; & FFFFFF leaves C00000
        C00000 * 2**-24 = 0.75
    A test holds it to a plain loop: test_uniform_is_the_top_24_bits.
    """
    return (bits >> 40).bitwise_and_(0xFFFFFF).float().mul_(2**-24)


def _float_in_1_to_2_(bits: Tensor) -> Tensor:
    """float32 in [1, 2) from int32 random bits, in the same memory: the lower 23 bits become the mantissa.

    A float32 is 1 sign bit, 8 bits of exponent, 23 bits of mantissa. 3F800000 is 1.0: exponent 0, mantissa 0.

    Example:
        bits = 12345678 (hexadecimal)
        & 7FFFFF = 345678, | 3F800000 = 3FB45678
        read as a float32: 1 + 0x345678 * 2**-23 = 1.40888...
    A test holds `CounterRNG.normal` to a plain loop: test_normal_is_box_muller_of_both_halves.
    """
    return bits.bitwise_and_(0x7FFFFF).bitwise_or_(0x3F800000).view(torch.float32)


def _box_muller_(uniform: Tensor) -> Tensor:
    """Standard normal numbers from (B, 2n) uniform ones in [1, 2), in place.

    Box and Muller: for u and v uniform, sqrt(-2 log u) cos(2 pi v) and sqrt(-2 log u) sin(2 pi v) are independent and
    normal. u is 2 - the first half, in (0, 1]; v is the second half, a whole turn too far, which changes nothing.

    Example:
        uniform = (2 - exp(-2), 1.25)             so u = exp(-2), a radius of 2, and a quarter of a turn
        2 * cos(pi / 2) = 0                       goes into the second half
        2 * sin(pi / 2) = 2                       goes into the first half
    """
    radius, angle = uniform.chunk(2, 1)
    radius.neg_().add_(2).log_().mul_(-2).sqrt_()
    angle.mul_(2 * math.pi)
    sine = angle.sin().mul_(radius)
    angle.cos_().mul_(radius)
    radius.copy_(sine)
    return uniform


def _scale_top_32_bits(bits: Tensor, high: int | Tensor) -> Tensor:
    """int64 in [0, high): `high` times the upper 32 of 64 random bits as a binary fraction, rounded down.

    Example:
        bits = 8000000000000000 (hexadecimal), high = 7
        (bits >> 32) & FFFFFFFF = 80000000        a half, as a fraction of 2**32
        (80000000 * 7) >> 32 = 3                  7 / 2, rounded down
    A test holds it to a plain loop: test_integers_are_the_scaled_top_32_bits.
    """
    return (((bits >> 32) & 0xFFFFFFFF) * high) >> 32


def derive_seed(seed: int, *stream: str | int) -> int:
    """A seed for the named stream, e.g. for torch's generator when weights are initialised.

    Args:
        seed: The run's seed.
        stream: Names and numbers that identify the stream, e.g. `"init", "encoder"`.

    Returns:
        An int in [0, 2**63), the same on every machine.
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *stream))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def sample_keys(index: Tensor, seed: int, *stream: str | int) -> Tensor:
    """The key of each sample in a named stream. Streams of different names, numbers or seeds are independent.

    Args:
        index: (B,) int64 numbers of the samples in the data set.
        seed: The run's seed.
        stream: Names and numbers that identify the stream, e.g. `"masks", epoch`.

    Returns:
        (B,) int64 keys for `CounterRNG`.
    """
    return _splitmix64_((index ^ derive_seed(seed, *stream)) + _GOLDEN)


class CounterRNG:
    """Random numbers for B keys. Every call continues each key's own sequence.

    Attributes:
        keys: (B,) int64, e.g. from `sample_keys`. Every method returns (B, *shape) on their device.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self._counter = 0

    def bits(self, *shape: int) -> Tensor:
        """(B, *shape) int64, 64 random bits each."""
        count = math.prod(shape)
        counter = torch.arange(self._counter, self._counter + count, device=self.keys.device)
        self._counter += count
        return _splitmix64_((self.keys[:, None] + counter).mul_(_GOLDEN)).view(-1, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) float32 in [0, 1), multiples of 2**-24."""
        return _fraction_from_top_24_bits(self.bits(*shape))

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal. The two halves of one 64-bit draw give a pair of them."""
        count = math.prod(shape)
        halves = self.bits((count + 1) // 2).view(torch.int32)
        drawn = _box_muller_(_float_in_1_to_2_(halves))
        return drawn[:, :count].reshape(-1, *shape)

    def integers(self, high: int | Tensor, *shape: int) -> Tensor:
        """(B, *shape) int64 in [0, high).

        Args:
            high: Below 2**31: a number, or int64 broadcastable to (B, *shape). No value is more likely than another
                by more than `high` * 2**-32.
            shape: Numbers for each key.
        """
        return _scale_top_32_bits(self.bits(*shape), high)
