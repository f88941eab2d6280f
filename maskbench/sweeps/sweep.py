"""A set of runs from plan to records: first the trials that tune settings, then the runs with these settings."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from maskbench.analysis.mean_differences import describe_power
from maskbench.analysis.tuning import best_settings
from maskbench.config.claims import CLAIMS_FILE, dump_claims
from maskbench.config.run_set import ChooseSettings, RunSet
from maskbench.config.settings import RunConfig
from maskbench.errors import Failure, UsageError
from maskbench.executors.base import execute_runs
from maskbench.executors.local import IsolatedWorkers
from maskbench.executors.placement import Placement
from maskbench.executors.worker import WorkerOptions
from maskbench.record import RunRecord
from maskbench.runs.artifacts import ensure_writable, read_finished_record
from maskbench.runs.live_status import StatusReporter, issue_tickets
from maskbench.runs.plan import Plan, load_data, make_plan
from maskbench.runs.plugin_sources import plugin_sources
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import check_runs, run_each
from maskbench.runs.trackers import TrackingReporter, create_trackers
from maskbench.runtime.atomic_files import write_atomically
from maskbench.runtime.collectives import is_rank0, process_count, run_on_every_rank, run_on_rank0
from maskbench.sweeps.budget import fit_epochs_to_budgets
from maskbench.sweeps.time_estimate import MEASURED_PROBES, RunEstimate, estimate_runs, estimate_seconds


@dataclass
class Sweep:
    """Runs that belong together.

    Attributes:
        run_set: The runs to compare, and the trials that choose their settings.
        placement: Where runs are executed.
        plugins: To load there.
        force: Repeat what is done.
        checkpoint_every: Seconds between checkpoints; None: the default.
        reporter: Gets lines of text and progress.
        track: Names of trackers.
    """

    run_set: RunSet
    placement: Placement = field(default_factory=Placement)
    plugins: Sequence[str] = ()
    force: bool = False
    checkpoint_every: float | None = None
    reporter: Reporter = field(default_factory=Reporter)
    track: Sequence[str] = ()
    _epochs: dict[str, int] = field(default_factory=dict)  # that budgets allow, as far as measured

    def __post_init__(self) -> None:
        self._workers = IsolatedWorkers(self.plugins, self.placement.concurrent_runs)

    def start_workers(self) -> None:
        """Start the processes that will execute the runs on this machine, so that they are ready when the plan is."""
        if self.placement.is_local:
            self._workers.start_all()

    def resolve_configs(self) -> tuple[list[RunConfig], list[RunConfig]]:
        """The trials and the runs, with the epochs of their budgets, and settings by the trials that are done."""
        trials = self._resolve(self.run_set.trials)
        folders = [load_data(make_plan(config))[0].folder for config in trials]
        records = [] if self.force else [read_finished_record(folder) for folder in folders]
        done = [record for record in records if record is not None]
        return trials, self._resolve(self.run_set.runs(_settings_of_row(trials, done)))

    def describe_plan(self) -> str:
        """A table of the runs: how many are done, and about how long the rest takes. It measures a few steps here."""
        if self.placement.is_local:
            self.reporter.note("measuring a few steps of each kind of run, to estimate how long they will take")
        trials, runs = self.resolve_configs()
        estimates = estimate_runs(check_runs([*trials, *runs], force=self.force), self._estimate_seconds)
        return _format_estimates(estimates, runs[0].output, self.placement.concurrent_runs)

    def run(self) -> tuple[int, list[RunRecord]]:
        """Execute the unfinished runs.

        Returns:
            How many runs there are, and the records of those that have one. Trials are not counted.
        """
        trials, runs = run_on_rank0(self.resolve_configs)
        if is_rank0():
            self._write_claims(Path(runs[0].output))
        if trials:
            records = self._execute(trials)
            runs = run_on_rank0(lambda: self._resolve(self.run_set.runs(_settings_of_row(trials, records))))
            self._report_settings(trials, records)
        return len({make_plan(config).run_id for config in runs}), self._execute(runs)

    def _write_claims(self, folder: Path) -> None:
        """Beside the results that will decide them, before there are any."""
        if self.run_set.claims:
            ensure_writable(folder)
            try:
                write_atomically(folder / CLAIMS_FILE, dump_claims(self.run_set.claims))
            except OSError as error:
                raise UsageError(f"cannot write {folder / CLAIMS_FILE} ({error.strerror}); move it away") from None

    def _resolve(self, configs: Sequence[RunConfig]) -> list[RunConfig]:
        """With `auto` as the placement means it, and the epochs of their budgets."""
        if process_count() > 1 and any("seconds" in (config.train.budget or {}) for config in configs):
            raise UsageError("a budget of seconds is measured in one process; give train.epochs, or budget.gflops")
        resolved = [self.placement.resolve_auto(config) for config in configs]
        return fit_epochs_to_budgets(resolved, self._workers, self._epochs)

    def _estimate_seconds(self, config: RunConfig) -> float | None:
        """Of a run; None where it cannot be measured, because it fails or other machines will execute it."""
        if not self.placement.is_local:
            return None
        try:
            return self._workers(estimate_seconds, config)
        except UsageError:
            raise
        except Exception:  # the run itself will report it
            return None

    def _execute(self, configs: list[RunConfig]) -> list[RunRecord]:
        is_local, several = self.placement.is_local, self.placement.concurrent_runs > 1
        workers = self._workers.release() if is_local and several else []
        self._workers.close()  # its memory is for the runs
        plans = run_on_every_rank(partial(check_runs, configs, force=self.force))
        torch.cuda.empty_cache()  # of the measurements: other processes use the GPU next
        with issue_tickets(plans, self.placement.on) if is_rank0() else nullcontext():
            if is_local and not several:
                return self._execute_here(plans)
            sources = {name: digest for plan in plans for name, digest in plugin_sources(plan).items()}
            options = WorkerOptions(self.plugins, self.checkpoint_every, self.track, plugin_sources=sources)
            create_executor = partial(self.placement.create_executor, options, configs[0], workers)
            return execute_runs(plans, create_executor, self.force, self.reporter)

    def _execute_here(self, plans: list[Plan]) -> list[RunRecord]:
        """One after another, in this process and those that share each run with it."""
        reporter: Reporter = TrackingReporter(self.reporter, create_trackers(self.track))
        reporter = StatusReporter(reporter) if is_rank0() else reporter
        return run_each(plans, self.force, reporter, self.checkpoint_every)

    def _report_settings(self, trials: Sequence[RunConfig], records: Sequence[RunRecord]) -> None:
        for row in dict.fromkeys(_tuning(config).row for config in trials):
            settings = best_settings(records, row)
            words = ", ".join(f"{path}={value}" for path, value in (settings or {}).items())
            self.reporter.note(f"{row}: {words or 'no combination was completed; the first one is taken'}")


def _settings_of_row(trials: Sequence[RunConfig], records: Sequence[RunRecord]) -> ChooseSettings | None:
    """By the best of a row's trials that have a record, else by its first trial; None where there are no trials."""
    if not trials:
        return None
    first = {_tuning(config).row: _tuning(config).settings for config in reversed(trials)}
    return lambda row: best_settings(records, row) or first[row]


def _tuning(config: RunConfig) -> Any:
    if config.tuning is None:
        raise Failure("a trial without tuning")
    return config.tuning


def _format_estimates(estimates: Sequence[RunEstimate], output: str, jobs: int) -> str:
    left = sum(each.seconds or 0 for each in estimates) / jobs / 60
    done = sum(each.state == "done" for each in estimates)
    others = {probe.name for each in estimates for probe in each.plan.probes} - MEASURED_PROBES
    not_counted = f"; not counted: {', '.join(sorted(others))}" if others else ""
    order = "one after another" if jobs == 1 else f"{jobs} at a time"
    is_known = None not in [each.seconds for each in estimates]
    rest = f"; the rest takes about {left:.0f} minutes, {order}" if is_known else ""
    runs = f"{len(estimates)} runs for {output}, {done} done{rest}{not_counted}"
    return "\n".join([_table(estimates), runs, *_describe_power([each.plan for each in estimates])])


def _describe_power(plans: Sequence[Plan]) -> list[str]:
    """What the largest of the comparisons will be able to tell apart; nothing where there is nothing to compare."""
    compared: dict[str, dict[str, set[int]]] = {}  # what a table shares -> kind of run -> seeds
    for plan in plans:
        if not (plan.is_trial or plan.objective.control):
            config = plan.config
            place = f"{config.data} {config.model} {config.ratio} {config.train.epochs} {config.train.budget}"
            compared.setdefault(place, {}).setdefault(plan.kind, set()).add(config.seed)
    largest = max(compared.values(), key=len, default={})
    return [describe_power(min(map(len, largest.values())), len(largest))] if len(largest) > 1 else []


def _table(estimates: Sequence[RunEstimate]) -> str:
    """A row for each strategy; its trials have a row of their own."""
    rows: dict[str, list[Any]] = {}
    for each in estimates:
        label = f"{each.plan.label}, trials" if each.plan.is_trial else each.plan.label
        row = rows.setdefault(label if each.plan.is_trial else each.plan.kind, [label, 0, 0, 0, 0.0])
        row[1] += 1
        row[2] += each.state == "done"
        row[3] += each.state == "started"
        row[4] = "?" if each.seconds is None or row[4] == "?" else row[4] + each.seconds / 60
    return tabulate(list(rows.values()), ["strategy", "runs", "done", "started", "minutes left"], floatfmt=".1f")
