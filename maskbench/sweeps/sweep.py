"""A set of runs from its plan to its records: where settings are tuned the trials first, then what they decide."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from tabulate import tabulate

from maskbench.analysis.tuning import chosen
from maskbench.config.schema import RunConfig
from maskbench.errors import Failure, UsageError
from maskbench.executors.base import carry_out
from maskbench.executors.local import Elsewhere
from maskbench.executors.placement import Place
from maskbench.executors.worker import Terms
from maskbench.record import RunRecord
from maskbench.runs.artifacts import finished
from maskbench.runs.live_status import Published, announced
from maskbench.runs.plan import load_splits, plan
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import checked_all, each_once
from maskbench.runs.trackers import Tracked, trackers
from maskbench.runtime.distributed import first, on_first, processes, together
from maskbench.sweeps.budget import fitted
from maskbench.sweeps.time_estimate import COUNTED, Expected, expect, seconds_for

Choose = Callable[[str], dict[str, Any]]  # of a row that is tuned, its settings


@dataclass
class Campaign:
    """Runs that belong together.

    runs: their configurations, given what was chosen. trials: the runs that choose; none where nothing is tuned.
    place: where they are carried out. plugins: to load there. force: repeat what is done. checkpoint_every: see
    `Attempt`. track: names of trackers.
    """

    runs: Callable[[Choose | None], list[RunConfig]]
    trials: Sequence[RunConfig] = ()
    place: Place = field(default_factory=Place)
    plugins: Sequence[str] = ()
    force: bool = False
    checkpoint_every: float | None = None
    reporter: Reporter = field(default_factory=Reporter)
    track: Sequence[str] = ()
    _epochs: dict[str, int] = field(default_factory=dict)  # that budgets allow, as far as measured

    def __post_init__(self) -> None:
        self._measure = Elsewhere(self.plugins, self.place.at_once)

    def plan(self) -> tuple[list[RunConfig], list[RunConfig]]:
        """The trials and the runs, with what their budgets allow; the runs by what is known of the trials, so far."""
        trials = self._fitted(self.trials)
        done = [finished(load_splits(plan(config))[0].folder) for config in trials]
        known = [record for record in done if record is not None]
        return trials, self._fitted(self.runs(self._choose(trials, known)))

    def carry_out(self) -> tuple[int, list[RunRecord]]:
        """Do all that is not done yet; how many runs there are, and the records of those that have one."""
        trials, runs = on_first(self.plan)
        if trials:
            records = self._go(trials)
            runs = on_first(lambda: self._fitted(self.runs(self._choose(trials, records))))
            self._tell(trials, records)
        return len({plan(config).run_id for config in runs}), self._go(runs)

    def summon(self) -> None:
        """Start the processes that will do the runs here, so that they are ready when the plan is."""
        if self.place.here:
            self._measure.summon()

    def told(self) -> str:
        """Which runs there are, what is done of them, and about how long the rest takes."""
        if self.place.here:
            self.reporter.note("trying a few steps of each kind of run, to say how long they will take")
        trials, runs = self.plan()

        def seconds(config: RunConfig) -> float | None:
            if not self.place.here:
                return None  # this machine says nothing of the others
            try:
                return self._measure(seconds_for, config)
            except UsageError:
                raise
            except Exception:  # the run will say what it is
                return None

        return _table(expect(checked_all([*trials, *runs]), seconds), runs[0].output, self.place.at_once)

    def _fitted(self, configs: Sequence[RunConfig]) -> list[RunConfig]:
        if processes() > 1 and any("seconds" in (config.train.budget or {}) for config in configs):
            raise UsageError("a budget of seconds is measured in one process; give train.epochs, or budget.gflops")
        return fitted([self.place.settled(config) for config in configs], self._measure, self._epochs)

    def _go(self, configs: list[RunConfig]) -> list[RunRecord]:
        crew = self._measure.handed_over() if self.place.here and self.place.at_once > 1 else []
        self._measure.close()  # its memory is for the runs
        planned = together(partial(checked_all, configs))
        torch.cuda.empty_cache()  # of what was tried: other processes have the GPU next
        with announced(planned, self.place.on) if first() else nullcontext():
            if self.place.here and self.place.at_once == 1:
                reporter: Reporter = Tracked(self.reporter, trackers(self.track))
                reporter = Published(reporter) if first() else reporter
                return each_once(planned, self.force, reporter, self.checkpoint_every)
            terms = Terms(self.plugins, self.checkpoint_every, self.track)
            opened = partial(self.place.executor, terms, configs[0], crew)
            return carry_out(planned, opened, self.force, self.reporter)

    def _choose(self, trials: Sequence[RunConfig], records: Sequence[RunRecord]) -> Choose | None:
        """The best of a row's trials, as far as they are done; where none is, the first."""
        if not trials:
            return None
        first = {_tuning(config).row: _tuning(config).settings for config in reversed(trials)}
        return lambda row: chosen(records, row) or first[row]

    def _tell(self, trials: Sequence[RunConfig], records: Sequence[RunRecord]) -> None:
        for row in dict.fromkeys(_tuning(config).row for config in trials):
            settings = chosen(records, row)
            words = ", ".join(f"{path}={value}" for path, value in (settings or {}).items())
            self.reporter.note(f"{row}: {words or 'no combination was completed; the first one is taken'}")


def _tuning(config: RunConfig) -> Any:
    if config.tuning is None:
        raise Failure("a trial without tuning")
    return config.tuning


def _table(expected: Sequence[Expected], output: str, jobs: int) -> str:
    rows: dict[str, list[Any]] = {}
    for each in expected:
        label = f"{each.planned.label}, trials" if each.planned.trial else each.planned.label
        row = rows.setdefault(label if each.planned.trial else each.planned.kind, [label, 0, 0, 0, 0.0])
        row[1] += 1
        row[2] += each.state == "done"
        row[3] += each.state == "started"
        row[4] = "?" if each.seconds is None or row[4] == "?" else row[4] + each.seconds / 60
    table = tabulate(list(rows.values()), ["strategy", "runs", "done", "started", "minutes left"], floatfmt=".1f")
    left = sum(each.seconds or 0 for each in expected) / jobs / 60
    done = sum(each.state == "done" for each in expected)
    others = {probe.name for each in expected for probe in each.planned.probes} - COUNTED
    more = f"; not counted: {', '.join(sorted(others))}" if others else ""
    how = "one after another" if jobs == 1 else f"{jobs} at a time"
    rest = "" if None in [each.seconds for each in expected] else f"; the rest takes about {left:.0f} minutes, {how}"
    return f"{table}\n{len(expected)} runs for {output}, {done} done{rest}{more}"
