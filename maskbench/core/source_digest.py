"""What the code of a plugin is, so that a run knows whether it is still the same."""

import ast
import hashlib
import inspect
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

LENGTH = 16  # hexadecimal places
# Tokens without a meaning for what the code does; indentation and the ends of statements have one.
_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
_BOUNDS = {tokenize.NEWLINE: "\n", tokenize.INDENT: "{", tokenize.DEDENT: "}"}


def plugin_source_digest(cls: type) -> str:
    """The digest of a plugin's code: of the module of its class, and of the modules that it uses from its own folder.

    Args:
        cls: A class that does not ship with maskbench.

    Returns:
        "sha256:A-B", each of 16 hexadecimal places. A is of the code without comments, docstrings and formatting, B of
        the text. For a class that a script or a notebook defines, both are of the class alone.
    """
    texts = [_text_of(module) for module in _own_modules(cls)] or [_text_of_class(cls)]
    return f"sha256:{_digest(map(_meaning, texts))}-{_digest(texts)}"


def is_same_code(one: str, other: str) -> bool:
    """Whether two digests are of the same code: a comment changes B alone, another Python perhaps A alone."""
    first, second = (digest.removeprefix("sha256:").split("-") for digest in (one, other))
    return any(mine == its for mine, its in zip(first, second, strict=False))


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:LENGTH]


def _own_modules(cls: type) -> Iterator[ModuleType]:
    """The module of `cls` and what it uses from the same folder, in the order of use; nothing for a script's class."""
    first = sys.modules.get(cls.__module__)
    folder = _file_of(first).parent
    if first is None or cls.__module__ == "__main__" or folder == Path():
        return
    waiting, known = [first], {first.__name__}
    while waiting:
        module = waiting.pop(0)
        yield module
        for name in _names_of_used_modules(module):
            used = sys.modules.get(name)
            if used is not None and name not in known and _lies_in(folder, used):
                known.add(name)
                waiting.append(used)


def _names_of_used_modules(module: ModuleType) -> Iterator[str]:
    """Full names of what a module's import statements name: modules, and what may be one."""
    try:
        tree = ast.parse(_text_of(module))
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            package = (module.__package__ or "").split(".")
            parents = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _file_of(module: ModuleType | None) -> Path:
    """The module's file; Path() where there is none."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) else Path()


def _lies_in(folder: Path, module: ModuleType) -> bool:
    """Whether the module is the plugin's own: neither maskbench's nor of an environment below the plugin's folder."""
    path = _file_of(module)
    if module.__name__.partition(".")[0] == "maskbench" or not path.is_relative_to(folder):
        return False
    return not {"site-packages", "dist-packages"} & set(path.relative_to(folder).parts)


def _text_of(module: ModuleType) -> str:
    """The module's source; of a compiled one, its digest; of one without a file on disk, such as in a zip, its name."""
    path = _file_of(module)
    try:
        content = path.read_bytes()
    except OSError:
        return module.__name__
    return content.decode(errors="replace") if path.suffix == ".py" else hashlib.sha256(content).hexdigest()


def _text_of_class(cls: Any) -> str:
    """The text of a class; of one that was made without a file, its name."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        return str(cls.__qualname__)


def _meaning(source: str) -> str:
    """Python's tokens without comments, docstrings and formatting: "a=1  # one" -> "a = 1"."""
    words: list[str] = []
    statement: list[tokenize.TokenInfo] = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in _SILENT:
                continue
            if token.type not in _BOUNDS:
                statement.append(token)
                continue
            if not (len(statement) == 1 and statement[0].type == tokenize.STRING):  # as a docstring is
                words += [*(each.string for each in statement), _BOUNDS[token.type]]
            statement = []
    except (tokenize.TokenError, SyntaxError):  # of the text of a class within a function, or no Python
        return source
    return " ".join(words)
