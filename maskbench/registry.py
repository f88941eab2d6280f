"""Name -> component. Small, strict and helpful: duplicates and unknown names are errors that say what to do."""

import dataclasses
import importlib
import pkgutil
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from maskbench.component import Component
from maskbench.errors import UsageError, unknown

T = TypeVar("T", bound=Component)


class Registry(Generic[T]):
    """Components of one kind; the modules of `package` are imported, hence registered, on first use."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.broken: dict[str, str] = {}  # module -> why it could not be imported
        self._package = package
        self._classes: dict[str, type[T]] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make a frozen dataclass known as `name` (kebab-case), its defaults checked."""

        def decorate(cls: type[T]) -> type[T]:
            if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
                raise UsageError(f"{self.kind} name {name!r} is not kebab-case, e.g. my-{self.kind}")
            if (taken := self._classes.get(name)) is not None:
                raise UsageError(
                    f"{self.kind} {name!r} of {cls.__module__} is already registered by {taken.__module__}; rename one"
                )
            if "__dataclass_fields__" not in vars(cls):
                raise UsageError(f"{self.kind} {name!r}: put @dataclass(frozen=True, kw_only=True) under @register")
            for field in dataclasses.fields(cls):
                if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                    raise UsageError(f"{self.kind} {name!r}: parameter {field.name!r} needs a default")
            cls.name = name
            cls()
            self._classes[name] = cls
            return cls

        return decorate

    def names(self) -> list[str]:
        """All names, sorted. Modules that fail to import are left out and named in `broken`."""
        self._discover()
        return sorted(self._classes)

    def get(self, name: str) -> type[T]:
        """The class registered as `name`; UsageError with the nearest names otherwise."""
        self._discover()
        if name not in self._classes:
            raise unknown(self.kind, name, self._classes)
        return self._classes[name]

    def create(self, name: str, **parameters: Any) -> T:
        """An instance of `name` with these parameters and the defaults of the others."""
        return self.get(name)().replace(**parameters)

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__, f"{self._package}."):
            try:
                importlib.import_module(module.name)
            except Exception as error:  # a plugin may fail in any way, and must not take the others with it
                self.broken[module.name] = f"{type(error).__name__}: {error}"
