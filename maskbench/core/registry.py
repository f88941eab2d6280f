"""Name -> component. Small, strict and helpful: duplicates and unknown names are errors that say what to do.

Components come from the modules of a package, which are imported on first use; from entry points of installed
distributions, whose names are known without importing them; and from plugins named by file or module.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Generic, TypeVar

from maskbench.core.component import Component
from maskbench.errors import UsageError, unknown

T = TypeVar("T", bound=Component)


class Registry(Generic[T]):
    """Components of one kind. broken: what could not be imported or was refused -> why."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.broken: dict[str, str] = {}
        self._package = package  # and the entry-point group
        self._classes: dict[str, type[T]] = {}
        self._origins: dict[str, str] = {}
        self._installed: dict[str, EntryPoint] = {}  # not imported yet
        self._plugins: dict[str, list[str]] = {}  # loaded by file or module -> names
        self._source = ""  # of what is being imported
        self._discovered = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make a frozen dataclass known as `name` (kebab-case), its defaults checked."""

        def decorate(cls: type[T]) -> type[T]:
            if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
                raise UsageError(f"{self.kind} name {name!r} is not kebab-case, e.g. my-{self.kind}")
            if (taken := self._classes.get(name)) is not None:
                raise UsageError(
                    f"{self.kind} {name!r} of {cls.__module__} is already {taken.__module__}'s; rename one"
                )
            if "__dataclass_fields__" not in vars(cls):
                raise UsageError(f"{self.kind} {name!r}: put @dataclass(frozen=True, kw_only=True) under @register")
            for field in dataclasses.fields(cls):
                if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                    raise UsageError(f"{self.kind} {name!r}: parameter {field.name!r} needs a default")
            cls.name = name
            cls()
            self._classes[name] = cls
            ours = cls.__module__.startswith(f"{self._package}.")  # also where imported by itself, before discovery
            self._origins[name] = _ours() if ours else self._source or cls.__module__
            return cls

        return decorate

    def names(self) -> list[str]:
        """All names, sorted; those of installed plugins without importing them. What is `broken` is left out."""
        self._discover()
        return sorted(self._classes.keys() | self._installed.keys())

    def get(self, name: str) -> type[T]:
        """The class registered as `name`; UsageError with the nearest names otherwise."""
        self._discover()
        if name in self._installed:
            self._import_installed(name)
        if name in self.broken:
            raise UsageError(f"{self.kind} {name} is broken: {self.broken[name]}")
        if name not in self._classes:
            raise unknown(self.kind, name, self.names())
        return self._classes[name]

    def origin(self, name: str) -> str:
        """Where `name` comes from: distribution and version, or the file or module of a plugin."""
        self.get(name)
        return self._origins[name]

    def create(self, name: str, **parameters: Any) -> T:
        """An instance of `name` with these parameters and the defaults of the others."""
        return self.get(name)().replace(**parameters)

    def load(self, plugin: str) -> list[str]:
        """Import a plugin, FILE.py or package.module; the names it registers. UsageError where it is missing or
        broken."""
        self._discover()
        return self._load(plugin)

    def _load(self, plugin: str) -> list[str]:
        path = Path(plugin)
        is_file = path.suffix == ".py" or len(path.parts) > 1
        key = str(path.resolve()) if is_file else plugin
        if key in self._plugins:
            return self._plugins[key]
        if is_file and not path.is_file():
            raise UsageError(f"no plugin file {plugin}; give FILE.py or an importable package.module")
        before = set(self._classes)
        try:
            with self._from(f"{path.name} {_digest(path)}" if is_file else plugin):
                if is_file:
                    _import_file(path)
                else:
                    importlib.import_module(plugin)
        except Exception as error:
            for name in set(self._classes) - before:
                del self._classes[name]
            raise UsageError(f"plugin {plugin} is broken: {_reason(error)}") from error
        self._plugins[key] = sorted(set(self._classes) - before)
        return self._plugins[key]

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        with self._from(_ours()):
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__, f"{self._package}."):
                self._try(module.name, functools.partial(importlib.import_module, module.name))
        for point in metadata.entry_points(group=self._package):
            self._announce(point)
        for plugin in re.split(f"[,{os.pathsep}]+", os.environ.get("MASKBENCH_PLUGINS", "")):
            if plugin:
                self._try(plugin, functools.partial(self._load, plugin))

    def _announce(self, point: EntryPoint) -> None:
        taken = self._origins.get(point.name) or (
            _distribution(self._installed[point.name]) if point.name in self._installed else None
        )
        if taken is None:
            self._installed[point.name] = point
        else:
            self.broken[f"{point.name} of {_distribution(point)}"] = f"the name is taken by {taken}"

    def _import_installed(self, name: str) -> None:
        point = self._installed.pop(name)
        with self._from(_distribution(point)):
            self._try(name, point.load)
        if name not in self._classes and name not in self.broken:
            self.broken[name] = f"{point.value} of {_distribution(point)} does not register it"

    def _try(self, label: str, load: Callable[[], Any]) -> None:
        try:
            load()
        except Exception as error:  # a plugin may fail in any way, and must not take the others with it
            self.broken[label] = _reason(error)

    @contextlib.contextmanager
    def _from(self, source: str) -> Iterator[None]:
        outer, self._source = self._source, source
        try:
            yield
        finally:
            self._source = outer


def _ours() -> str:
    return f"maskbench {metadata.version('maskbench')}"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module


def _digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def _import_file(path: Path) -> None:
    name = f"maskbench_plugin_{path.stem}_{_digest(path)[-8:]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
