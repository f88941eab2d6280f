"""Errors that end a command with one line and no traceback."""

import difflib
from collections.abc import Iterable

MAX_LISTED = 40  # names in a message
LIKE, SURE = 0.5, 0.75  # similarity of a name that is suggested, and of one beside which no list is needed


class UsageError(ValueError):
    """A mistake that the user can put right: a wrong option, name, value or file.

    The message is one line and names the remedy. The command line prints it and exits with 2.
    """


class ContractError(ValueError):
    """A strategy breaks the contract: it does not return a view, or it reads a signal that its `needs` lacks.

    A strategy refuses a grid by a ValueError; this one is never such a refusal.
    """


class Failure(RuntimeError):
    """Work that had to stop for another reason: a full disk, too little memory, a broken plugin.

    The message is one line and names the remedy. The command line prints it and exits with 1.
    """


class AlreadyReported(Failure):
    """A failure that another process of the same run reports, so that this process prints nothing."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not known, with the names nearest to it.

    Args:
        kind: What the name is of, e.g. "strategy".
        name: The unknown name.
        known: All names. They are listed where none is near, or where they are at most MAX_LISTED and none is so near
            that it must be meant.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=SURE)
    if near:
        return UsageError(f"unknown {kind} {name!r}. Did you mean {' or '.join(near)}?")
    near = difflib.get_close_matches(name, known, n=2, cutoff=LIKE)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    rest = f" Known: {', '.join(known) or 'none'}" if len(known) <= MAX_LISTED or not near else ""
    return UsageError(f"unknown {kind} {name!r}.{guess}{rest}")
