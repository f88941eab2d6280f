"""What a checkpoint holds, and what a resumed run continues from: all of a run that changes while it goes on."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from maskbench.config.settings import LATER_SETTINGS
from maskbench.errors import UsageError
from maskbench.runs.checkpoint import Checkpoints
from maskbench.runs.checkpoint_schema import Unfitting, ensure_content, load_state
from maskbench.runs.plugin_sources import changed_plugins
from maskbench.runtime.collectives import run_on_rank0
from maskbench.runtime.hardware import peak_memory_mib
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training.loop import Diverged
from maskbench.training.train_state import TrainState

FORMAT = 1  # of a checkpoint: raise it when what it holds changes
# Settings that may have another value when a run is resumed.
MAY_DIFFER = ("output", "system.device", "system.workers", "data.data_dir", "data.memory_gib", "train.accumulate")
LONGEST = 80  # letters of a value in a message
MOVED = "resumed elsewhere"  # how a warning begins
MACHINE = ("versions", "cpu", "gpu", "device", "threads", "processes")  # what of the environment moves the last digits


@dataclass
class ResumeState:
    """A run under way.

    Attributes:
        state: The training.
        watch: What was measured of it.
        identity: What says that a checkpoint is this run's: versions, data, configuration.
        environment: Versions and machine.
        warnings: For the record, in order.
        interruptions: How often the run was resumed.
        started: When this execution began, on the clock of `time.perf_counter`.
        earlier_s: Seconds of the executions before this one.
        checkpoint_s: Seconds spent on checkpoints.
        earlier_memory_mib: Peak memory of the executions before this one.
    """

    state: TrainState
    watch: Stopwatch
    identity: dict[str, Any]
    environment: dict[str, Any]
    warnings: dict[str, None] = field(default_factory=dict)
    interruptions: int = 0
    started: float = field(default_factory=time.perf_counter)
    earlier_s: float = 0.0
    checkpoint_s: float = 0.0
    earlier_memory_mib: float = 0.0

    @property
    def wall_s(self) -> float:
        """Seconds over all executions; of an interrupted one, until its last checkpoint."""
        return self.earlier_s + time.perf_counter() - self.started

    @property
    def peak_memory_mib(self) -> float:
        """Over all executions."""
        return max(self.earlier_memory_mib, peak_memory_mib(self.watch.device))

    def save(self, checkpoints: Checkpoints) -> None:
        """Write a checkpoint; the watch is paused. Diverged rather than one that holds no numbers."""
        start = time.perf_counter()
        if not self.is_finite():
            raise Diverged(f"weights or loss are no numbers after step {self.state.step}; lower the learning rate")
        checkpoints.save(
            {
                "format": FORMAT,
                "identity": self.identity,
                "environment": self.environment,
                "state": self.state.state_dict(),
                "watch": self.watch.state_dict(),
                "warnings": list(self.warnings),
                "interruptions": self.interruptions,
                "wall_s": self.wall_s,
                "checkpoint_s": self.checkpoint_s,
                "peak_memory_mib": self.peak_memory_mib,
            }
        )
        self.checkpoint_s += time.perf_counter() - start

    def is_finite(self) -> bool:
        """Whether the loss so far and every weight are numbers; one wait for the device."""
        values = [self.state.loss_sum, *self.state.head.parameters()]
        values += [] if self.state.module is None else self.state.module.parameters()
        return bool(
            torch.stack([value.detach().abs().amax().float() for value in values if value.numel()]).isfinite().all()
        )

    def resume(self, checkpoints: Checkpoints, note: Callable[[str], None]) -> bool:
        """Go on from the newest checkpoint, if there is one. UsageError where it is another configuration's."""
        content = run_on_rank0(lambda: checkpoints.load(note))
        if content is None:
            return False
        if content.get("format") != FORMAT:
            raise UsageError(f"{checkpoints.newest} was written by another version of maskbench; --force starts afresh")
        try:
            ensure_content(content)
        except Unfitting as error:
            raise self._refusal(checkpoints, error) from None
        known = flatten(self.identity)
        later = {path: usual for path, usual in LATER_SETTINGS.items() if path in known}
        before = {**later, **flatten(content["identity"])}
        differences = list_differences(self.identity, before, but=MAY_DIFFER)
        if differences:
            raise UsageError(
                f"{checkpoints.newest} is of another configuration ({'; '.join(differences)}); "
                f"--force starts afresh, or choose another --output"
            )
        changed = changed_plugins(self.environment.get("plugins", {}), content["environment"].get("plugins", {}))
        if changed:
            raise UsageError(
                f"{checkpoints.newest} is of other code of {', '.join(changed)}; --force starts afresh, or bring the "
                f"former code back, or choose another --output"
            )
        try:
            load_state(self.state, content["state"])
        except Unfitting as error:
            raise self._refusal(checkpoints, error) from None
        if not self.is_finite():
            raise self._refusal(checkpoints, Unfitting("it has weights that are not finite"))
        self.watch.load_state_dict(content["watch"])
        self.warnings |= dict.fromkeys(content["warnings"])
        self.interruptions = content["interruptions"] + 1
        self.earlier_s, self.checkpoint_s = content["wall_s"], content["checkpoint_s"]
        self.earlier_memory_mib = content["peak_memory_mib"]
        here, there = ({key: known.get(key) for key in MACHINE} for known in (self.environment, content["environment"]))
        moved = list_differences(here, there)
        if moved:
            self.warnings[f"{MOVED}, so the last digits may differ: {'; '.join(moved)}"] = None
        return True

    def _refusal(self, checkpoints: Checkpoints, error: Unfitting) -> UsageError:
        return UsageError(f"{checkpoints.newest} cannot be resumed: {error}; --force starts afresh")


def list_differences(here: Mapping[str, Any], there: Mapping[str, Any], but: tuple[str, ...] = ()) -> list[str]:
    """ "a.b is 1 here, 2 there" for every value, by its dotted path, that is not the same in both."""
    ours, theirs = flatten(here), flatten(there)
    return [
        f"{path[:LONGEST]} is {str(ours.get(path))[:LONGEST]} here, {str(theirs.get(path))[:LONGEST]} there"
        for path in sorted(ours.keys() | theirs.keys())
        if ours.get(path) != theirs.get(path) and path not in but
    ]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    paths: dict[str, Any] = {}
    for key, value in nested.items():
        paths |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return paths


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine had too little memory: on CPU torch says so by a RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
