"""Strategies from outside: files, modules, installed distributions; broken ones disturb nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maskbench.record import RunRecord
from tests.helpers.command_line import maskbench_anew as maskbench
from tests.helpers.planted_mistakes import OBJECTIVE, PROBE
from tests.helpers.records import record, write_records

GOOD = """
from maskbench.strategy import Context, Ratio, Strategy, Tensor, View, dataclass, hide, register

@register("{name}")
@dataclass(frozen=True, kw_only=True)
class Mine(Strategy):
    \"\"\"Mine.\"\"\"

    ratio: Ratio = 0.5

    def __call__(self, images: Tensor, context: Context) -> View:
        return View(images, hide(context.uniform(context.grid.size), context.grid.count(self.ratio)))
"""
TINY = ["--epochs", "1", "--limit", "200", "--batch-size", "50", "--img-size", "16", "--set", "train.warmup_epochs=0"]
TINY += ["--set", "model.kwargs={embed_dim: 32, depth: 1, num_heads: 2}", "--output", "out"]


pytestmark = pytest.mark.usefixtures("own_registry")


def plugin(folder: Path, file: str, name: str, text: str = GOOD) -> str:
    (folder / file).write_text(text.format(name=name))
    return file


def distribution(folder: Path, package: str, entry_points: dict[str, str], files: dict[str, str]) -> None:
    """What pip leaves behind for a distribution `package` 1.2 with these entry points and modules."""
    info = folder / f"{package}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    lines = "\n".join(f"{name} = {module}" for name, module in entry_points.items())
    (info / "entry_points.txt").write_text(f"[maskbench.strategies]\n{lines}\n")
    for file, text in files.items():
        (folder / file).write_text(text)


def listed(cwd: Path, *arguments: str, **environment: str) -> tuple[list[str], str]:
    result = maskbench("list", "strategies", *arguments, cwd=cwd, **environment)
    assert result.code == 0, result.err
    return [line.split()[0] for line in result.out.splitlines()], result.err


def test_a_file_runs_and_the_record_says_where_it_is_from(tmp_path: Path) -> None:
    file = plugin(tmp_path, "mine.py", "my-mask")
    result = maskbench("run", "--plugin", file, "--strategy", "my-mask:ratio=0.25", *TINY, cwd=tmp_path)
    assert result.code == 0, result.err
    assert "my-mask" in result.out
    (path,) = (tmp_path / "out" / "runs").glob("my-mask-*/record.json")
    record = json.loads(path.read_text())
    assert record["strategy"]["distribution"].startswith("mine.py sha256:")
    assert record["strategy"]["parameters"] == {"ratio": 0.25}
    assert record["diagnostics"]["realised_ratio_mean"] == 0.25


@pytest.mark.parametrize("separator", [",", os.pathsep])
def test_files_and_modules_from_the_environment(tmp_path: Path, separator: str) -> None:
    plugin(tmp_path, "one.py", "one")
    plugin(tmp_path, "two.py", "two")
    both = separator.join(["./one.py", "two"])
    names, err = listed(tmp_path, MASKBENCH_PLUGINS=both, PYTHONPATH=str(tmp_path))
    assert {"one", "two", "random"} <= set(names)
    assert err == ""


def test_a_broken_plugin_of_the_environment_is_listed_and_disturbs_nothing(tmp_path: Path) -> None:
    plugin(tmp_path, "bad.py", "bad", "import nothing_of_this_name\n")
    names, err = listed(tmp_path, MASKBENCH_PLUGINS="bad.py,missing.py")
    assert "random" in names and "bad" not in names
    assert "bad.py is broken: " in err and "nothing_of_this_name" in err
    assert "missing.py is broken: no plugin file" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_this_name\n", "plugin mine.py is broken: ModuleNotFoundError"),
        ("this is no Python\n", "plugin mine.py is broken: SyntaxError"),
        (GOOD.format(name="random"), "maskbench.strategies.random_patches"),
    ],
)
def test_a_broken_plugin_that_was_asked_for_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    result = maskbench("run", "--plugin", "mine.py", "--strategy", "random", *TINY, cwd=tmp_path)
    assert result.code == 2
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_installed_plugins_are_known_without_being_imported(tmp_path: Path) -> None:
    good = f"open('imported', 'w').close()\n{GOOD.format(name='my-mask')}"
    points = {"my-mask": "their_mask", "lost": "their_mask", "broken-mask": "their_other"}
    distribution(tmp_path, "theirs", points, {"their_mask.py": good, "their_other.py": "raise OSError('no disk')\n"})
    distribution(tmp_path, "rivals", {"random": "their_mask"}, {})
    code = "import maskbench; names = maskbench.list_strategies(); print('my-mask' in names, 'broken-mask' in names)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.stdout.split() == ["True", "True"], shown.stderr
    assert not (tmp_path / "imported").exists()
    path = str(tmp_path)
    names, err = listed(tmp_path, PYTHONPATH=path)
    assert "my-mask" in names and "broken-mask" not in names
    assert "broken-mask is broken: OSError: no disk" in err
    assert "lost is broken: their_mask of theirs 1.2 does not register it" in err
    assert "random of rivals 1.2 is broken: the name is taken by maskbench " in err
    result = maskbench("run", "--strategy", "broken-mask", *TINY, cwd=tmp_path, PYTHONPATH=path)
    assert result.code == 2 and "strategy broken-mask is broken: OSError: no disk" in result.err
    result = maskbench("run", "--strategy", "my-mask", *TINY, "--json", cwd=tmp_path, PYTHONPATH=path)
    assert result.code == 0, result.err
    assert json.loads(result.out)[-1]["strategy"]["distribution"] == "theirs 1.2"


def test_new_writes_a_strategy_that_conforms_and_a_test_that_passes(tmp_path: Path) -> None:
    assert maskbench("new", "sun-spots", cwd=tmp_path).out.split() == ["sun_spots.py", "test_sun_spots.py"]
    checked = maskbench("check", "sun_spots.py", cwd=tmp_path)
    assert checked.code == 0 and checked.out.strip().endswith("sun-spots conforms")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert tested.returncode == 0 and "2 passed" in tested.stdout, tested.stdout
    again = maskbench("new", "sun-spots", cwd=tmp_path)
    assert again.code == 2 and "sun_spots.py exists" in again.err


@pytest.mark.parametrize(
    ("name", "said"), [("random", "is taken by maskbench"), ("My_Mask", "kebab-case"), ("../x", "kebab-case")]
)
def test_new_refuses_names(tmp_path: Path, name: str, said: str) -> None:
    result = maskbench("new", name, cwd=tmp_path)
    assert result.code == 2 and said in result.err
    assert list(tmp_path.iterdir()) == []


def test_check_fails_with_1_and_says_why(tmp_path: Path) -> None:
    text = GOOD.replace("hide(context", "~hide(context").format(name="flipped")
    (tmp_path / "flipped.py").write_text(text)
    result = maskbench("check", "flipped.py", cwd=tmp_path)
    assert result.code == 1
    assert "FAIL  ratio" in result.out and "fails 1 of" in result.out


def test_check_takes_objectives_and_probes_by_file_and_by_name(tmp_path: Path) -> None:
    for name, text, old, new in (
        ("objective", OBJECTIVE, "error.mean()", "error.mean(1)"),
        ("probe", PROBE, "return result", "result"),
    ):
        (tmp_path / "sound.py").write_text(text)
        assert maskbench("check", "sound.py", cwd=tmp_path).out.endswith(f"planted-{name} conforms\n")
        assert maskbench("check", f"planted-{name}", cwd=tmp_path).code == 0
        (tmp_path / "faulty.py").write_text(text.replace(old, new, 1).replace("planted-", "faulty-"))
        faulty = maskbench("check", "faulty.py", cwd=tmp_path)
        assert faulty.code == 1 and "FAIL" in faulty.out and "faulty.py:" in faulty.out


def test_check_by_name_and_mistakes(tmp_path: Path) -> None:
    assert maskbench("check", "gmml:fill=zeros", cwd=tmp_path).code == 0
    assert "Did you mean gmml" in maskbench("check", "gmm", cwd=tmp_path).err
    (tmp_path / "empty.py").write_text("")
    assert "registers no strategy, objective or probe" in maskbench("check", "empty.py", cwd=tmp_path).err


def test_bench_prints_microseconds(tmp_path: Path) -> None:
    result = maskbench("bench", "strategies", "--strategy", "random,grid", "--rounds", "1", "--json", cwd=tmp_path)
    assert result.code == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert {(row["strategy"], row["grid"]) for row in rows} == {
        (name, grid) for name in ("random", "grid") for grid in ("224/16", "32/4")
    }
    assert all(0 < row["lowest"] <= row["us_per_image"] <= row["highest"] < 1e4 for row in rows)


def test_a_shipped_strategy_imported_by_itself_is_still_maskbenchs() -> None:
    code = "import maskbench.strategies.gmml; from maskbench.strategy import REGISTRY; print(REGISTRY.origin('gmml'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("maskbench 0.")


def named(one: RunRecord, strategy: dict[str, Any], word: str) -> RunRecord:
    """The record of a run of that strategy."""
    config = {**one.config, "strategy": {"name": strategy["name"], "parameters": strategy["parameters"]}}
    return one.model_copy(update={"strategy": strategy, "config": config, "run_id": f"my-mask-{word}-s0"})


def test_a_plugin_that_is_not_loaded_is_named(tmp_path: Path) -> None:
    """A file by the name that `maskbench new` gives it; of a run, the plugin that its record knows."""
    assert maskbench("new", "my-mask", cwd=tmp_path).code == 0
    done = maskbench("show", "my-mask", cwd=tmp_path)
    assert done.code == 2 and done.err == (
        "maskbench: unknown strategy 'my-mask'; if my_mask.py registers it, load that: --plugin my_mask.py\n"
    )
    one = record()
    mine = {"name": "my-mask", "version": 1, "parameters": {"ratio": 0.5}, "distribution": "my_mask.py sha256:01234567"}
    packaged = {**mine, "distribution": "more-masks 1.2"}
    write_records(
        tmp_path / "out",
        named(one, mine, "a"),
        named(one, packaged, "b"),
    )
    says = {
        "a": "comes from the plugin my_mask.py sha256:01234567; give it, e.g. --plugin my_mask.py",
        "b": "comes from the package more-masks 1.2; install it",
    }
    for command, run in (("show", "a"), ("show", "b"), ("rerun", "a")):
        done = maskbench(command, f"out/runs/my-mask-{run}-s0", cwd=tmp_path)
        assert done.code == 2 and says[run] in done.err
    assert "out is not the folder of a finished run: it holds 2 of them" in maskbench("show", "out", cwd=tmp_path).err
    drawn = maskbench("show", "out/runs/my-mask-a-s0", "--plugin", "my_mask.py", "--images", "2", cwd=tmp_path)
    assert drawn.code == 0 and (tmp_path / "masks.png").is_file()
