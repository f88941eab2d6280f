"""Every command, link, table and piece of code in the docs is real."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
import typer
import yaml

from maskbench.analysis import figures
from maskbench.analysis.results import read_results
from maskbench.analysis.tables import write_tables
from maskbench.cli.main import COMMANDS, app
from maskbench.config.suite import read_suite
from maskbench.probe import REGISTRY as PROBES
from maskbench.strategy import REGISTRY
from maskbench.testing.synthetic_batch import make_batch
from tests.helpers.command_line import SMALL, maskbench, maskbench_anew
from tests.helpers.markdown_pages import (
    DOCS,
    GUIDES,
    PAGES,
    PLUGINS,
    README,
    ROOT,
    anchors,
    blocks,
    inline_commands,
    links,
    maskbench_commands,
    name_of,
    shell_lines,
)

COMMITTED = sorted(path.parent for path in (ROOT / "results").glob("*/tables"))
DRAWN = [folder for folder in COMMITTED if (folder / "figures").exists()]
SUITES = {"mine.yaml": DOCS / "suites.md", "ratios.yaml": DOCS / "choose.md"}
PROGRAMS = {"make", "maskbench", "pip", "srun", "torchrun"}
GROUP = typer.main.get_command(app)


def _hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """The folder of somebody who follows the docs: their plugins and suites are in it."""
    for plugin in PLUGINS.glob("*.py"):
        shutil.copy(plugin, tmp_path)
    for name, page in SUITES.items():
        (tmp_path / name).write_text(blocks(page, "yaml")[0])
    return tmp_path


# Commands


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_commands_are_understood(page: Path) -> None:
    for line in shell_lines(page):
        assert line.split()[0] in PROGRAMS, line
    for name, *arguments in maskbench_commands(page):
        assert name in COMMANDS, name
        GROUP.get_command(None, name).make_context(name, list(arguments))  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_commands_in_the_text_name_real_options(page: Path) -> None:
    for name, *arguments in inline_commands(page):
        if name == "--help":
            continue
        assert name in COMMANDS, name
        known = {"--help", *(option for each in GROUP.commands[name].params for option in each.opts)}  # type: ignore[attr-defined]
        for argument in arguments:
            assert not argument.startswith("--") or argument.partition("=")[0] in known, f"{name} {argument}"


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_runs_can_be_planned(page: Path, reader: Path) -> None:
    commands = {tuple(command) for command in maskbench_commands(page) if command[0] == "run"}
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", embed_dim=64, depth=1, num_heads=1, num_classes=0)
    torch.save(vit.state_dict(), reader / "dino_vits16.pth")  # of --init
    for command in sorted(commands):
        run = maskbench_anew if "--plugin" in command else maskbench
        done = run(*command, "--print-config", cwd=reader)
        assert done.code == 0, f"{' '.join(command)}: {done.err}"


@pytest.mark.parametrize("page", GUIDES, ids=name_of)
def test_lists_are_shown(page: Path, tmp_path: Path) -> None:
    for command in maskbench_commands(page):
        if command[0] == "list":
            assert maskbench(*command, cwd=tmp_path).code == 0, command


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", page.read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


# Links


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        generated = target.parent == DOCS / "reference" and target.stem in ("settings", "command-line")
        assert generated or target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_named_in_the_text_exist(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"`((?:maskbench|tests|strategies|benchmarks|examples|docs)/[\w/]+(?:/|\.\w+))`", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r'^--8<-- "(.*)"$', text, re.MULTILINE):
        assert (ROOT / path).exists(), path


# Tables and figures


def test_the_table_in_the_readme_is_the_committed_one() -> None:
    shown = re.findall(r"<!-- (results/\S+\.md) -->\n(.*?)<!-- end -->", README.read_text(), re.DOTALL)
    assert shown
    for path, table in shown:
        assert table == (ROOT / path).read_text(), f"{path} and README.md differ"


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_tables_are_regenerated_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    write_tables(read_results(folder), tmp_path)
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


# Code


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("name", ["vertical_bands", "follow_the_teacher", "learned_fog"])
def test_strategies_in_the_docs_keep_the_contract(name: str, reader: Path) -> None:
    done = maskbench_anew("check", f"{name}.py", cwd=reader)
    assert done.code == 0, done.out


@pytest.mark.usefixtures("own_registry")
def test_vertical_bands_hide_whole_columns_and_check_says_what_the_docs_show(reader: Path) -> None:
    assert maskbench_anew("check", "vertical_bands.py", cwd=reader).out in blocks(DOCS / "write-a-strategy.md", "text")
    strategy = REGISTRY.create("vertical-bands", ratio=0.25)
    hidden = make_batch(strategy).view(strategy).hidden.view(-1, 8, 8)
    assert torch.equal(hidden.all(1), hidden.any(1))
    assert (hidden.any(1).sum(1) == 2).all()


@pytest.mark.usefixtures("own_registry")
def test_the_learned_strategy_in_the_docs_trains(reader: Path) -> None:
    flags = (*SMALL, "--strategy", "learned-fog", "--probes", "knn")
    done = maskbench_anew("run", "--plugin", "learned_fog.py", *flags, cwd=reader)
    assert done.code == 0, done.err


@pytest.mark.usefixtures("own_registry")
def test_the_objective_in_the_docs_learns(reader: Path) -> None:
    (command,) = [each for each in maskbench_commands(DOCS / "write-an-objective.md") if each[0] == "run"]
    small = ["--limit", "100", "--epochs", "2", "--warmup-epochs", "0", "--batch-size", "50", "--img-size", "16"]
    done = maskbench_anew(*command, *small, "--probes", "knn", "--json", cwd=reader)
    assert done.code == 0, done.err
    trained = json.loads(done.out)[1]
    assert trained["objective"]["name"] == "mean-colour"
    assert trained["curve"][1]["loss"] < trained["curve"][0]["loss"]
    assert trained["curve"][0]["loss/colour"] == trained["curve"][0]["loss"]


@pytest.mark.usefixtures("own_registry")
def test_the_probe_in_the_docs_measures(reader: Path) -> None:
    flags = (*SMALL, "--probes", "centroid", "--output", "out")
    done = maskbench_anew("run", "--plugin", "centroid.py", *flags, cwd=reader)
    assert done.code == 0, done.err
    assert "centroid top1 mean" in done.out


@pytest.mark.parametrize("page", [page for page in GUIDES if blocks(page, "python")], ids=name_of)
def test_python_in_the_docs_runs(page: Path) -> None:
    names = {"images": torch.randn(4, 3, 224, 224), "index": torch.arange(4)}
    for code in blocks(page, "python"):
        exec(code, names)


def test_yaml_in_the_docs_is_a_suite(reader: Path) -> None:
    for name in SUITES:
        read_suite(str(reader / name))
        assert "strategies" in yaml.safe_load((reader / name).read_text())


@pytest.mark.parametrize(
    ("page", "command"),
    [("write-a-strategy.md", "run --strategy random:ratio=1.5"), ("objectives.md", "run --strategy none")],
)
def test_messages_are_those_of_the_docs(page: str, command: str, tmp_path: Path) -> None:
    assert maskbench(*command.split(), cwd=tmp_path).err in blocks(DOCS / page, "text")


# What the pages cover


def test_every_probe_is_in_the_docs_with_its_version() -> None:
    text = (DOCS / "probes.md").read_text()
    for name in PROBES.names():
        assert f"## {name}, version {PROBES.get(name).version}\n" in text


def test_every_command_and_option_is_in_the_reference() -> None:
    page = _hooks().command_line_page()
    for name in COMMANDS:
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for parameter in GROUP.commands[name].params:  # type: ignore[attr-defined]
            assert parameter.opts[0] in section or parameter.param_type_name == "argument", f"{name} {parameter.opts}"


def test_every_setting_is_in_the_reference(tmp_path: Path) -> None:
    page = _hooks().settings_page()
    settings = yaml.safe_load(maskbench("run", "--print-config", cwd=tmp_path).out)
    for section, values in settings.items():
        inside = values if isinstance(values, dict) and section not in ("strategy", "objective") else None
        for path in [f"{section}.{name}" for name in inside] if inside else [section]:
            assert f"`{path}`" in page, path


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    for page in DOCS.glob("*.md"):
        assert f": {page.name}\n" in navigation, page.name


@pytest.mark.integration
def test_the_site_builds_strictly_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "search" / "search_index.js").exists()
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|link|img)[^>]*?(?:src|href)=\"?(https?://[^\" >]+)", page.read_text())
        assert not [address for address in loaded if "canonical" not in address], page
