"""One process's execution of a run: from the start or the last checkpoint to the record."""

import errno
import os
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import parent_process
from pathlib import Path
from typing import Literal

import torch
from filelock import SoftFileLease
from torch import Tensor

from maskbench import strategy as strategies
from maskbench.data.prefetch import prefetch
from maskbench.data.splits import Splits
from maskbench.errors import AlreadyReported, Failure, UsageError
from maskbench.probe import ProbeResult, Subject
from maskbench.probes.online_knn import QUERY_IMAGES, OnlineKnn
from maskbench.record import VALIDATION, RunRecord
from maskbench.runs.artifacts import write_artifacts, write_config, write_curve
from maskbench.runs.checkpoint import Checkpoints
from maskbench.runs.lease import is_lost
from maskbench.runs.plan import Plan, training_splits
from maskbench.runs.reporter import Reporter
from maskbench.runs.resume import ResumeState, is_out_of_memory
from maskbench.runs.run_facts import (
    describe_component,
    describe_data,
    describe_model,
    keep_readable,
    measure_costs,
    measure_views,
)
from maskbench.runs.useless_masks import count_useless_masks
from maskbench.runtime.atomic_files import describe_os_error, write_atomically
from maskbench.runtime.collectives import all_reduce_max, rank, run_on_rank0, world_size
from maskbench.runtime.interrupt import Interrupted, catch_stop_signals
from maskbench.runtime.plugin_exits import exits_as_errors
from maskbench.runtime.process_group import PEER_LOST, PeerLost, is_peer_lost, record_first_failure
from maskbench.runtime.working_directory import WorkingDirectory, describe_move
from maskbench.training.collapse import ALIKE, images_are_alike, signs_of_collapse
from maskbench.training.data_order import remaining_indices
from maskbench.training.forgetting import sign_of_forgetting
from maskbench.training.loop import Diverged, pretrain
from maskbench.training.schedules import steps_per_epoch
from maskbench.training.step import Trainer
from maskbench.training.train_state import TrainState

CHECKPOINT_EVERY_S = 300.0
SAMPLE = 64  # images that tell whether the data vary
WRITING_SHARE = 0.01  # of the time, at most, unless the user says how often


class TakenOver(Failure):
    """Another process holds the run now."""


class Failed(Failure):
    """A run that could not be finished, and what is recorded of it."""

    def __init__(self, message: str, record: RunRecord) -> None:
        super().__init__(message)
        self.record = record


@dataclass
class Execution:
    """One process's execution of a run, from the start or the last checkpoint to the record.

    Attributes:
        plan: The run.
        splits: Its data.
        probed: The data that the probes are about.
        progress: All that changes while it goes on.
        checkpoints: Where it is saved.
        lease: Of the run's folder, which rank 0 holds for all processes of the run; it alone reads and writes.
        reporter: Gets what happens.
        checkpoint_every: Seconds; None: 300, or as much more as keeps writing at 1 % of the time.
        directory: In which relative paths begin.
    """

    plan: Plan
    splits: Splits
    probed: Splits
    progress: ResumeState
    checkpoints: Checkpoints
    lease: SoftFileLease | None
    reporter: Reporter
    checkpoint_every: float | None
    directory: WorkingDirectory = field(default_factory=WorkingDirectory)

    def __call__(self) -> RunRecord:
        """The record, written.

        UsageError for a checkpoint that is not this run's; Failed, which is recorded too.
        """
        record = None
        try:
            if self.progress.resume(self.checkpoints, self.reporter.note):
                self.reporter.note(f"{self.plan.run_id} goes on from step {self.progress.state.step}")
            with exits_as_errors():
                record = self.train_and_probe()
        except UsageError:
            raise
        except Exception as error:
            raise self.record_failure(error) from error
        finally:
            self.reporter.end(record)
        return record

    def train_and_probe(self) -> RunRecord:
        """Train, probe, write every file, the record last."""
        run_on_rank0(self.prepare_folder)
        error = None
        results: list[ProbeResult] = []
        try:
            self.train()
            self.reporter.probing()
            results = self.run_probes()
        except Diverged as failure:
            error = str(failure)
        except UsageError as changed:  # since all was checked: an image can no longer be read
            raise Failure(str(changed)) from changed
        return run_on_rank0(lambda: self.write_outputs(error, results))

    def prepare_folder(self) -> None:
        """Remove what earlier executions said of the end, and write the configuration."""
        for stale in ("record.json", "traceback.txt"):
            (self.plan.folder / stale).unlink(missing_ok=True)
        write_config(self.plan)

    def write_outputs(self, error: str | None, results: list[ProbeResult]) -> RunRecord:
        """Write all files, the record last. error: why the training diverged; None if it did not."""
        if error is not None:
            error = f"{error}; {self.checkpoints.describe_last(self.reporter.note)}"
        self.ensure_lease_held()
        write_artifacts(self.plan, self.splits, self.probed, self.progress.state, results)
        record = self.make_record("complete" if error is None else "diverged", error, results)
        self.ensure_lease_held()
        record.write(self.plan.folder / "record.json")
        if error is None:
            with suppress(OSError):  # what counts is written
                self.checkpoints.remove()
        return record

    def train(self) -> None:
        """Pre-train to the end; save now and then, when a signal asks to stop, and at the end."""
        plan, splits, state = self.plan, training_splits(self.plan, self.splits), self.progress.state
        config = plan.config
        if not plan.objective.trains:
            self.reporter.begin(plan, splits, 0)
            return
        if state.step == 0:
            self.warn_of_useless_masks()
        total = config.train.epochs * steps_per_epoch(config, len(splits.train))
        saved, interval = time.monotonic(), self.checkpoint_interval(0.0)

        def on_step(state: TrainState, loss: float | None) -> None:
            nonlocal saved, interval
            self.ensure_directory_kept()
            self.reporter.step(state, loss)
            if self.lease is not None and self.lease.compromise is not None:
                self.ensure_lease_held()
            now = time.monotonic()
            signal, due = all_reduce_max(stop_signal() or 0, now - saved >= interval)
            if not (signal or due):
                return
            self.progress.watch.pause()
            self.save()
            self.progress.watch.resume()
            saved = time.monotonic()
            interval = self.checkpoint_interval(saved - now)
            if signal:
                raise Interrupted(f"{plan.run_id} is saved at step {state.step} of {total}", signal)

        with catch_stop_signals(ignore_repeats=world_size() > 1 or parent_process() is not None) as stop_signal:
            self.reporter.begin(plan, splits, total)
            online = OnlineKnn(self.probed, config.system)
            upcoming = remaining_indices(config, splits.train.labels, state.step)
            with prefetch(splits.train, upcoming, config.system.workers) as train:
                trainer = Trainer(config, replace(splits, train=train), plan.strategy, state, self.progress.watch)
                pretrain(trainer, online=lambda: online(state.head.encoder), on_step=on_step, on_epoch=self.on_epoch)
            self.save()

    def warn_of_useless_masks(self) -> None:
        """Report and record how many masks of a sample hide nothing, or everything."""
        plan = self.plan
        warning = count_useless_masks(plan.config, plan.strategy, self.splits, self.progress.state).warning
        if warning is not None:
            self.reporter.note(f"{plan.run_id}: {warning}")
            self.progress.warnings[warning] = None

    def on_epoch(self, row: dict[str, float]) -> None:
        """Write the curve so far, and report signs of collapse as they appear."""
        run_on_rank0(self.write_curve)
        self.reporter.epoch(row)
        signs = signs_of_collapse(row, len(self.probed.validation))
        signs += sign_of_forgetting(self.progress.state.curve, min(QUERY_IMAGES, len(self.probed.validation)))
        if signs and images_are_alike(self.sample_pixels()):
            signs = [ALIKE]
        for sign in signs:
            if sign not in self.progress.warnings:
                self.reporter.note(f"{self.plan.run_id}: epoch {row['epoch']}: {sign}")
            self.progress.warnings[sign] = None

    def sample_pixels(self) -> Tensor:
        """Pixels of up to SAMPLE training images, evenly spaced."""
        train = self.probed.train
        every = max(1, len(train) // SAMPLE)
        return train.take(torch.arange(0, len(train), every, device=train.labels.device)[:SAMPLE]).pixels

    def run_probes(self) -> list[ProbeResult]:
        """Probe on test; on validation where settings are being chosen, under names that say so."""
        plan, config = self.plan, self.plan.config
        splits = self.probed.without_test() if plan.is_trial else self.probed
        subject = Subject(self.progress.state.head.encoder, splits, config.system, config.seed)
        if not plan.is_trial:
            return [probe(subject) for probe in plan.probes]
        of_probes = [probe(subject).metrics for probe in plan.probes]
        return [ProbeResult({VALIDATION + name: value for name, value in each.items()}) for each in of_probes]

    def save(self) -> None:
        """Write a checkpoint, if the run is still this process's."""

        def save_here() -> None:
            self.ensure_lease_held()
            self.progress.save(self.checkpoints)

        run_on_rank0(save_here)

    def write_curve(self) -> None:
        """Write the learning curve as far as it goes, if the run is still this process's."""
        self.ensure_lease_held()
        write_curve(self.plan.folder, self.progress.state)

    def ensure_lease_held(self) -> None:
        """TakenOver if the lease is lost; FileNotFoundError where the folder is gone, lease and all; Failure where a
        plugin has changed the working directory."""
        self.ensure_directory_kept()
        folder = self.plan.folder
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        if self.lease is None or is_lost(self.lease):
            raise TakenOver(
                "lost its hold on the run, which another process may have taken over: it was silent too long"
            )

    def ensure_directory_kept(self) -> None:
        """Failure, back in the working directory, where a plugin has changed it: files would go astray."""
        if (moved := self.directory.restore()) is not None:
            raise Failure(
                f"strategy {self.plan.strategy.name} or objective {self.plan.objective.name}: {describe_move(moved)}"
            )

    def checkpoint_interval(self, writing_s: float) -> float:
        """Seconds between the end of a checkpoint and the next, where the last took `writing_s`."""
        if self.checkpoint_every is not None:
            return self.checkpoint_every
        return max(CHECKPOINT_EVERY_S, writing_s / WRITING_SHARE)

    def record_failure(self, error: Exception) -> Failure:
        """The error as one line with the remedy, recorded where files can be written and the run is still ours.

        Of an error in several processes the first one speaks: Failed there, a silent failure elsewhere.
        """
        self.directory.restore()
        folder, trace = self.plan.folder, ""
        reason = PEER_LOST if is_peer_lost(error) else self.explain(error)
        if reason is None:
            reason = f"{type(error).__name__} at step {self.progress.state.step}: {error}"
            trace = "".join(traceback.format_exception(error))
        first, reason, trace = record_first_failure(reason, trace)
        if reason == PEER_LOST:
            return PeerLost(reason) if first == rank() else AlreadyReported(reason)
        if trace and self.lease is not None:
            with suppress(OSError):
                write_atomically(folder / "traceback.txt", trace)
        if trace:
            reason += f" ({folder / 'traceback.txt'} says where)"
        reason = " ".join(reason.split())
        record = self.make_record("failed", reason, [])
        if self.lease is not None and not is_lost(self.lease):
            with suppress(OSError):
                record.write(folder / "record.json")
        where = f" in process {first}" if world_size() > 1 else ""
        message = f"{self.plan.run_id} failed{where}: {reason}"
        return Failed(message, record) if first == rank() else AlreadyReported(message)

    def explain(self, error: Exception) -> str | None:
        """What went wrong and what helps; None for a bug."""
        config, step = self.plan.config, self.progress.state.step
        if isinstance(error, OSError) and Path(error.filename or "").is_relative_to(config.output):
            return f"{describe_os_error(error)}; then the same command goes on"
        if is_out_of_memory(error):
            batch, parts = config.train.batch_size, config.train.accumulate
            return (
                f"out of memory at step {step} in batches of {batch}; try --batch-size {batch // 2}, "
                f"--set train.accumulate={2 * parts}, --precision bf16 or a smaller --model"
            )
        return str(error) if isinstance(error, Failure) else None

    def make_record(
        self, status: Literal["complete", "diverged", "failed"], error: str | None, results: list[ProbeResult]
    ) -> RunRecord:
        """The record of the run as it stands."""
        plan, progress = self.plan, self.progress
        config, state = plan.config, progress.state
        warnings = dict(progress.warnings)
        masks = {} if status == "failed" else measure_views(plan, self.splits, state, warnings)
        metrics = keep_readable(self.metrics(results, failed=status == "failed"), warnings)
        masks, curve = keep_readable(masks, warnings), [keep_readable(row, warnings) for row in state.curve]
        for warning in [new for new in warnings if new not in progress.warnings]:
            self.reporter.note(f"{plan.run_id}: {warning}")
        return RunRecord(
            run_id=plan.run_id,
            status=status,
            error=error,
            config=config.model_dump(mode="json"),
            strategy={
                **describe_component(plan.strategy),
                "distribution": strategies.REGISTRY.origin(plan.strategy.name),
            },
            objective=describe_component(plan.objective),
            dataset=describe_data(self.splits, self.probed),
            model=describe_model(config, state.head),
            seed=config.seed,
            metrics=metrics,
            protocols={probe.name: probe.version for probe in plan.probes},
            diagnostics=masks,
            curve=curve,
            warnings=list(warnings),
            chosen={name: value for result in results for name, value in result.chosen.items()},
            interruptions=progress.interruptions,
            environment=progress.environment,
        )

    def metrics(self, results: list[ProbeResult], *, failed: bool) -> dict[str, float]:
        """What the probes found, and what the run cost."""
        plan, progress = self.plan, self.progress
        memory = progress.peak_memory_mib  # before the costs are measured, which takes some
        metrics = {name: value for result in results for name, value in result.metrics.items()}
        if not failed:
            metrics |= measure_costs(plan.config, plan.strategy, self.splits, progress.state, progress.watch)
        if plan.objective.trains:
            metrics["cost/checkpoint_s"] = progress.checkpoint_s
        return metrics | {"cost/peak_memory_mib": memory, "cost/wall_s": progress.wall_s}
