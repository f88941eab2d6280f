"""Bounds that a benchmark must keep, and a failure that fits into three lines."""


class BoundMissedError(AssertionError):
    """A benchmark's number is on the wrong side of its bound; the message has three lines."""


def require_at_least(what: str, measured: float, bound: float) -> None:
    """Checks a lower bound.

    Args:
        what: What was measured, with its unit.
        measured: The number.
        bound: The smallest number that passes.

    Raises:
        BoundMissedError: `measured` is below `bound`.
    """
    if not measured >= bound:
        raise BoundMissedError(_describe(what, measured, "at least", bound))


def require_at_most(what: str, measured: float, bound: float) -> None:
    """Checks an upper bound; the arguments are those of `require_at_least`.

    Raises:
        BoundMissedError: `measured` is above `bound`.
    """
    if not measured <= bound:
        raise BoundMissedError(_describe(what, measured, "at most", bound))


def _describe(what: str, measured: float, side: str, bound: float) -> str:
    return f"{what}: {measured:.4g}\nbound: {side} {bound:.4g}\nmeasured / bound: {measured / bound:.3f}"
