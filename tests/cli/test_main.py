"""The command line as users meet it: a process with arguments, output, errors and an exit code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from maskbench.catalog.listing import KINDS
from maskbench.cli.main import COMMANDS
from tests.helpers.command_line import SMALL, Done, maskbench, maskbench_process


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    folder = tmp_path_factory.mktemp("cli")
    return folder, maskbench_process("run", "--strategy", "random,gmml", *SMALL, "--output", "out", cwd=folder)


def test_run_prints_a_table_and_says_where_things_are(results: tuple[Path, Done]) -> None:
    folder, done = results
    assert done.code == 0, done.err
    for word in ("random-init", "gmml", "| random", "linear mean", "images/s", "mask share", "realised ratio"):
        assert word in done.out
    assert "tables: out/tables" in done.err
    assert "out/figures/accuracy-against-cost.png" in done.err
    assert len(list((folder / "out" / "runs").glob("*/record.json"))) == 3


def test_second_run_repeats_nothing(results: tuple[Path, Done]) -> None:
    folder, _ = results
    again = maskbench("run", "--strategy", "gmml", *SMALL, "--output", "out", "--json", cwd=folder)
    assert again.code == 0
    assert again.err.count("is done already") == 2
    assert [record["strategy"]["name"] for record in json.loads(again.out)] == ["none", "gmml"]


@pytest.mark.parametrize("kind", ["md", "csv", "json"])
def test_table_regenerates_what_was_deleted(results: tuple[Path, Done], kind: str) -> None:
    folder, _ = results
    path = folder / "out" / "tables" / f"comparison.{kind}"
    before = path.read_text()
    path.unlink()
    shown = maskbench("table", "out", "--format", kind, cwd=folder)
    assert shown.code == 0
    assert shown.out == before == path.read_text()


@pytest.mark.parametrize("command", ["table", "plot", "report"])
def test_a_folder_without_records_is_refused(command: str, results: tuple[Path, Done], tmp_path: Path) -> None:
    """With the results folders in it, and no file written."""
    folder, _ = results
    done = maskbench(command, ".", cwd=folder)
    assert done.code == 2 and "no records in .; give one of out" in done.err
    assert maskbench(command, str(tmp_path), cwd=tmp_path).err.count("run `maskbench run --output") == 1
    assert not list(tmp_path.iterdir()) and not (folder / "tables").exists()


def test_plot_prints_its_files(results: tuple[Path, Done]) -> None:
    folder, _ = results
    shown = maskbench("plot", "out", cwd=folder)
    assert shown.code == 0
    assert all((folder / line).stat().st_size > 1000 for line in shown.out.split())
    assert {"accuracy-against-cost", "learning-curves"} <= {Path(line).stem for line in shown.out.split()}
    assert len(shown.out.split()) == len(list((folder / "out" / "figures").glob("*.*"))) - 1, "and the version"


def test_show(tmp_path: Path) -> None:
    shown = maskbench("show", "random", "attmask-high:ratio=0.3", "zoom-in-mask", "--images", "2", cwd=tmp_path)
    assert shown.code == 0, shown.err
    assert shown.out.strip() == "masks.png"
    assert (tmp_path / "masks.png").stat().st_size > 10_000


def test_a_warm_up_as_long_as_the_training_is_said(results: tuple[Path, Done], tmp_path: Path) -> None:
    said = "peak lr 0.0002, reached at the end: all of it is warm-up, cpu"
    done = maskbench("run", *SMALL, "--warmup-epochs", "1", "--lr", "0.0002", cwd=tmp_path)
    assert done.code == 0 and said in done.err
    assert "warm-up" not in results[1].err


@pytest.mark.parametrize("kind", ["strategies", "objectives", "probes", "datasets", "presets", "suites"])
def test_list(kind: str, tmp_path: Path) -> None:
    shown, machine = maskbench("list", kind, cwd=tmp_path), maskbench("list", kind, "--json", cwd=tmp_path)
    assert shown.code == machine.code == 0
    names = [entry["name"] for entry in json.loads(machine.out)]
    assert [line.split()[0] for line in shown.out.splitlines()] == names


def test_the_help_of_list_names_every_kind(tmp_path: Path) -> None:
    shown = maskbench("list", "--help", cwd=tmp_path)
    assert all(kind in shown.out for kind in KINDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --strategy gml", "unknown strategy 'gml'. Did you mean gmml?"),
        ("run --strategy gmml:fil=zeros", "unknown parameter of gmml 'fil'. Did you mean fill?"),
        ("run --strategy random:ratio=1.5", "random: ratio=1.5 should be less than 1"),
        ("run --strateg random", "No such option: --strateg"),
        ("run --epochs few", "--epochs"),
        ("run --preset quik", "unknown preset 'quik'. Did you mean quick?"),
        ("run --img-size 30", "does not divide into patches"),
        ("run --dataset ./nowhere", "no folder nowhere"),
        ("run --set train.epoch=3", "unknown setting 'train.epoch'"),
        ("run --output /dev/null/x --limit 100", "cannot write to /dev/null/x"),
        ("table nowhere", "no folder nowhere"),
        ("list strategy", "unknown kind 'strategy'. Did you mean strategies?"),
        ("tabel out", "No such command 'tabel'"),
        ("show gml", "unknown strategy 'gml'"),
        ("show random --output /dev/null/x.png", "cannot write"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(arguments: str, message: str, tmp_path: Path) -> None:
    done = maskbench(*arguments.split(), cwd=tmp_path)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
    assert list(tmp_path.iterdir()) == []


def test_print_config_can_be_used_as_a_config(tmp_path: Path) -> None:
    shown = maskbench("run", "--strategy", "gmml", "--epochs", "3", "--print-config", cwd=tmp_path)
    assert shown.code == 0
    (tmp_path / "mine.yaml").write_text(shown.out)
    again = maskbench("run", "--config", "mine.yaml", "--print-config", cwd=tmp_path)
    assert again.out == shown.out
    assert "epochs: 3" in shown.out


def test_the_config_that_is_printed_is_of_the_strategy_asked_for(tmp_path: Path) -> None:
    """And not of the control, which comes first."""
    shown = maskbench("run", "--strategy", "gmml:fill=zeros", "--print-config", cwd=tmp_path)
    config = yaml.safe_load(shown.out)
    assert config["strategy"] == {"name": "gmml", "parameters": {"fill": "zeros"}}
    assert config["objective"]["name"] == "mae"


def test_without_a_command_there_is_help(tmp_path: Path) -> None:
    done = maskbench(cwd=tmp_path)
    lines = (done.out + done.err).splitlines()
    assert done.code == 2 and lines[0].startswith("Usage: ") and len(lines) > len(COMMANDS)


def test_importing_loads_no_torch(tmp_path: Path) -> None:
    code = "import maskbench, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0
