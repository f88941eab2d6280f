"""Many runs at once: evenly shared, stopped and resumed, and no crash of one touching the others."""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from maskbench.executors.local import IsolatedWorkers, LocalExecutor
from maskbench.executors.worker import WorkerOptions
from maskbench.record import read_record
from maskbench.runs.plan import make_plan
from tests.helpers.command_line import SMALL
from tests.helpers.tiny_run import tiny_config

pytestmark = pytest.mark.integration

MURDEROUS = '''"""A strategy whose process dies in the training of seed 1."""

import os
import signal

from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, hide, register


@register("murderous")
@dataclass(frozen=True, kw_only=True)
class Murderous(Strategy):
    """Kills its process once the training is under way."""

    def __call__(self, images: Tensor, context: Context) -> View:
        if len(images) == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        count = context.grid.count(0.5)
        return View(images, hide(context.uniform(context.grid.size), count), length=context.grid.size - count)
'''


def suite(folder: Path, strategies: list[str], seeds: str = "0") -> list[str]:
    (folder / "mine.yaml").write_text(yaml.safe_dump({"strategies": strategies, "seeds": seeds}))
    return ["run", "--suite", "./mine.yaml", "--jobs", "2", "--probes", "knn", *SMALL]


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    whole = [sys.executable, "-m", "maskbench", *arguments]
    return subprocess.Popen(
        whole, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed,
        start_new_session=True,
    )  # fmt: skip


def both_train(process: subprocess.Popen[str]) -> None:
    """Read on until two runs have said that they train."""
    assert process.stderr is not None
    begun = 0
    while begun < 2:
        line = process.stderr.readline()
        assert line
        begun += " steps of 50" in line


def nobody_left(group: int) -> bool:
    """Whether all processes of the group have ended, within some seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def labels(folder: Path) -> list[tuple[str, int, str]]:
    records = [read_record(path) for path in folder.glob("results/mine/runs/*/record.json")]
    return sorted((record.strategy["name"], record.seed, record.status) for record in records)


def test_a_process_that_dies_takes_no_other_run_with_it(tmp_path: Path) -> None:
    (tmp_path / "murderous.py").write_text(MURDEROUS)
    with command(tmp_path, *suite(tmp_path, ["random", "murderous", "gmml"]), "--plugin", "murderous.py") as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err.count("its process died; the same command tries it again") == 1 and "Traceback" not in err
    done = labels(tmp_path)
    assert [name for name, _, status in done if status == "complete"] == ["gmml", "none", "none", "random"]
    assert "| gmml" in out


def test_a_process_that_died_before_its_first_run_is_replaced(tmp_path: Path) -> None:
    """Those that do the runs are started while they are planned."""
    waiting = IsolatedWorkers((), 2)
    waiting.start_all()
    workers = waiting.release()
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    executor = LocalExecutor(2, WorkerOptions(), workers)
    try:
        executor.submit([make_plan(tiny_config(tmp_path))])
        results = executor.collect(120)
        if results[0][1].failure is not None:  # it was not known yet
            executor.submit([make_plan(tiny_config(tmp_path))])
            results = executor.collect(120)
    finally:
        executor.close()
    assert results[0][1].record is not None and results[0][1].record.status == "complete"


@pytest.mark.parametrize(("number", "send"), [(signal.SIGINT, os.kill), (signal.SIGTERM, os.killpg)])
def test_stopped_all_save_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None]
) -> None:
    """Also where every process gets the signal, as from `timeout`, so that workers hear it twice."""
    arguments = [*suite(tmp_path, ["random", "gmml"]), "--epochs", "200"]
    with command(tmp_path, *arguments) as process:
        both_train(process)
        send(process.pid, number)
        _, rest = process.communicate()
        assert process.wait(60) == 128 + number, rest
    assert "runs are done, those under way are saved; to go on: maskbench run --suite ./mine.yaml" in rest
    assert "Traceback" not in rest
    assert nobody_left(process.pid)
    assert len(list(tmp_path.glob("results/mine/runs/*/checkpoint.pt"))) == 2
    assert {status for _, _, status in labels(tmp_path)} <= {"complete"}
    with command(tmp_path, *arguments) as process:
        _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "goes on from step" in err
    assert {status for _, _, status in labels(tmp_path)} == {"complete"} and len(labels(tmp_path)) == 4


def test_where_the_first_process_is_killed_the_others_save_and_end(tmp_path: Path) -> None:
    arguments = [*suite(tmp_path, ["random", "gmml"]), "--epochs", "4000"]
    with command(tmp_path, *arguments) as process:
        both_train(process)
        process.kill()
    assert nobody_left(process.pid)
    assert len(list(tmp_path.glob("results/mine/runs/*/checkpoint.pt"))) == 2
    assert not list(tmp_path.glob("**/running.lock")), "they let go"


def test_parallel_runs_have_the_numbers_of_single_ones(tmp_path: Path) -> None:
    found = []
    for jobs in ("1", "2"):
        folder = tmp_path / jobs
        folder.mkdir()
        arguments = suite(folder, ["random", "attmask-high"], "0-1")
        arguments[arguments.index("--jobs") + 1] = jobs
        with command(folder, *arguments) as process:
            _, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        paths = sorted(folder.glob("results/mine/runs/*/record.json"))
        found.append({path.parent.name: read_record(path).metrics["knn/top1/mean"] for path in paths})
    assert found[0].keys() == found[1].keys() and len(found[0]) == 8
    # Another number of threads may round differently: a share of 2,000 test images moves by less than a point.
    assert max(abs(found[0][name] - found[1][name]) for name in found[0]) < 0.01
