"""Runs, each once: read where it is finished, resumed where it was interrupted, left to whoever is at it already."""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial

import torch

from maskbench.config.schema import RunConfig
from maskbench.data.splits import Splits
from maskbench.errors import Failure, UsageError
from maskbench.record import RunRecord
from maskbench.runs.artifacts import finished, tidy, writable
from maskbench.runs.checkpoint import Checkpoints
from maskbench.runs.execution import Attempt, Failed
from maskbench.runs.lease import POLL_S, Busy, claim
from maskbench.runs.plan import Plan, asked_about, build, load_splits, plan, preflight
from maskbench.runs.reporter import Reporter
from maskbench.runs.resume import Progress, out_of_memory
from maskbench.runtime.atomic_files import remove_partial, trouble
from maskbench.runtime.distributed import first_alone, on_first, together, world
from maskbench.runtime.environment import environment
from maskbench.runtime.hardware import reset_peak_memory
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training.train_state import State


def run(
    config: RunConfig,
    *,
    force: bool = False,
    reporter: Reporter | None = None,
    checkpoint_every: float | None = None,
) -> RunRecord:
    """Pre-train, probe, record. A run that is already recorded is read, not repeated, unless `force`; one that was
    interrupted goes on from its last checkpoint, to the same numbers; one that another process is at is waited for.

    checkpoint_every: see `Attempt`. UsageError, before anything is written, for whatever the user can put right;
    Failure where the work cannot be finished. Both leave what was finished before as it was.
    """
    reporter = reporter or Reporter()
    planned = checked(config)
    if force:
        forget([planned])

    def wait(holder: str) -> None:
        reporter.note(f"{planned.run_id} is {holder}; waiting")

    return attempted(planned, reporter, checkpoint_every, wait)


def run_all(
    configs: Iterable[RunConfig],
    *,
    force: bool = False,
    reporter: Reporter | None = None,
    checkpoint_every: float | None = None,
) -> list[RunRecord]:
    """Every run, each once. All are checked before the first is started."""
    return each_once(together(partial(checked_all, configs)), force, reporter or Reporter(), checkpoint_every)


def each_once(
    planned: Iterable[Plan], force: bool, reporter: Reporter, checkpoint_every: float | None
) -> list[RunRecord]:
    """Every run once, however many processes ask for the same: what another one is at is put off to the end. One that
    diverges or fails does not stop the others, but where several processes share each run: there a failed one does."""
    missing = {each.run_id: each for each in planned}
    if force:
        on_first(partial(forget, missing.values()))
    records: dict[str, RunRecord | None] = dict.fromkeys(missing)
    told: set[str] = set()
    while missing:
        busy = {}
        for run_id, each in missing.items():
            try:
                records[run_id] = attempted(each, reporter, checkpoint_every, None)
            except Failed as failure:
                if world() > 1:  # those that were left in the middle of a step do not come back
                    raise
                reporter.note(str(failure))
                records[run_id] = failure.record
            except Busy as holder:
                busy[run_id] = each
                if run_id not in told:
                    reporter.note(f"{run_id} is {holder}; later")
                told.add(run_id)
        if len(busy) == len(missing):
            time.sleep(POLL_S)
        missing = busy
    return [record for record in records.values() if record is not None]


def checked(config: RunConfig) -> Plan:
    """The plan of a run that can be done. UsageError for whatever the user can put right; nothing is written."""
    planned, splits = load_splits(plan(config))
    preflight(planned, splits, _built(planned, splits))
    finished(planned.folder)
    return planned


def _built(planned: Plan, splits: Splits) -> State:
    try:
        return build(planned, splits)
    except (UsageError, Failure):
        raise
    except Exception as error:
        name, model = planned.strategy.name, planned.config.model.name
        if out_of_memory(error):
            raise Failure(f"{name} with {model}: out of memory; try a smaller --model, or --limit the data") from error
        raise UsageError(f"{name} with {model} cannot be built: {type(error).__name__}: {error}") from error


def checked_all(configs: Iterable[RunConfig]) -> list[Plan]:
    """The plans of runs that can be done, of which one of each kind is tried. UsageError as `checked`."""
    tried: set[str] = set()
    planned = []
    for config in configs:
        each, _ = load_splits(plan(config))
        if each.kind not in tried:
            checked(config)
            tried.add(each.kind)
        finished(each.folder)
        planned.append(each)
    return planned


def forget(planned: Iterable[Plan]) -> None:
    """Make runs such that were never begun, so that they are repeated. UsageError where a process is at one of them;
    then nothing is forgotten. Failure where files cannot be removed."""
    begun = [each for each in planned if each.folder.exists()]
    for remove in (False, True):
        for each in begun:
            try:
                with claim(each.folder, waiting=None):
                    if remove:
                        (each.folder / "record.json").unlink(missing_ok=True)
                        Checkpoints(each.folder).remove()
            except Busy as busy:
                raise UsageError(f"{each.run_id} is {busy}; stop it first, or leave out --force") from None
            except OSError as error:
                raise Failure(f"{each.run_id} cannot be repeated: {trouble(error)}") from None


def done_already(planned: Plan, reporter: Reporter) -> RunRecord | None:
    """The record of a run that came to its end before, which is told; None where there is none."""
    record = finished(planned.folder)
    if record is not None:
        if record.status == "complete":
            tidy(planned.folder)
        reporter.note(f"{planned.run_id} is done already; --force repeats it")
    return record


def attempted(
    planned: Plan, reporter: Reporter, checkpoint_every: float | None, wait: Callable[[str], None] | None
) -> RunRecord:
    """The run's record: read where it is finished, else made, by this process alone. wait: see `claim`."""
    folder = planned.folder
    record = on_first(partial(done_already, planned, reporter))
    if record is not None:
        return record
    on_first(partial(writable, folder))
    try:
        with ExitStack() as held:
            lease = first_alone(lambda: held.enter_context(claim(folder, waiting=wait)))
            record = on_first(lambda: finished(folder))
            if record is not None:  # by whoever was waited for
                return record
            on_first(lambda: remove_partial(folder))
            checkpoints = Checkpoints(folder)
            planned, splits = together(partial(load_splits, planned))
            asked, progress = asked_about(planned, splits), begin(planned, splits)
            return Attempt(planned, splits, asked, progress, checkpoints, lease, reporter, checkpoint_every)()
    except OSError as error:
        raise Failure(f"{planned.run_id} could not begin: {trouble(error)}") from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise Failure(f"{planned.run_id} could not begin: out of memory; lower --jobs, or --limit the data") from error


def begin(planned: Plan, splits: Splits) -> Progress:
    """A run at its start, its system settled by `load_splits`."""
    config, device = planned.config, torch.device(planned.config.system.device)
    reset_peak_memory(device)
    versions = {"strategy_version": planned.strategy.version, "objective_version": planned.objective.version}
    identity = {**versions, "data_fingerprint": splits.fingerprint, **config.model_dump(mode="json")}
    around = environment(config.system.model_dump(mode="json"))
    return Progress(build(planned, splits), Stopwatch(device), identity, around)
