"""Plugins that exit, raise a bare BaseException, print, or change the working directory: one line, and nothing lost."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from maskbench.record import read_record
from maskbench.runtime.interrupt import raise_ctrl_c
from tests.helpers.command_line import SMALL, Done, run_command
from tests.helpers.command_line import maskbench_anew as maskbench
from tests.helpers.planted_mistakes import PROBE

pytestmark = pytest.mark.usefixtures("own_registry")

PLUGIN = """
import os
import sys
from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, hide, register


class Odd(BaseException):
    pass


def act(moment: str) -> None:
    if moment == "{moment}":
        {action}


act("import")


@register("leaver")
@dataclass(frozen=True, kw_only=True)
class Leaver(Strategy):
    \"\"\"Does what a strategy must not.\"\"\"

    def __call__(self, images: Tensor, context: Context) -> View:
        act("call")
        if len(images) == 50:
            act("step")
        count = context.grid.count(0.5)
        return View(images, hide(context.uniform(context.grid.size), count), length=context.grid.size - count)
"""
LINE = 13  # of the action
RUN = ["run", "--plugin", "leaver.py", *SMALL, "--probes", "knn", "--output", "out"]
LEAVING = {
    "sys.exit(0)": f"leaver.py:{LINE} calls sys.exit(0)",
    "sys.exit('bye')": f"leaver.py:{LINE} calls sys.exit('bye')",
    "raise KeyboardInterrupt": f"leaver.py:{LINE} raises KeyboardInterrupt",
    "raise Odd('the moon')": f"leaver.py:{LINE} raises Odd: the moon",
}


def write_plugin(folder: Path, moment: str, action: str) -> None:
    (folder / "leaver.py").write_text(PLUGIN.format(moment=moment, action=action))


def record_of(folder: Path) -> Path:
    (path,) = folder.glob("out/runs/leaver-*/record.json")
    return path


@pytest.mark.parametrize(("action", "said"), LEAVING.items())
def test_a_plugin_that_leaves_at_import_is_broken(tmp_path: Path, action: str, said: str) -> None:
    write_plugin(tmp_path, "import", action)
    done = maskbench(*RUN, "--strategy", "random", cwd=tmp_path)
    assert done.code == 2 and f"plugin leaver.py is broken: {said}" in done.err
    assert done.err.count("\n") == 1 and not (tmp_path / "out").exists()
    listed = maskbench("list", cwd=tmp_path, MASKBENCH_PLUGINS="leaver.py")
    assert listed.code == 0 and f"leaver.py is broken: {said}" in listed.err and "random" in listed.out


@pytest.mark.parametrize(("action", "said"), LEAVING.items())
def test_a_plugin_that_leaves_at_its_first_call_is_refused(tmp_path: Path, action: str, said: str) -> None:
    write_plugin(tmp_path, "call", action)
    done = maskbench(*RUN, "--strategy", "leaver", cwd=tmp_path)
    assert done.code == 2 and said in done.err and "strategy leaver" in done.err
    assert done.err.count("\n") == 1 and not (tmp_path / "out").exists()
    if action != "sys.exit(0)":
        return
    shown = maskbench("show", "leaver", "--plugin", "leaver.py", cwd=tmp_path)
    assert shown.code == 1 and said in shown.err and shown.err.count("\n") == 1
    checked = maskbench("check", "leaver.py", cwd=tmp_path)
    assert checked.code == 1 and said in checked.out


@pytest.mark.parametrize(("action", "said"), list(LEAVING.items())[2:3])
def test_a_plugin_that_leaves_in_training_fails_its_run_alone(tmp_path: Path, action: str, said: str) -> None:
    write_plugin(tmp_path, "step", action)
    done = maskbench(*RUN, "--strategy", "leaver,random", cwd=tmp_path)
    assert done.code == 1 and f"failed: PluginExit at step 0: {said}" in done.err
    assert "| random " in done.out and "failed" in done.out
    record = read_record(record_of(tmp_path))
    assert record.status == "failed" and record.error is not None and said in record.error


def test_what_a_plugin_raises_outside_of_runs_is_one_line(tmp_path: Path) -> None:
    write_plugin(tmp_path, "call", "{}['the moon']")
    for words in (["show", "leaver"], ["bench", "strategies", "--strategy", "leaver", "--rounds", "1"]):
        done = maskbench(*words, "--plugin", "leaver.py", cwd=tmp_path)
        assert done.code == 1 and f"leaver.py:{LINE} raises KeyError: 'the moon'" in done.err, done.err
        assert done.err.count("\n") == 1


def test_a_probe_that_leaves_fails_its_run(tmp_path: Path) -> None:
    (tmp_path / "leaver.py").write_text(PROBE.replace("return result", "raise SystemExit(0)", 1))
    done = maskbench(*RUN, "--probes", "planted-probe", "--strategy", "random", cwd=tmp_path)
    assert done.code == 1 and "calls sys.exit(0)" in done.err


@pytest.mark.integration
@pytest.mark.parametrize("moment", ["call", "step"])
def test_workers_that_leave_take_no_other_run_with_them(tmp_path: Path, moment: str) -> None:
    """A worker sends the exception that it raises to the main process, which would exit by it."""
    write_plugin(tmp_path, moment, "multiprocessing.parent_process() and sys.exit(0)")
    text = (tmp_path / "leaver.py").read_text()
    (tmp_path / "leaver.py").write_text(text.replace("import os\n", "import multiprocessing\n", 1))
    (tmp_path / "mine.yaml").write_text("strategies: [leaver, random]\n")
    arguments = [argument for argument in RUN if argument not in ("--output", "out")]
    code, said = run_command(
        tmp_path, *arguments, "--output", "out", "--suite", "./mine.yaml", "--jobs", "2", timeout=300
    )
    assert code == 1 and f"leaver.py:{LINE} calls sys.exit(0)" in said and "Traceback" not in said
    states = {path.parent.name.split("-")[0]: read_record(path).status for path in tmp_path.glob("out/runs/*/*.json")}
    assert states["random"] == "complete" and states["leaver"] == "failed"


@pytest.mark.integration
def test_a_worker_that_ends_at_once_leaves_a_failed_record(tmp_path: Path) -> None:
    write_plugin(tmp_path, "step", "os._exit(0)")
    code, said = run_command(tmp_path, *RUN, "--strategy", "leaver,random", "--jobs", "2", timeout=300)
    assert code == 1 and "its process died; the same command tries it again" in said
    record = read_record(record_of(tmp_path))
    assert record.status == "failed" and record.error is not None and "its process died" in record.error
    assert maskbench("table", "out", cwd=tmp_path).out.count("failed") == 1
    assert "1 failed, 2 done" in maskbench("status", "out", cwd=tmp_path).out
    write_plugin(tmp_path, "never", "pass")
    again = maskbench(*RUN, "--strategy", "leaver", cwd=tmp_path)
    assert again.code == 0, again.err
    assert read_record(record_of(tmp_path)).status == "complete", "a failed run is tried again"


def test_what_a_plugin_prints_goes_to_stderr(tmp_path: Path) -> None:
    write_plugin(tmp_path, "call", "print('{progress}')")
    done = maskbench(*RUN, "--strategy", "leaver", "--json", cwd=tmp_path)
    assert done.code == 0 and "{progress}" in done.err
    assert [record["status"] for record in json.loads(done.out)] == ["complete", "complete"]
    write_plugin(tmp_path, "import", "print('{progress}')")
    listed = maskbench("list", "objectives", "--json", "--plugin", "leaver.py", cwd=tmp_path)
    assert "{progress}" in listed.err and "mae" in [entry["name"] for entry in json.loads(listed.out)]


@pytest.mark.integration
def test_what_processes_of_a_plugin_print_goes_to_stderr(tmp_path: Path) -> None:
    """Also by the descriptor, and from worker processes."""
    write_plugin(tmp_path, "call", "print('from-print'), os.system('echo from-child'), sys.__stdout__.write('by-name')")
    arguments = [*RUN, "--strategy", "leaver", "--jobs", "2", "--json"]
    command = [sys.executable, "-m", "maskbench", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and len(json.loads(done.stdout)) == 2
    assert all(words in done.stderr for words in ("from-print", "from-child", "by-name"))


@pytest.mark.filterwarnings("default")
def test_a_plugin_that_changes_directory_at_import_moves_nothing(tmp_path: Path) -> None:
    write_plugin(tmp_path, "import", f"os.chdir({str(tmp_path.parent)!r})")
    done = maskbench(*RUN, "--strategy", "leaver", cwd=tmp_path)
    assert done.code == 0 and record_of(tmp_path).is_file()
    assert f"changes the working directory to {tmp_path.parent}; maskbench stays here" in done.err


@pytest.mark.parametrize(("moment", "code"), [("call", 2), ("step", 1)])
def test_a_plugin_that_changes_directory_in_a_call_fails(tmp_path: Path, moment: str, code: int) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_plugin(tmp_path, moment, f"os.chdir({str(elsewhere)!r})")
    done = maskbench(*RUN, "--strategy", "leaver,random", cwd=tmp_path)
    assert done.code == code and f"changed the working directory to {elsewhere}" in done.err
    assert not list(elsewhere.iterdir())
    if moment == "step":
        assert read_record(record_of(tmp_path)).status == "failed" and "| random " in done.out
    shown = maskbench("show", "leaver", "--plugin", "leaver.py", cwd=tmp_path)
    assert shown.code == 0 and (tmp_path / "masks.png").is_file()


def test_the_handler_of_ctrl_c_is_as_before_afterwards(tmp_path: Path) -> None:
    done: Done = maskbench("list", "presets", cwd=tmp_path)
    assert done.code == 0 and signal.getsignal(signal.SIGINT) is not raise_ctrl_c
