"""One run by one, two and four processes: the same masks and crops, and the same numbers but for rounding."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskbench.config.settings import RunConfig
from maskbench.errors import UsageError
from maskbench.models.batch_norm import BatchNorm1d
from maskbench.record import RunRecord
from maskbench.runs.plan import make_plan
from maskbench.runs.run import check_run
from maskbench.runtime import process_group
from maskbench.runtime.collectives import all_reduce_weighted_mean
from maskbench.runtime.launcher import Launch, detect_launch, first_node
from maskbench.training.microbatches import indivisible_reason
from tests.helpers import multi_process_training
from tests.helpers.run_results import assert_nearly_equal, read_only_record
from tests.helpers.tiny_run import tiny_config
from tests.helpers.torchrun import torchrun_command

FAST = ("block", "ibot", "barlow", "block/2", "ibot/2", "probes")
IN_FLOAT32 = tuple(f"{case}/fp32" for case in ("random", "ibot", "barlow", "hard-patches-predicted"))
IN_FLOAT64 = tuple(  # the network of hard-patches-predicted is in float32
    case for case in multi_process_training.CASES if case != "hard-patches-predicted"
)
IN_PARTS = tuple(f"{case}/{count}" for case in ("gmml", "zoom-in-mask", "attmask-high", "local-crops", "dino", "simmim")
                 for count in (2, 4))  # fmt: skip
ROBUST = "probes/robust:severities=[3]"
Found = dict[int, list[dict[str, Any]]]


def trained(folder: Path, epochs: int, *cases: str) -> Found:
    """What `multi_process_training` finds, by the number of processes, for each process."""
    command = [sys.executable, "-m", "tests.helpers.multi_process_training", str(folder), "1,2,4", str(epochs), *cases]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        count: [torch.load(folder / f"{count}-{rank}.pt", weights_only=True) for rank in range(count)]
        for count in (1, 2, 4)
    }


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return trained(tmp_path_factory.mktemp("fast"), 2, *FAST)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return trained(tmp_path_factory.mktemp("slow"), 10, *IN_FLOAT64, *IN_FLOAT32, *IN_PARTS, ROBUST)


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference between weights."""
    assert one["weights"].keys() == other["weights"].keys()
    return max(
        (value.double() - other["weights"][part][name].double()).abs().max().item()
        for part, values in one["weights"].items()
        for name, value in values.items()
    )


def the_same(one: list[Tensor], others: list[list[Tensor]]) -> bool:
    """To the last bit; but for rounding where a network paints the pixels, as adios does."""
    pairs = [(whole, torch.cat(parts)) for whole, *parts in zip(one, *others, strict=True)]
    return all(torch.equal(*pair) or (pair[0].is_floating_point() and torch.allclose(*pair, 0, 1e-9)) for pair in pairs)


def compare(found: Found, case: str, steps: int, weights: float, losses: float) -> None:
    one = found[1][0][case]
    assert len(one["losses"]) == steps
    for count in (2, 4):
        others = [process[case] for process in found[count]]
        for drawn in ("hidden", "boxes"):
            assert the_same(one[drawn], [other[drawn] for other in others]), f"{drawn} differ with {count} processes"
        for other in others:
            assert furthest(one, other) < weights
            assert other["losses"] == pytest.approx(one["losses"], abs=losses)
            assert torch.equal(other["ratios"][:1], one["ratios"][:1])
            torch.testing.assert_close(other["ratios"], one["ratios"])
            for row, expected in zip(other["curve"], one["curve"], strict=True):
                numbers = {name: value for name, value in row.items() if "cost/" not in name}
                assert numbers == pytest.approx({name: expected[name] for name in numbers}, abs=losses)


@pytest.mark.parametrize("case", ["block", "ibot", "barlow"])
def test_processes_do_not_matter(fast: Found, case: str) -> None:
    compare(fast, case, 4, weights=1e-8, losses=1e-9)


@pytest.mark.parametrize("case", ["block", "ibot"])
def test_parts_do_not_matter(fast: Found, case: str) -> None:
    compare_parts(fast, case, 2)


def test_features_are_the_same_to_the_last_bit(fast: Found) -> None:
    compare_probes(fast, "probes")


@pytest.mark.integration
def test_probes_that_read_in_order_are_the_same(slow: Found) -> None:
    compare_probes(slow, ROBUST)


def compare_probes(found: Found, case: str) -> None:
    one = found[1][0][case]
    for count in (2, 4):
        for process in found[count]:
            assert process[case]["metrics"] == one["metrics"]
            for pooling, splits in one["features"].items():
                assert all(map(torch.equal, splits, process[case]["features"][pooling]))


def compare_parts(found: Found, case: str, count: int) -> None:
    one, cut = found[1][0][case], found[1][0][f"{case}/{count}"]
    assert the_same(one["hidden"], [cut["hidden"]])
    assert furthest(one, cut) < 1e-8
    assert cut["losses"] == pytest.approx(one["losses"], abs=1e-9)


@pytest.mark.integration
@pytest.mark.parametrize("case", IN_FLOAT64)
def test_processes_do_not_matter_for_20_steps(slow: Found, case: str) -> None:
    compare(slow, case, 20, weights=1e-8, losses=1e-9)


@pytest.mark.integration
@pytest.mark.parametrize("case", IN_FLOAT32)
def test_in_float32_losses_agree(slow: Found, case: str) -> None:
    compare(slow, case, 20, weights=0.1, losses=1e-3)


@pytest.mark.integration
@pytest.mark.parametrize("case", IN_PARTS)
def test_parts_do_not_matter_for_20_steps(slow: Found, case: str) -> None:
    name, _, count = case.partition("/")
    compare_parts(slow, name, int(count))


# What is said of the machine.


def test_torchrun_and_srun_say_the_same() -> None:
    torchrun = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "gpu07"}
    srun = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_TASKS_PER_NODE": "4(x2)",
            "SLURM_JOB_NODELIST": "gpu[07-09,12],login1", "MASTER_PORT": "29500"}  # fmt: skip
    assert detect_launch(torchrun) == detect_launch(srun) == Launch(5, 8, 1, 4, "gpu07", 29500)
    assert detect_launch({}) == Launch() and detect_launch({}).is_rank0
    del srun["MASTER_PORT"]
    assert detect_launch({**srun, "SLURM_JOB_ID": "123456"}).port == 20_000 + 123456 % 10_000
    step = {**srun, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "gpu12"}
    assert (detect_launch(step).world_size, detect_launch(step).address) == (2, "gpu12")
    del step["SLURM_STEP_NUM_TASKS"]
    assert detect_launch({**step, "SLURM_NTASKS": "8"}) == Launch(), (
        "a batch script is one process, whatever it may start"
    )


@pytest.mark.parametrize(("seen", "starter", "chosen"), [(4, "srun", 1), (1, "srun", 0), (4, "torchrun", 1)])
def test_each_process_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, seen: int, starter: str, chosen: int
) -> None:
    """All see all of a machine's, or, where srun gave each task one, each sees its own alone."""
    found: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.cuda, "set_device", found.append)
    if starter == "torchrun":
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    process_group._assign_hardware("auto", Launch(1, 4, 1, 4))
    assert found == [chosen]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="4 processes on a machine with 1 GPUs"):
        process_group._assign_hardware("auto", Launch(1, 4, 1, 4))


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n[3,7]", "n3"), ("gpu[007-012],x", "gpu007"), ("a-[1-2]-ib", "a-1-ib"), ("a.b.c,d", "a.b.c")],
)
def test_the_first_node(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


# Parts.


def test_what_does_not_divide_is_refused_with_what_does(tmp_path: Path) -> None:
    assert indivisible_reason(100, 1) is None
    assert indivisible_reason(96, 2) == (
        "a batch of 96 does not divide among train.accumulate=2 parts in multiples of 32 images; "
        "try --batch-size 64 or 128"
    )
    with pytest.raises(UsageError, match="does not divide"):
        check_run(tiny_config(tmp_path, train__accumulate=4))


@pytest.mark.parametrize(("strategy", "objective"), [("none", "barlow:width=32"), ("curriculum", "mae")])
def test_what_compares_images_is_not_cut(tmp_path: Path, strategy: str, objective: str) -> None:
    with pytest.raises(UsageError, match="compares the images of a batch with each other"):
        check_run(tiny_config(tmp_path, strategy, objective=objective, train__accumulate=2))


def test_parts_leave_a_run_its_name(tmp_path: Path) -> None:
    def name(config: RunConfig) -> str:
        return make_plan(config).run_id

    assert name(tiny_config(tmp_path)) == name(tiny_config(tmp_path, train__accumulate=2))


def test_in_one_process_nothing_is_another_operation() -> None:
    features = torch.randn(8, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    ours, theirs = BatchNorm1d(5), torch.nn.BatchNorm1d(5)
    assert torch.equal(ours(features), theirs(features))
    assert all(torch.equal(one, other) for one, other in zip(ours.buffers(), theirs.buffers(), strict=True))
    centre = torch.ones(5)
    assert all_reduce_weighted_mean([features.mean(0)], [8], centre) is not centre
    assert all_reduce_weighted_mean([features[:0].mean(0)], [0], centre) is centre
    parts = [features[:2].mean(0), features[:0].mean(0), features[2:].mean(0)]
    torch.testing.assert_close(all_reduce_weighted_mean(parts, [2, 0, 6], centre), features.mean(0))


# Whole runs.


def started(folder: Path, count: int, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        torchrun_command(count, *arguments), cwd=folder, env=environment, text=True, preexec_fn=heed,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finished(folder: Path, count: int, *arguments: str) -> str:
    with started(folder, count, *arguments) as process:
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said[-3000:]
    return said


WHAT = {  # the flags of a run, by the strategy that its folder is named after
    "random": ["--epochs", "10"],
    "block-ibot": ["--epochs", "10", "--strategy", "block-ibot", "--objective", multi_process_training.IBOT],
    "none": ["--epochs", "10", "--strategy", "none", "--objective", "barlow:width=48:scale=0.1"],
}


@pytest.fixture(scope="module", params=list(WHAT))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RunRecord]:
    """What one process makes of it."""
    folder = tmp_path_factory.mktemp("whole")
    finished(folder, 1, *WHAT[request.param])
    return request.param, read_only_record(folder, request.param)


@pytest.mark.integration
@pytest.mark.parametrize("count", [2, 4])
def test_a_run_by_several_processes(tmp_path: Path, whole: tuple[str, RunRecord], count: int) -> None:
    """mae, ibot and barlow: final accuracies within 0.5 points, among all else that a record says."""
    strategy, expected = whole
    said = finished(tmp_path, count, *WHAT[strategy])
    assert_nearly_equal(read_only_record(tmp_path, strategy), expected)
    assert read_only_record(tmp_path, strategy).environment["processes"] == count
    assert said.count("20 steps of 128") == 1, "one process speaks"
    assert not list(tmp_path.glob("**/*.lock")) and not list(tmp_path.glob("**/checkpoint*"))
    assert finished(tmp_path, count, *WHAT[strategy]).count("is done already") == 2  # and the control


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    folder = tmp_path_factory.mktemp("longer")
    finished(folder, 1, "--epochs", "40")
    return read_only_record(folder)


def checkpointed(folder: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not list(folder.glob("**/checkpoint-previous.pt")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)


@pytest.mark.integration
@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 1), (1, 2)])
def test_killed_and_gone_on_with_by_another_number(tmp_path: Path, longer: RunRecord, before: int, after: int) -> None:
    with started(tmp_path, before, "--epochs", "40", "--checkpoint-every", "0") as process:
        checkpointed(tmp_path, process)
        for each in children(process.pid):
            os.kill(each, signal.SIGKILL)
        process.communicate(timeout=60)
    assert not list(tmp_path.glob("results/quick/runs/random-*/record.json"))
    assert "goes on from step" in finished(tmp_path, after, "--epochs", "40")
    assert_nearly_equal(read_only_record(tmp_path), longer)
    assert read_only_record(tmp_path).interruptions == 1
    assert any(f"processes is {after} here, {before} there" in each for each in read_only_record(tmp_path).warnings)


def children(parent: int) -> list[int]:
    """The process and all that it has started, the latter first."""
    found = [parent]
    for path in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in path.read_text().split():
            found = [*children(int(child)), *found]
    return found


@pytest.mark.integration
@pytest.mark.parametrize(("number", "whom"), [(signal.SIGTERM, "launcher"), (signal.SIGINT, "all")])
def test_a_signal_saves_once(tmp_path: Path, number: signal.Signals, whom: str) -> None:
    with started(tmp_path, 2, "--epochs", "400", "--checkpoint-every", "1") as process:
        checkpointed(tmp_path, process)
        if whom == "all":  # as a terminal does
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        said, _ = process.communicate(timeout=60)
        assert process.returncode != 0
    assert said.count("is saved at step") == 1, said[-3000:]
    assert "to go on, in any number of processes: maskbench run" in said
    assert not list(tmp_path.glob("**/*.lock"))


FAILING = """
from maskbench.runtime import collectives
from maskbench.strategy import Context, Strategy, Tensor, View, dataclass, hide, register

@register("moody")
@dataclass(frozen=True, kw_only=True)
class Moody(Strategy):
    \"\"\"Fails in one process.\"\"\"

    def __call__(self, images: Tensor, context: Context) -> View:
        if context.progress >= 0.5 and {where}:
            raise KeyError("the moon")
        count = context.grid.count(0.5)
        return View(images, hide(context.uniform(context.grid.size), count), length=context.grid.size - count)
"""


@pytest.mark.integration
@pytest.mark.parametrize("where", ["collectives.rank() == 1", "collectives.world_size() == 2"])
def test_what_fails_in_a_process_is_told_once_and_recorded(tmp_path: Path, where: str) -> None:
    (tmp_path / "moody.py").write_text(FAILING.replace("{where}", where))
    with started(tmp_path, 2, "--strategy", "moody", "--plugin", "moody.py", "--epochs", "10") as process:
        said, _ = process.communicate(timeout=100)
        assert process.returncode != 0
    lines = [line for line in said.splitlines() if "failed in process" in line and "the moon" in line]
    assert len(lines) == 1, said[-3000:]
    record = read_only_record(tmp_path, "moody")
    assert record.status == "failed" and record.error is not None and "the moon" in record.error
    assert "KeyError" in next(tmp_path.glob("**/traceback.txt")).read_text()


@pytest.mark.integration
def test_a_process_that_is_killed_takes_the_others_along(tmp_path: Path) -> None:
    with started(tmp_path, 2, "--epochs", "400", "--checkpoint-every", "1") as process:
        checkpointed(tmp_path, process)
        workers = [each for each in children(process.pid) if b"maskbench" in Path(f"/proc/{each}/cmdline").read_bytes()]
        os.kill(workers[0], signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
        assert process.returncode != 0
    assert 'Traceback (most recent call last):\n  File "/' not in said.split("torch/distributed")[0]
    assert not list(tmp_path.glob("results/quick/runs/random-*/record.json")), "it is not done, nor has it failed"


@pytest.mark.integration
def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["--jobs", "2"], "2 processes share each run here; drop --jobs and --on, or start one process"),
        (["--batch-size", "96"], "a batch of 96 does not divide among 2 processes in multiples of 32 images"),
        (["--set", "train.budget.seconds=5"], "a budget of seconds is measured in one process"),
        (["--device", "cuda:1"], ""),
    ):
        with started(tmp_path, 2, *arguments) as process:
            said, _ = process.communicate(timeout=100)
            assert process.returncode != 0
        assert said.count("maskbench: ") == 1 and message in said, said[-3000:]
        assert "exitcode  : 2" in said


@pytest.fixture(scope="module", autouse=True)
def _no_launcher() -> Iterator[None]:
    """These tests are not themselves part of a run by several processes."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name in ("RANK", "WORLD_SIZE")}
    yield
    os.environ |= kept
