"""Shared by all tests: a cache of their own, few threads, and where real data may lie."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("MPLBACKEND", "agg")
DATA = Path(os.environ.get("MASKBENCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["MASKBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def clothing() -> Path:
    """Photographs that are not square."""
    folder = DATA / "clothing"
    if not folder.is_dir():
        pytest.skip(f"no real photographs in {folder}")
    return folder
