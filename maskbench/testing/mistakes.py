"""A mistake in a plugin, and the line of the plugin where it is."""

import ast
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

BASES = {"maskbench.strategy", "maskbench.objective", "maskbench.probe", "maskbench.core.component", "builtins", "abc"}


class Mistake(AssertionError):
    """What a check found.

    Attributes:
        where: The method or parameter at fault, "" for the class itself, or FILE:LINE where it is known exactly.
    """

    def __init__(self, message: str, where: str = "__call__") -> None:
        super().__init__(message)
        self.where = where


def ensure(condition: Any, message: str, where: str = "__call__") -> None:
    """Raise a Mistake unless `condition` holds. message: what is wrong; the remedy."""
    if not condition:
        raise Mistake(message, where)


def source_files(component: object) -> list[str]:
    """The files in which the component's own classes are written, without those of maskbench's base classes."""
    return list(dict.fromkeys(file for cls in _own_classes(component) if (file := _file_of(cls))))


def _own_classes(component: object) -> Iterator[type]:
    for cls in type(component).__mro__:
        if cls.__module__ not in BASES:
            yield cls


def _file_of(cls: type) -> str | None:
    try:
        return inspect.getsourcefile(cls)
    except TypeError:  # made at run time, without a file
        return None


def locate_error(error: BaseException, component: object) -> str:
    """FILE:LINE of the plugin's innermost line in the error's traceback; where none is, of what `error` names."""
    if isinstance(error, Mistake):
        return error.where if ":" in error.where else locate_name(component, error.where)
    files = source_files(component)
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    if not own:  # the harness refused what `__call__` had returned
        return locate_name(component, "__call__", of_return=True)
    return format_line(own[-1].filename, own[-1].lineno or 0)


def locate_name(component: object, name: str, *, of_return: bool = False) -> str:
    """FILE:LINE of a method or parameter of the component's classes, else of its class; "" where there is no file.

    of_return: the line of the method's last `return` instead.
    """
    names = {cls.__name__ for cls in _own_classes(component)}
    for file in source_files(component):
        classes = [node for node in ast.walk(_parse(file)) if isinstance(node, ast.ClassDef)]
        # The component's own classes first; then others of its file, such as an objective's head.
        for node in sorted(classes, key=lambda node: node.name not in names):
            if (line := _line_of(node, name, of_return=of_return)) is not None:
                return format_line(file, line)
    return _locate_class(component)


def _parse(file: str) -> ast.Module:
    try:
        return ast.parse(Path(file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ast.Module([], [])


def _line_of(cls: ast.ClassDef, name: str, *, of_return: bool) -> int | None:
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            returns = [each.lineno for each in ast.walk(node) if isinstance(each, ast.Return)]
            return max(returns) if of_return and returns else node.lineno
        targets = (
            [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.lineno
    return None


def _locate_class(component: object) -> str:
    try:
        line = inspect.getsourcelines(type(component))[1]
    except (OSError, TypeError):
        return ""
    return format_line(_file_of(type(component)) or "", line)


def format_line(file: str, line: int) -> str:
    """FILE:LINE, the file as seen from the current folder if it lies below."""
    path = Path(file).resolve()
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}:{line}"


def line_of_change(call: Callable[[], object], files: Collection[str], state: Callable[[], object]) -> str:
    """FILE:LINE of the first line in `files` during `call` after which `state()` differs, or "" if there is none."""
    before, last, guilty = state(), ("", 0), ("", 0)

    def note(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal last, guilty
        if not guilty[0] and last[0] and state() != before:
            guilty = last
        last = frame.f_code.co_filename, frame.f_lineno
        return note

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        return note(frame, event, argument) if frame.f_code.co_filename in files else None

    outer = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(outer)
    guilty = guilty if guilty[0] else last
    return format_line(*guilty) if guilty[0] and state() != before else ""
