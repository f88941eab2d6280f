"""What the user can put right, told in one line."""

import difflib
from collections.abc import Iterable

MANY = 40  # names that still fit a message


class UsageError(ValueError):
    """A mistake in what was asked for. The message is one line and holds the remedy; the CLI exits with 2."""


class Failure(RuntimeError):
    """Work that had to stop for a reason outside what was asked for: a full disk, no memory, a broken plugin. The
    message is one line and holds the remedy; the CLI exits with 1."""


class Told(Failure):
    """A failure that another process of the same run tells; this one is silent."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not among `known`: the nearest ones, then all if they are few."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    rest = f" Known: {', '.join(known) or 'none'}" if len(known) <= MANY or not near else ""
    return UsageError(f"unknown {kind} {name!r}.{guess}{rest}")
