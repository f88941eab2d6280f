"""The README shows what the tool makes and what works."""

import json
import re
import textwrap
from pathlib import Path

import pytest
import torch

from maskbench.analysis import figures, write_tables
from maskbench.analysis.results import read_results
from maskbench.probe import REGISTRY as PROBES
from maskbench.strategy import REGISTRY
from maskbench.testing.synthetic_batch import batch_for
from tests.cli.test_main import afresh, maskbench

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMITTED = sorted(path.parent for path in (ROOT / "results").glob("*/tables"))
DRAWN = [folder for folder in COMMITTED if (folder / "figures").exists()]


@pytest.mark.parametrize("page", ["README.md", "docs/objectives.md", "docs/probes.md"])
def test_tables_shown_are_the_committed_ones(page: str) -> None:
    shown = re.findall(r"<!-- (results/\S+\.md) -->\n(.*?)<!-- end -->", (ROOT / page).read_text(), re.DOTALL)
    assert shown
    for path, table in shown:
        assert table == (ROOT / path).read_text(), f"{path} and {page} differ"


@pytest.mark.usefixtures("own_registry")
def test_the_objective_shown_works_as_printed(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "objectives.md").read_text()
    source = text.split("for example `mean_colour.py`:\n\n")[1].split("\nAn Outcome may")[0]
    (tmp_path / "mean_colour.py").write_text(re.sub(r"^    ", "", source, flags=re.MULTILINE))
    (command,) = re.findall(r"^    maskbench (run --plugin .*)$", text, re.MULTILINE)
    small = ["--limit", "100", "--epochs", "2", "--warmup-epochs", "0", "--batch-size", "50", "--img-size", "16"]
    done = maskbench(*command.split(), *small, "--probes", "knn", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    trained = json.loads(done.out)[1]
    assert trained["objective"]["name"] == "mean-colour" and trained["curve"][1]["loss"] < trained["curve"][0]["loss"]
    assert trained["curve"][0]["loss/colour"] == trained["curve"][0]["loss"]


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_tables_are_regenerated_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    write_tables.write_tables(read_results(folder), tmp_path)
    stored = sorted((folder / "tables").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in stored]
    for path in stored:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize("folder", DRAWN, ids=lambda path: path.name)
def test_committed_figures_are_regenerated(folder: Path, tmp_path: Path) -> None:
    figures.write_figures(read_results(folder), tmp_path)
    stored = folder / "figures" / "matplotlib-version.txt"
    same_version = stored.read_text() == (tmp_path / stored.name).read_text()
    for path in sorted((folder / "figures").iterdir()):
        assert (tmp_path / path.name).exists()
        if same_version:
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path


@pytest.mark.usefixtures("own_registry")
def test_readme_strategy_works_as_printed(tmp_path: Path) -> None:
    source = README.split("for example:\n\n")[1].split("\nThen look at it")[0]
    (tmp_path / "vertical_bands.py").write_text(re.sub(r"^    ", "", source, flags=re.MULTILINE))
    checked = afresh("check", "vertical_bands.py", cwd=tmp_path)
    assert checked.code == 0, checked.out
    strategy = REGISTRY.create("vertical-bands", ratio=0.25)
    hidden = batch_for(strategy).view(strategy).hidden.view(-1, 8, 8)
    assert torch.equal(hidden.all(1), hidden.any(1)), "whole columns"
    assert (hidden.any(1).sum(1) == 2).all()
    commands = re.findall(r"^    maskbench ((?:run|show) .*--plugin.*)$", README, re.MULTILINE)
    assert len(commands) == 2
    for line in commands:
        dry = ["--print-config"] if line.startswith("run") else []
        assert afresh(*line.split(), *dry, cwd=tmp_path).code == 0, line


@pytest.mark.parametrize("page", sorted(path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md")), ids=str)
def test_pages_name_only_files_that_exist(page: Path) -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert (ROOT / page.parent / path).exists(), path
    for path in re.findall(r"`((?:maskbench|tests|strategies)/\w+(?:/\w+)*\.py)`", (ROOT / page).read_text()):
        assert (ROOT / path).exists(), path


def test_readme_names_only_files_that_exist() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / path).exists(), path


def test_readme_commands_parse(tmp_path: Path) -> None:
    for line in re.findall(r"^    maskbench (.*?)(?:  +#.*)?$", README, re.MULTILINE):
        arguments = line.split()
        if arguments[0] == "run" and not {"--download", "--plugin"} & set(arguments):
            assert maskbench(*arguments, "--print-config", cwd=tmp_path).code == 0, line
        elif arguments[0] == "list":
            assert maskbench(*arguments, cwd=tmp_path).code == 0, line


def test_strategies_page_is_what_the_code_says() -> None:
    from maskbench.catalog import listing, markdown

    entries, _ = listing.KINDS["strategies"]()
    listing.with_diagnostics(entries)
    timings = json.loads((ROOT / markdown.TIMINGS).read_text())
    made, stored = markdown.page(entries, timings), (ROOT / markdown.PAGE).read_text()
    # Masks that follow an encoder as initialised may differ in a last digit between processors.
    digits = re.compile(r" *\b\d+\.\d\d\b *|-{3,}:?")
    assert digits.sub("#", made) == digits.sub("#", stored), "run `python -m maskbench.catalog.markdown`"


@pytest.mark.usefixtures("own_registry")
def test_the_probe_in_the_docs_can_be_asked(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "probes.md").read_text()
    code = text[text.index("    from dataclasses import dataclass") : text.index("`Probe` instead of")]
    (tmp_path / "centroid.py").write_text(textwrap.dedent(code))
    flags = ("--epochs", "1", "--limit", "300", "--probes", "centroid", "--output", "out")
    done = maskbench("run", "--plugin", "centroid.py", *flags, cwd=tmp_path)
    assert done.code == 0, done.err
    assert "centroid top1 mean" in done.out


def test_every_probe_is_in_the_docs_with_its_version() -> None:
    text = (ROOT / "docs" / "probes.md").read_text()
    for name in PROBES.names():
        assert f"## {name}, version {PROBES.get(name).version}\n" in text
