"""The README shows what the tool makes and what works."""

import re
from pathlib import Path

import pytest
import torch

from maskbench.analysis import plots, tables
from maskbench.analysis.results import frame, read_records
from maskbench.strategy import REGISTRY, Strategy
from tests.signals import batch_for, view_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMITTED = sorted(path.parent for path in (ROOT / "results").glob("*/tables"))


def test_readme_tables_are_the_committed_ones() -> None:
    shown = re.findall(r"<!-- (results/\S+\.md) -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert shown
    for path, table in shown:
        assert table == (ROOT / path).read_text(), f"{path} and the README differ"


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_tables_are_regenerated_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    tables.write_tables(frame(read_records(folder)), tmp_path)
    for path in sorted((folder / "tables").iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_figures_are_regenerated(folder: Path, tmp_path: Path) -> None:
    records = read_records(folder)
    plots.write_figures(records, frame(records), tmp_path)
    stored = folder / "figures" / "matplotlib-version.txt"
    same_version = stored.read_text() == (tmp_path / stored.name).read_text()
    for path in sorted((folder / "figures").iterdir()):
        assert (tmp_path / path.name).exists()
        if same_version:
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path


def test_readme_strategy_works_as_printed() -> None:
    source = README.split("`strategies/vertical_bands.py`:\n\n")[1].split("\nThen `maskbench show")[0]
    source = re.sub(r"^    ", "", source, flags=re.MULTILINE)
    namespace: dict[str, type[Strategy]] = {"__name__": "readme_example"}  # type: ignore[dict-item]
    try:
        exec(source, namespace)
        strategy = REGISTRY.create("vertical-bands", ratio=0.25)
        batch = batch_for(strategy)
        hidden = view_of(strategy, batch).hidden.view(-1, 8, 8)
        assert torch.equal(hidden.all(1), hidden.any(1)), "whole columns"
        assert (hidden.any(1).sum(1) == 2).all()
    finally:
        REGISTRY._classes.pop("vertical-bands", None)


def test_readme_names_only_files_that_exist() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_readme_commands_parse(tmp_path: Path) -> None:
    from tests.test_cli import maskbench

    for line in re.findall(r"^    maskbench (.*?)(?:  +#.*)?$", README, re.MULTILINE):
        arguments = line.split()
        if arguments[0] == "run" and "--download" not in arguments:
            assert maskbench(*arguments, "--print-config", cwd=tmp_path).code == 0, line
        elif arguments[0] == "list":
            assert maskbench(*arguments, cwd=tmp_path).code == 0, line
