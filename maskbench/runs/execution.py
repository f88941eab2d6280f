"""One process's go at a run: from the start or the last checkpoint to the record."""

import errno
import os
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import parent_process
from pathlib import Path
from typing import Literal

from filelock import SoftFileLease

from maskbench import strategy as strategies
from maskbench.data.prefetch import ahead
from maskbench.data.splits import Splits
from maskbench.errors import Failure, Told, UsageError
from maskbench.probe import ProbeResult, Subject
from maskbench.probes.online_knn import OnlineKnn
from maskbench.record import VALIDATION, RunRecord
from maskbench.runs.artifacts import write_config, write_curve, write_files
from maskbench.runs.checkpoint import Checkpoints
from maskbench.runs.lease import lost
from maskbench.runs.plan import Plan
from maskbench.runs.reporter import Reporter
from maskbench.runs.resume import Progress, out_of_memory
from maskbench.runs.run_facts import about, about_data, costs, diagnostics, model_facts
from maskbench.runtime.atomic_files import trouble, write_atomically
from maskbench.runtime.distributed import agreed, on_first, rank, world
from maskbench.runtime.interrupt import Interrupted, stoppable
from maskbench.runtime.process_group import GONE, Gone, blamed, unheard
from maskbench.training.collapse import signs_of_collapse
from maskbench.training.data_order import coming
from maskbench.training.loop import Diverged, pretrain
from maskbench.training.schedules import steps_per_epoch
from maskbench.training.train_state import State

CHECKPOINT_EVERY_S = 300.0
WRITING_SHARE = 0.01  # of the time, at most, unless the user says how often


class TakenOver(Failure):
    """Another process holds the run now."""


class Failed(Failure):
    """A run that could not be finished, and what is recorded of it."""

    def __init__(self, message: str, record: RunRecord) -> None:
        super().__init__(message)
        self.record = record


@dataclass
class Attempt:
    """Everything that this process needs to carry out a run.

    asked: what the probes are about. checkpoint_every: seconds; where it is None, 300, or as much more as keeps writing
    at 1 % of the time. lease: of the run's folder, which the first process holds for all; it alone reads and writes.
    """

    planned: Plan
    splits: Splits
    asked: Splits
    progress: Progress
    checkpoints: Checkpoints
    lease: SoftFileLease | None
    reporter: Reporter
    checkpoint_every: float | None

    def __call__(self) -> RunRecord:
        """The record, written. UsageError for a checkpoint that is not this run's; Failed, which is recorded too."""
        record = None
        try:
            if self.progress.resume(self.checkpoints, self.reporter.note):
                self.reporter.note(f"{self.planned.run_id} goes on from step {self.progress.state.step}")
            record = self.carried_out()
        except UsageError:
            raise
        except Exception as error:
            raise self.failed(error) from error
        finally:
            self.reporter.end(record)
        return record

    def carried_out(self) -> RunRecord:
        """Train, probe, write every file, the record last."""
        on_first(self.begun)
        error = None
        results: list[ProbeResult] = []
        try:
            self.train()
            self.reporter.probing()
            results = self.probed()
        except Diverged as failure:
            error = str(failure)
        except UsageError as changed:  # since all was checked: an image can be read no more
            raise Failure(str(changed)) from changed
        return on_first(lambda: self.written(error, results))

    def begun(self) -> None:
        """What is there of earlier attempts is no more this run's record."""
        for stale in ("record.json", "traceback.txt"):
            (self.planned.folder / stale).unlink(missing_ok=True)
        write_config(self.planned)

    def written(self, error: str | None, results: list[ProbeResult]) -> RunRecord:
        """The record, after all other files. error: why it diverged; None if it did not."""
        if error is not None:
            error = f"{error}; {self.last_good()}"
        self.still_ours()
        write_files(self.planned, self.splits, self.asked, self.progress.state, results)
        self.still_ours()
        record = self.record("complete" if error is None else "diverged", error, results)
        record.write(self.planned.folder / "record.json")
        if error is None:
            with suppress(OSError):  # what counts is written
                self.checkpoints.remove()
        return record

    def train(self) -> None:
        """Pre-train to the end, saving now and then, when asked to stop, and at the end."""
        planned, splits, state = self.planned, self.splits, self.progress.state
        config = planned.config
        if not planned.objective.trains:
            self.reporter.begin(planned, splits, 0)
            return
        total = config.train.epochs * steps_per_epoch(config, len(splits.train))
        saved, interval = time.monotonic(), self.interval(0.0)

        def on_step(state: State, loss: float | None) -> None:
            nonlocal saved, interval
            self.reporter.step(state, loss)
            if self.lease is not None and self.lease.compromise is not None:
                self.still_ours()
            now = time.monotonic()
            signal, due = agreed(asked_to_stop() or 0, now - saved >= interval)
            if not (signal or due):
                return
            self.progress.watch.pause()
            self.save()
            self.progress.watch.resume()
            saved = time.monotonic()
            interval = self.interval(saved - now)
            if signal:
                raise Interrupted(f"{planned.run_id} is saved at step {state.step} of {total}", signal)

        with stoppable(patient=world() > 1 or parent_process() is not None) as asked_to_stop:
            self.reporter.begin(planned, splits, total)
            online = OnlineKnn(self.asked, config.system)
            steps = coming(config, splits.train.labels, state.step)
            with ahead(splits.train, steps, config.system.workers) as train:
                pretrain(
                    config, replace(splits, train=train), planned.strategy, state, self.progress.watch,
                    online=lambda: online(state.head.encoder), on_step=on_step, on_epoch=self.on_epoch,
                )  # fmt: skip
            self.save()

    def probed(self) -> list[ProbeResult]:
        """What the probes say: on test, or, where settings are being chosen, on validation, under names that say so."""
        planned, config = self.planned, self.planned.config
        splits = self.asked.without_test() if planned.trial else self.asked
        subject = Subject(self.progress.state.head.encoder, splits, config.system, config.seed)
        if not planned.trial:
            return [probe(subject) for probe in planned.probes]
        found = [probe(subject).metrics for probe in planned.probes]
        return [ProbeResult({VALIDATION + name: value for name, value in metrics.items()}) for metrics in found]

    def save(self) -> None:
        """A checkpoint, if the run is still ours."""

        def saved() -> None:
            self.still_ours()
            self.progress.save(self.checkpoints)

        on_first(saved)

    def still_ours(self) -> None:
        """TakenOver if not; FileNotFoundError where its folder is gone, lease and all."""
        folder = self.planned.folder
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        if self.lease is None or lost(self.lease):
            raise TakenOver(
                "lost its hold on the run, which another process may have taken over: it was silent too long"
            )

    def interval(self, writing_s: float) -> float:
        """Seconds between the end of a checkpoint and the next, where the last took `writing_s`."""
        if self.checkpoint_every is not None:
            return self.checkpoint_every
        return max(CHECKPOINT_EVERY_S, writing_s / WRITING_SHARE)

    def on_epoch(self, row: dict[str, float]) -> None:
        """The curve so far, and signs of collapse as they appear."""
        on_first(self.write_curve)
        self.reporter.epoch(row)
        for sign in signs_of_collapse(row):
            if sign not in self.progress.warnings:
                self.reporter.note(f"{self.planned.run_id}: epoch {row['epoch']}: {sign}")
            self.progress.warnings[sign] = None

    def write_curve(self) -> None:
        """As far as it goes, if the run is still ours."""
        self.still_ours()
        write_curve(self.planned.folder, self.progress.state)

    def last_good(self) -> str:
        """Where a diverged run can be looked at as it was before."""
        content = self.checkpoints.load(self.reporter.note)
        if content is None:
            return "there is no checkpoint before it"
        return f"the last good checkpoint is of step {content['state']['step']}"

    def failed(self, error: Exception) -> Failure:
        """The error as one line, with the remedy; recorded where that can be written and the run is still ours. Of an
        error in several processes one speaks: Failed there, Told elsewhere."""
        folder, trace = self.planned.folder, ""
        reason = GONE if unheard(error) else self.reason(error)
        if reason is None:
            reason = f"{type(error).__name__} at step {self.progress.state.step}: {error}"
            trace = "".join(traceback.format_exception(error))
        first, reason, trace = blamed(reason, trace)
        if reason == GONE:
            return Gone(reason) if first == rank() else Told(reason)
        if trace and self.lease is not None:
            with suppress(OSError):
                write_atomically(folder / "traceback.txt", trace)
        if trace:
            reason += f" ({folder / 'traceback.txt'} says where)"
        reason = " ".join(reason.split())
        record = self.record("failed", reason, [])
        if self.lease is not None and not lost(self.lease):
            with suppress(OSError):
                record.write(folder / "record.json")
        where = f" in process {first}" if world() > 1 else ""
        message = f"{self.planned.run_id} failed{where}: {reason}"
        return Failed(message, record) if first == rank() else Told(message)

    def reason(self, error: Exception) -> str | None:
        """What went wrong and what helps; None for a bug."""
        config, step = self.planned.config, self.progress.state.step
        if isinstance(error, OSError) and Path(error.filename or "").is_relative_to(config.output):
            return f"{trouble(error)}; then the same command goes on"
        if out_of_memory(error):
            batch, parts = config.train.batch_size, config.train.accumulate
            return (
                f"out of memory at step {step} in batches of {batch}; try --batch-size {batch // 2}, "
                f"--set train.accumulate={2 * parts}, --precision bf16 or a smaller --model"
            )
        return str(error) if isinstance(error, Failure) else None

    def record(
        self, status: Literal["complete", "diverged", "failed"], error: str | None, results: list[ProbeResult]
    ) -> RunRecord:
        """The record of the run as it stands."""
        planned, splits, progress = self.planned, self.splits, self.progress
        config, strategy, state = planned.config, planned.strategy, progress.state
        memory = progress.peak_memory_mib
        metrics = {name: value for result in results for name, value in result.metrics.items()}
        measured = {}
        if status != "failed":
            metrics |= costs(config, strategy, splits, state, progress.watch)
            measured = diagnostics(config, strategy, splits, state)
        if planned.objective.trains:
            metrics["cost/checkpoint_s"] = progress.checkpoint_s
        return RunRecord(
            run_id=planned.run_id,
            status=status,
            error=error,
            config=config.model_dump(mode="json"),
            strategy={**about(strategy), "distribution": strategies.REGISTRY.origin(strategy.name)},
            objective=about(planned.objective),
            dataset=about_data(splits, self.asked),
            model=model_facts(config, state.head),
            seed=config.seed,
            metrics=metrics | {"cost/peak_memory_mib": memory, "cost/wall_s": progress.wall_s},
            protocols={probe.name: probe.version for probe in planned.probes},
            diagnostics=measured,
            curve=state.curve,
            warnings=list(progress.warnings),
            chosen={name: value for result in results for name, value in result.chosen.items()},
            interruptions=progress.interruptions,
            environment=progress.environment,
        )
