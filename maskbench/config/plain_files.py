"""Files that are read as plain data: regular ones, up to a size, with nothing in them but values within limits.

Everything here raises NotPlain with a reason in one line; the caller knows the file's name and what to do about it.
"""

import json
import math
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

MAX_RECORD = 8 * 2**20  # bytes of a record.json; 100,000 epochs with a reading each fit
MAX_SETTINGS = 128 * 2**10  # of a YAML file: PyYAML needs seconds for it
MAX_STATUS = 16 * 2**10  # of ticket.json and progress.json
MAX_HEADER = 2**20  # of the JSON in the header of a file of weights

MAX_DEPTH = 32  # lists and mappings inside each other
MAX_YAML_VALUES = 20_000  # with those of aliases, as often as they are used
MAX_NAME, MAX_PATH, MAX_TEXT = 256, 4096, 100_000  # characters
MAX_INTEGER = 2**63

_BRACKETS = re.compile(r"[\[\]{}]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotPlain(ValueError):
    """A file or its content is refused; the message is the reason, without the file's name."""


def read_regular_file(path: Path, max_bytes: int, *, follow_link: bool = True) -> bytes:
    """The content of a regular file.

    Args:
        path: The file. A pipe or a device is refused before it is opened, which could wait for ever.
        max_bytes: A larger one is refused.
        follow_link: Whether `path` may be a symbolic link.

    Raises:
        NotPlain: It is no regular file, or too large.
        OSError: It cannot be read.
    """
    found = path.stat() if follow_link else path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise NotPlain("it is a link, which is not followed")
    _ensure_regular(found, max_bytes)
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_link else os.O_NOFOLLOW)
    with os.fdopen(os.open(path, flags), "rb") as file:
        _ensure_regular(os.fstat(file.fileno()), max_bytes)
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise NotPlain(f"it grows; at most {_size(max_bytes)} are read")
    return content


def _ensure_regular(found: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise NotPlain(f"it is {_KINDS.get(stat.S_IFMT(found.st_mode), 'of another kind')}, no regular file")
    if found.st_size > max_bytes:
        raise NotPlain(f"it has {_size(found.st_size)}; at most {_size(max_bytes)} are read")


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count >= 2**20 else f"{math.ceil(count / 2**10):,} KiB"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. NotPlain unless it is one, with values within the limits of `ensure_plain`."""
    try:
        value = json.loads(_decode(text))
    except RecursionError:
        raise NotPlain(f"its lists and mappings lie more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        if isinstance(error, NotPlain):
            raise
        raise NotPlain(f"it is not JSON: {_one_line(error)}") from None
    ensure_plain(value)
    return value


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML text of one document. NotPlain unless it is one, within the limits of `ensure_plain`, with
    every name once in a mapping and at most MAX_YAML_VALUES values. A date is text, as it is in JSON."""
    text = _decode(text)
    depth = 0
    for bracket in _BRACKETS.finditer(text):  # PyYAML takes minutes for many of them
        depth += 1 if bracket[0] in "[{" else -1
        if depth > 2 * MAX_DEPTH:  # some may be in quotes
            raise NotPlain(f"its brackets lie more than {MAX_DEPTH} deep")
    try:
        loader = _PlainLoader(text)
        root = loader.get_single_node()
        _check_nodes(root)
        value = None if root is None else loader.construct_document(root)
    except RecursionError:
        raise NotPlain(f"its lists and mappings lie more than {MAX_DEPTH} deep") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # by a tag that does not fit its value
        if isinstance(error, NotPlain):
            raise
        raise NotPlain(f"it is not YAML: {_one_line(error)}") from None
    ensure_plain(value)
    return value


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader, to which a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML's own
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _check_nodes(root: Any) -> None:
    """NotPlain where aliases make a small text large or endless, or where a mapping has a name twice."""
    waiting, count = [(root, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise NotPlain(f"its lists and mappings lie more than {MAX_DEPTH} deep")
        if count > MAX_YAML_VALUES:
            raise NotPlain(f"it has more than {MAX_YAML_VALUES:,} values, aliases counted")
        if isinstance(node, yaml.MappingNode):
            names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            if (twice := next((name for name, times in names.items() if times > 1), None)) is not None:
                raise NotPlain(f"it gives {shorten(twice)} twice in one mapping; keep one of the two")
            waiting += [(each, depth + 1) for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += [(each, depth + 1) for each in node.value]


def ensure_plain(value: Any) -> None:
    """Check that a value is data of a bounded kind.

    Raises:
        NotPlain: It is not made of mappings, lists, text, numbers, booleans and None; a number is not finite or an
            integer of more than 64 bits; a name is not text, longer than MAX_NAME or has control characters; a text is
            longer than MAX_TEXT or no Unicode; or they lie more than MAX_DEPTH deep.
    """
    waiting: list[tuple[Any, tuple[str, ...]]] = [(value, ())]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, dict | list):
            if len(path) >= MAX_DEPTH:
                raise NotPlain(f"its lists and mappings lie more than {MAX_DEPTH} deep")
            if isinstance(value, dict):
                for name in value:
                    ensure_name(name, "a name in it")
                waiting += [(inner, (*path, name)) for name, inner in value.items()]
            else:
                waiting += [(inner, (*path, str(place))) for place, inner in enumerate(value)]
        elif (reason := _why_not_plain(value)) is not None:
            raise NotPlain(f"{'.'.join(path) or 'it'} {reason}")


def _why_not_plain(value: Any) -> str | None:
    """What is wrong with a single value; None where nothing is."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            return f"has {len(value):,} characters; at most {MAX_TEXT:,} are read"
        return "is no Unicode text" if _SURROGATE.search(value) else None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"is {value}; numbers must be finite"
    if isinstance(value, int):
        return None if abs(value) < MAX_INTEGER else "is an integer of more than 64 bits"
    return None if value is None else f"is of type {type(value).__name__}; only text, numbers, true, false and null are"


def ensure_name(name: Any, what: str) -> None:
    """NotPlain unless `name` is text of one line, of at most MAX_NAME characters."""
    if not isinstance(name, str):
        raise NotPlain(f"{what} is {shorten(name)}, no text; quote it")
    ensure_text_line(name, what, MAX_NAME)


def ensure_text_line(name: str, what: str, longest: int = MAX_PATH) -> None:
    """NotPlain unless `name` has at most `longest` characters, none of which is a control character."""
    if len(name) > longest:
        raise NotPlain(f"{what} has {len(name):,} characters; at most {longest:,} are possible")
    if _CONTROL.search(name) or _SURROGATE.search(name):
        raise NotPlain(f"{what} has control characters: {shorten(name)}")


def shorten(value: Any) -> str:
    """At most 80 characters of a value from a file, as Python writes it, for messages."""
    if isinstance(value, int) and abs(value) >= MAX_INTEGER:
        return "a large integer"  # Python refuses to write some
    text = repr(value[:80] if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _decode(text: str | bytes) -> str:
    try:
        return text if isinstance(text, str) else text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise NotPlain(f"it is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words if len(words) <= 200 else f"{words[:197]}..."
