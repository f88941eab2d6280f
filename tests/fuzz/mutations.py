"""Ways to spoil a document, an archive, or any file: each has a name and gives bytes."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import yaml

Spoilt = Iterator[tuple[str, bytes]]

WRONG_VALUES: dict[str, Any] = {
    "null": None,
    "list": [1, [2]],
    "text": "\x1b[31mred\x1b[0m $x^ \\ =cmd()|<b>\n../../x",
    "huge": 10**400,
    "negative": -1,
    "mapping": {"a": {"b": {}}},
    "true": True,
    "long": "x" * 100_000,
}


def spoil_fields(document: dict[str, Any], dump: Any, prefix: str = "") -> Spoilt:
    """Each field of the document, and of the mappings in it down to the second level, missing or of a wrong value."""
    for path in _paths(document):
        for name, value in (("missing", ...), *WRONG_VALUES.items()):
            changed = copy.deepcopy(document)
            place = changed
            for key in path[:-1]:
                place = place[key]
            if value is ...:
                del place[path[-1]]
            else:
                place[path[-1]] = value
            yield f"{prefix}{'.'.join(path)} {name}", dump(changed)


def _paths(document: dict[str, Any]) -> list[tuple[str, ...]]:
    own: list[tuple[str, ...]] = [(key,) for key in document]
    return own + [(key, inner) for key, value in document.items() if isinstance(value, dict) for inner in value][:12]


def as_json(document: Any) -> bytes:
    return json.dumps(document).encode()


def as_yaml(document: Any) -> bytes:
    return yaml.safe_dump(document).encode()


def spoil_json(whole: bytes) -> Spoilt:
    """What is no JSON, or not the JSON that it looks like."""
    yield from spoil_bytes(whole)
    yield "brackets", b"[" * 200_000 + b"]" * 200_000
    yield "objects", b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    yield "NaN", b'{"metrics": {"knn/top1/cls": NaN, "a": Infinity}}'
    yield "number of 100,000 digits", b"[" + b"9" * 100_000 + b"]"
    yield "a list", b"[]"
    yield "lone surrogate", b'{"name": "\\ud800"}'
    yield "repeated key", whole.rstrip()[:-1] + b', "seed": 7, "seed": 8}'


def spoil_yaml(whole: bytes) -> Spoilt:
    """What is no YAML, more than it looks like, or asks for code."""
    yield from spoil_bytes(whole)
    names = [f"a{place}" for place in range(30)]
    yield (
        "aliases",
        "\n".join(
            f"{name}: &{name} [{', '.join(f'*{before}' for _ in range(9))}]" if before else f"{name}: &{name} [x]"
            for before, name in zip([None, *names], names, strict=False)
        ).encode(),
    )
    yield "an alias of itself", b"a: &a [*a]"
    yield "brackets", b"a: " + b"[" * 20_000
    yield "a tag", b"a: !!python/object/apply:os.system ['touch stolen']"
    yield "a tag of a number", b"seed: !!int x"
    yield "two documents", whole + b"\n---\n" + whole
    yield "keys that are no text", b"1: 2\nnull: 3\n[a, b]: 4\n"
    yield "a date", b"seed: 2001-01-01"
    yield "a tab", b"a:\n\t- b"


def spoil_bytes(whole: bytes) -> Spoilt:
    """Any file: empty, cut, longer, changed, of other bytes, very large."""
    yield "empty", b""
    for share in (0.1, 0.5, 0.9, 0.99):
        yield f"cut at {share}", whole[: int(share * len(whole))]
    yield "one byte less", whole[:-1]
    yield "zeros", bytes(len(whole))
    yield "a zero in the middle", whole[: len(whole) // 2] + b"\0" + whole[len(whole) // 2 + 1 :]
    yield "zeros in the middle", whole[: len(whole) // 3] + bytes(len(whole) // 3) + whole[2 * len(whole) // 3 :]
    yield "more behind it", whole + b"more"
    yield "twice", whole + whole
    yield "no UTF-8", b"\xff\xfe" + whole
    yield "another kind", b"%!PS\n(stolen) print"
    yield "a pickle", b"cos\nsystem\n(S'touch stolen'\ntR."
    yield "100 MB", whole + b" " * 100_000_000
