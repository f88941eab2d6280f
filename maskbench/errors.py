"""Errors that end a command with one line and no traceback."""

import difflib
import itertools
import reprlib
from collections.abc import Iterable

MAX_LISTED = 40  # names in a message
MAX_SHOWN = 700  # characters of all names in a message; those of the strategies that ship are fewer
MAX_QUOTED = 80  # characters of what was typed
LIKE, SURE = 0.5, 0.75  # similarity of a name that is suggested, and of one beside which no list is needed


_SHORT = reprlib.Repr()  # of nested values, however many they are
_SHORT.maxlevel = 4
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = _SHORT.maxset = 30
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 2 * MAX_QUOTED


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


def quoted(value: object) -> str:
    """The value in quotes as Python writes it, without control characters, cut after MAX_QUOTED characters."""
    try:
        text = repr(value[: MAX_QUOTED + 1]) if isinstance(value, str) else _SHORT.repr(value)
    except ValueError:  # of an integer of more than 4,300 places
        text = f"<{type(value).__name__}>"
    is_cut = len(text) > MAX_QUOTED + 2  # the quotes
    return f"{text[: MAX_QUOTED - 2]}...{text[-1]}" if is_cut else text


def unquoted(text: str) -> str:
    """The text without control characters, cut after MAX_QUOTED characters."""
    return quoted(text)[1:-1]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that is not known, with the names nearest to it.

    Args:
        kind: What the name is of, e.g. "strategy".
        name: The unknown name.
        known: All names. They are listed where none is near, or where they are at most MAX_LISTED and none is so near
            that it must be meant.
    """
    known = sorted(known)
    typed = name[: MAX_QUOTED + 1]  # what is longer is like nothing, and takes long to compare
    near = difflib.get_close_matches(typed, known, n=2, cutoff=SURE)
    if near:
        return UsageError(f"unknown {kind} {quoted(name)}. Did you mean {' or '.join(near)}?")
    near = difflib.get_close_matches(typed, known, n=2, cutoff=LIKE)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    count = sum(length <= MAX_SHOWN for length in itertools.accumulate(len(each) + 2 for each in known))
    shown = known if count == len(known) else [*known[:count], f"and {len(known) - count} more"]
    rest = f" Known: {', '.join(shown) or 'none'}" if len(known) <= MAX_LISTED or not near else ""
    return UsageError(f"unknown {kind} {quoted(name)}.{guess}{rest}")
