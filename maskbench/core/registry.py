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
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Generic, TypeVar

from maskbench.core.component import Component
from maskbench.core.source_digest import plugin_source_digest
from maskbench.errors import UsageError, unknown_name
from maskbench.runtime.plugin_exits import PLUGIN_PREFIX, PluginExit, exits_as_errors
from maskbench.runtime.working_directory import WorkingDirectory

T = TypeVar("T", bound=Component)


class Registry(Generic[T]):
    """Components of one kind by name.

    Attributes:
        kind: What they are: "strategy", "objective" or "probe".
        broken: What could not be imported or was refused, and why.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.broken: dict[str, str] = {}
        self._package = package  # also the group of entry points
        self._classes: dict[str, type[T]] = {}
        self._origins: dict[str, str] = {}
        self._digests: dict[str, str] = {}  # of plugins, as they were imported
        self._installed: dict[str, EntryPoint] = {}  # by name, not imported yet
        self._plugins: dict[str, list[str]] = {}  # loaded by file or module -> names
        self._source = ""  # of the plugin that is being imported
        self._discovered = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator that registers a frozen dataclass.

        Args:
            name: The name that users type, in kebab-case, e.g. `my-mask`.

        Raises:
            UsageError: The name is taken or not in kebab-case, the class is no dataclass, a parameter has no default,
                or a default is out of range.
        """

        def decorate(cls: type[T]) -> type[T]:
            self._ensure_valid(name, cls)
            cls.name = name
            cls()  # checks the defaults
            self._classes[name] = cls
            self._digests.pop(name, None)
            ships = cls.__module__.startswith(f"{self._package}.")  # also if imported by itself, before discovery
            self._origins[name] = _this_distribution() if ships else self._source or cls.__module__
            return cls

        return decorate

    def _ensure_valid(self, name: str, cls: type[T]) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
            raise UsageError(f"{self.kind} name {name!r} is not kebab-case, e.g. my-{self.kind}")
        if (taken := self._classes.get(name)) is not None:
            raise UsageError(f"{self.kind} {name!r} of {cls.__module__} is already {taken.__module__}'s; rename one")
        if "__dataclass_fields__" not in vars(cls):
            raise UsageError(f"{self.kind} {name!r}: put @dataclass(frozen=True, kw_only=True) under @register")
        for field in dataclasses.fields(cls):
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise UsageError(f"{self.kind} {name!r}: parameter {field.name!r} needs a default")

    def names(self) -> list[str]:
        """All names, sorted, without those in `broken`. Installed plugins are not imported for it."""
        self._discover()
        return sorted(self._classes.keys() | self._installed.keys())

    def get(self, name: str) -> type[T]:
        """The class registered as `name`.

        Raises:
            UsageError: It is broken, or nothing has this name; the error suggests the nearest names.
        """
        self._discover()
        if name in self._installed:
            self._import_installed(name)
        if name in self.broken:
            raise UsageError(f"{self.kind} {name} is broken: {self.broken[name]}")
        if name not in self._classes:
            raise _unknown_plugin(self.kind, name) or unknown_name(self.kind, name, self.names())
        return self._classes[name]

    def origin(self, name: str) -> str:
        """Where `name` comes from: a distribution with its version, or a plugin's file or module."""
        self.get(name)
        return self._origins[name]

    def source_digest(self, name: str) -> str | None:
        """The digest of a plugin's code, see `plugin_source_digest`; None for what ships, which has its version."""
        if self.origin(name) == _this_distribution():
            return None
        if name not in self._digests:
            self._digests[name] = plugin_source_digest(self._classes[name])
        return self._digests[name]

    def create(self, name: str, **parameters: Any) -> T:
        """An instance of `name`. Parameters that are not given keep their defaults."""
        return self.get(name)().replace(**parameters)

    def load(self, plugin: str) -> list[str]:
        """Import a plugin.

        Args:
            plugin: FILE.py or package.module.

        Returns:
            The names that it registers.

        Raises:
            UsageError: It is missing or broken.
        """
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
            with self._importing_from(f"{path.name} {_file_hash(path)}" if is_file else plugin), exits_as_errors():
                if is_file:
                    _import_file(path)
                else:
                    importlib.import_module(plugin)
        except Exception as error:
            for name in set(self._classes) - before:
                del self._classes[name]
            raise UsageError(f"plugin {plugin} is broken: {_describe_error(error)}") from error
        self._plugins[key] = sorted(set(self._classes) - before)
        for name in self._plugins[key]:
            self._digests[name] = plugin_source_digest(self._classes[name])  # now: the file may be edited later
        return self._plugins[key]

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        with self._importing_from(_this_distribution()):
            for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__, f"{self._package}."):
                self._load_or_record_failure(module.name, functools.partial(importlib.import_module, module.name))
        for point in metadata.entry_points(group=self._package):
            self._add_entry_point(point)
        for plugin in re.split(f"[,{os.pathsep}]+", os.environ.get("MASKBENCH_PLUGINS", "")):
            if plugin:
                self._load_or_record_failure(plugin, functools.partial(self._load, plugin))

    def _add_entry_point(self, point: EntryPoint) -> None:
        taken = self._origins.get(point.name) or (
            _distribution_of(self._installed[point.name]) if point.name in self._installed else None
        )
        if taken is None:
            self._installed[point.name] = point
        else:
            self.broken[f"{point.name} of {_distribution_of(point)}"] = f"the name is taken by {taken}"

    def _import_installed(self, name: str) -> None:
        point = self._installed.pop(name)
        with self._importing_from(_distribution_of(point)):
            self._load_or_record_failure(name, point.load)
        if name not in self._classes and name not in self.broken:
            self.broken[name] = f"{point.value} of {_distribution_of(point)} does not register it"

    def _load_or_record_failure(self, label: str, load: Callable[[], Any]) -> None:
        """Call `load`; if it fails, `broken` says why, under `label`."""
        try:
            with exits_as_errors():
                load()
        except Exception as error:  # a plugin may fail in any way, and must not take the others with it
            self.broken[label] = _describe_error(error)

    @contextlib.contextmanager
    def _importing_from(self, source: str) -> Iterator[None]:
        """What is registered within the block has this origin."""
        outer, self._source = self._source, source
        directory = WorkingDirectory()
        try:
            yield
        finally:
            self._source = outer
            if (moved := directory.restore()) is not None:
                warnings.warn(f"{source} changes the working directory to {moved}; maskbench stays here", stacklevel=2)


def _unknown_plugin(kind: str, name: str) -> UsageError | None:
    """The error where a file lies here that is called as `maskbench new NAME` calls it; None where none does."""
    file = Path(f"{name.replace('-', '_')}.py")
    if not re.fullmatch(r"[\w-]{1,100}", name) or not file.is_file():
        return None
    return UsageError(f"unknown {kind} {name!r}; if {file} registers it, load that: --plugin {file}")


def _this_distribution() -> str:
    return f"maskbench {metadata.version('maskbench')}"


def _describe_error(error: Exception) -> str:
    return str(error) if isinstance(error, UsageError | PluginExit) else f"{type(error).__name__}: {error}"


def _distribution_of(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.module


def _file_hash(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def _import_file(path: Path) -> None:
    name = f"{PLUGIN_PREFIX}{path.stem}_{_file_hash(path)[-8:]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
