"""Kills and faults for runs of maskbench: real processes, real SIGKILL, every operation on the disk.

`python -m tests.helpers.chaos` does all of it and prints what it found; tests/runs/test_chaos.py does less. This
process imports everything but computes nothing, so that forking it is safe and an execution takes a second or two.
"""

import argparse
import errno
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import maskbench.analysis.figures
import maskbench.analysis.tables
import maskbench.sweeps.sweep  # noqa: F401
from maskbench.record import read_record
from tests.helpers.fault_injection import Ended, execute_run, start_run, wait_for_run
from tests.helpers.run_results import comparable_results, digest, left_over_files

SETTINGS = [
    *("--epochs", "3", "--limit", "300", "--batch-size", "64", "--warmup-epochs", "1", "--img-size", "16"),
    *("--device", "cpu", "--precision", "fp32", "--probes", "knn"),
    *("--set", "train.online_every=1", "--set", "data.crop_scale=[0.5,1]"),
    *("--set", "model.kwargs={embed_dim: 32, depth: 2, num_heads: 2}"),
]
ONE = ["--strategy", "attmask-high", *SETTINGS]  # a teacher, so that there is more to save; and its control
SET = ["--strategy", "random,gmml", "--seeds", "0-1", *SETTINGS]  # with the controls, 6 runs
EVERY_STEP = ["--checkpoint-every", "0"]
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)


class Lab:
    """A folder for executions, and the numbers of uninterrupted runs, which all others must have too."""

    def __init__(self, root: Path, seed: int, log: Callable[[str], None]) -> None:
        self.root, self.random, self.log, self.number = root, random.Random(seed), log, 0
        os.environ["MASKBENCH_CACHE"] = str(root / "cache")
        execute_run(ONE, self.fresh())  # fills the cache
        self.one, self.seconds, self.operations = self.reference([*ONE, *EVERY_STEP])
        self.set, self.set_seconds, _ = self.reference([*SET, *EVERY_STEP])

    def fresh(self) -> Path:
        self.number += 1
        folder = self.root / f"{self.number:04}"
        folder.mkdir()
        return folder

    def reference(self, arguments: list[str]) -> tuple[dict[str, Any], float, int]:
        """Numbers, seconds and operations of an uninterrupted execution."""
        folder, start = self.fresh(), time.monotonic()
        outcome = execute_run(arguments, folder)
        assert outcome.code == 0, outcome.said
        return comparable_results(folder), time.monotonic() - start, int(outcome.said.rpartition("operations: ")[2])

    def finish(self, arguments: list[str], folder: Path, expected: dict[str, Any]) -> None:
        """Go on undisturbed, and compare."""
        outcome = execute_run(arguments, folder)
        assert outcome.code == 0, outcome.said
        assert comparable_results(folder) == expected, f"{folder}: other numbers"
        assert not left_over_files(folder), left_over_files(folder)

    def kills_by_the_clock(self, times: int) -> None:
        """One run at a time, killed at a random moment of its life, resumed to the end."""
        moments: dict[str, int] = {}
        for _ in range(times):
            folder = self.fresh()
            outcome = execute_run([*ONE, *EVERY_STEP], folder, kill_after=self.random.uniform(0.02, self.seconds))
            where = self.where(folder, outcome)
            moments[where] = moments.get(where, 0) + 1
            self.finish([*ONE, *EVERY_STEP], folder, self.one)
        self.log(f"{times} kills by the clock, each resumed to the same numbers; they fell: {moments}")

    def where(self, folder: Path, outcome: Ended) -> str:
        """What the killed process was at, from what it left."""
        if outcome.code != -signal.SIGKILL:
            return "after its end"
        partial = [path.name.split(".")[1] for path in folder.glob("**/.*.partial")]
        if partial:
            return f"while {partial[0]} was written"
        runs = {
            path.name.split("-")[0]: {file.name for file in path.iterdir()} for path in folder.glob("results/*/runs/*")
        }
        files = runs.get("attmask", set())
        if "record.json" in files:
            return "after the record"
        if "encoder.safetensors" in files or "predictions.npz" in files:
            return "while results were written"
        if "checkpoint.pt" in files:
            return "in training or probing"
        return "before the first step"

    def kills_at_operations(self, numbers: Iterable[int]) -> None:
        """One run, killed just before its operation number N on the disk; then again at another; then to the end."""
        count = 0
        for number in numbers:
            folder = self.fresh()
            outcome = execute_run([*ONE, *EVERY_STEP], folder, at=number)
            assert outcome.code == -signal.SIGKILL, outcome.said
            execute_run([*ONE, *EVERY_STEP], folder, at=self.random.randrange(1, 40))
            self.finish([*ONE, *EVERY_STEP], folder, self.one)
            count += 1
        self.log(
            f"{count} kills at operations on the disk of {self.operations}, each with a second one: the same numbers"
        )

    def kills_in_a_set(self, times: int) -> None:
        """Six runs, killed again and again within and between them; a finished one is never touched again."""
        folder, finished, kills = self.fresh(), dict[str, str](), 0
        while kills < times:
            outcome = execute_run(
                [*SET, *EVERY_STEP], folder, kill_after=self.random.uniform(0.5, self.set_seconds / 3)
            )
            if outcome.code == 0:
                break
            kills += 1
            now = {path.parent.name: digest(path) for path in folder.glob("results/quick/runs/*/record.json")}
            assert finished.items() <= now.items(), "a finished run was done again"
            finished = now
        self.finish([*SET, *EVERY_STEP], folder, self.set)
        now = {path.parent.name: digest(path) for path in folder.glob("results/quick/runs/*/record.json")}
        assert finished.items() <= now.items() and len(now) == 6
        self.log(f"a set of 6 runs, killed {kills} times: each exactly once, the same numbers")

    def crowds(self, sizes: tuple[int, ...]) -> None:
        """Several processes started at once on the same set: every run once, none lost; also when one is killed."""
        for size in sizes:
            for victims in (0, 1):
                folder = self.fresh()
                started = [start_run(SET, folder) for _ in range(size)]
                if victims:
                    time.sleep(self.set_seconds * self.random.uniform(0.2, 0.6))
                    os.kill(started[0][0], signal.SIGKILL)
                outcomes = [wait_for_run(child, said) for child, said in started]
                codes = [outcome.code for outcome in outcomes]
                assert codes[victims:] == [0] * (size - victims), [outcome.said for outcome in outcomes]
                assert comparable_results(folder) == self.set
                assert not left_over_files(folder), left_over_files(folder)
                begun = [line.split(":")[0] for o in outcomes for line in o.said.splitlines() if " steps of " in line]
                again = len(begun) - len(set(begun))
                assert again <= victims, f"{again} runs were done twice"
                self.log(
                    f"{size} processes on one set, {victims} killed: 6 runs, {again} begun again, the same numbers"
                )

    def faults(self, numbers: Iterable[int], errors: tuple[int, ...] = ERRORS) -> None:
        """An operation on the disk fails: one clear line, what was finished intact, and the same command goes on."""
        tried, codes = 0, dict[str, int]()
        before = self.fresh()
        assert execute_run(["--strategy", "random", *SETTINGS], before).code == 0
        for number in numbers:
            error = errors[tried % len(errors)]
            folder = self.fresh()
            shutil.copytree(before / "results", folder / "results")
            shutil.rmtree(*folder.glob("results/quick/runs/none-*"))  # the control is part of what is tried
            kept = {path: digest(path) for path in folder.glob("results/quick/runs/random-*/*")}
            outcome = execute_run([*ONE, *EVERY_STEP], folder, at=number, fault=error)
            assert "Traceback" not in outcome.said, outcome.said
            assert {path: digest(path) for path in kept} == kept, "what was finished has changed"
            assert outcome.code in (0, 1, 2), outcome.said
            if error in (errno.ENOSPC, errno.EIO):
                assert outcome.code != 2, outcome.said  # 2 is for what was asked for
            if outcome.code:
                lines = [line for line in outcome.said.splitlines() if str(folder) in line or "results/" in line]
                assert any(remedy in outcome.said for remedy in REMEDIES[error]), outcome.said
                assert lines, outcome.said
            codes[f"exit code {outcome.code}"] = codes.get(f"exit code {outcome.code}", 0) + 1
            assert execute_run([*ONE, *EVERY_STEP], folder).code == 0
            here = {name: value for name, value in comparable_results(folder).items() if name in self.one}
            assert here == self.one, f"other numbers after {errno.errorcode[error]} at operation {number}"
            tried += 1
        names = ", ".join(errno.errorcode[error] for error in errors)
        self.log(f"{tried} faults ({names}) at operations on the disk: {codes}; afterwards the same numbers")

    def small_disks(self, sizes_kib: tuple[int, ...]) -> None:
        """A file system of so many KiB that fills up."""
        full = 0
        if not sizes_kib:
            return
        for size in sizes_kib:
            with tmpfs(self.fresh(), size) as folder:
                outcome = execute_run([*ONE, *EVERY_STEP], folder)
                assert "Traceback" not in outcome.said, outcome.said
                for path in folder.glob("results/quick/runs/*/record.json"):
                    read_record(path)
                if outcome.code:
                    full += 1
                    assert "the disk is full: free some space" in outcome.said or "No space" in outcome.said, (
                        outcome.said
                    )
                    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
                    self.finish([*ONE, *EVERY_STEP], folder, self.one)
        self.log(f"{len(sizes_kib)} small disks, {full} of which filled up; enlarged, the same numbers")


REMEDIES = {
    errno.ENOSPC: ("the disk is full: free some space", "No space left on device"),
    errno.EIO: ("the disk or the network reports an error", "Input/output error"),
    errno.EACCES: ("no permission: allow writing", "Permission denied"),
}


@contextmanager
def tmpfs(folder: Path, kib: int) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def parts(lab: Lab, quick: bool) -> dict[str, Callable[[], None]]:
    """What `make chaos` does; `quick` is what continuous integration does."""
    everywhere = range(1, lab.operations + 1)
    some = {count: lab.random.sample(everywhere, count) for count in (5, 6)}
    return {
        "clock": lambda: lab.kills_by_the_clock(3 if quick else 20),
        "operations": lambda: lab.kills_at_operations(some[5] if quick else everywhere[::2]),
        "set": lambda: lab.kills_in_a_set(3 if quick else 12),
        "crowds": lambda: lab.crowds((2,) if quick else (2, 4)),
        "faults": lambda: lab.faults(some[6] if quick else everywhere),
        "disks": lambda: lab.small_disks(() if quick or os.geteuid() else (64, 256, 400, 600, 800, 1000, 1500)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("parts", nargs="*", help="clock, operations, set, crowds, faults, disks; all if none is named")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        start = time.monotonic()
        known = parts(Lab(Path(scratch), given.seed, lambda line: print(line, flush=True)), given.quick)
        for name in given.parts or known:
            known[name]()
        print(f"{time.monotonic() - start:.0f} s")
