"""Shared by all tests: a cache of their own, few threads, and where real data may lie."""

import copy
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.real_data import DATA

os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["MASKBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def own_registry() -> Iterator[None]:
    """Strategies, objectives and probes that the test registers are gone after it."""
    from maskbench import objective, probe, strategy

    registries = [module.REGISTRY for module in (strategy, objective, probe)]
    for registry in registries:
        registry.names()
    kept = [{name: copy.copy(value) for name, value in vars(registry).items()} for registry in registries]
    modules = set(sys.modules)
    yield
    for registry, before in zip(registries, kept, strict=True):
        vars(registry).update(before)
    for name in set(sys.modules) - modules:  # those of plugins alone: numpy may not be imported twice
        if not (getattr(sys.modules[name], "__file__", None) or sys.prefix).startswith(sys.prefix):
            del sys.modules[name]


@pytest.fixture(scope="session")
def clothing() -> Path:
    """Photographs that are not square."""
    folder = DATA / "clothing"
    if not folder.is_dir():
        pytest.skip(f"no real photographs in {folder}")
    return folder
