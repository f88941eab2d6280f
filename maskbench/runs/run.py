"""Runs, each once: read where one is finished, resumed where it was interrupted, left to whoever works on it already.

The way down: `run` or `run_all` -> `run_each` -> `run_or_read`, which holds the lease -> Execution -> pretrain -> step.
Where several processes share a run, rank 0 alone reads and writes files.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

import torch

from maskbench.config.settings import RunConfig
from maskbench.data.splits import Splits
from maskbench.errors import Failure, UsageError
from maskbench.record import RunRecord
from maskbench.runs.artifacts import ensure_writable, read_finished_record, remove_leftovers
from maskbench.runs.checkpoint import Checkpoints
from maskbench.runs.execution import Execution, Failed
from maskbench.runs.lease import POLL_S, Busy, hold_lease
from maskbench.runs.plan import Plan, build_state, check_before_start, load_data, make_plan, probe_splits
from maskbench.runs.plugin_sources import ensure_same_code_as_others, recorded_plugins
from maskbench.runs.reporter import Reporter
from maskbench.runs.resume import ResumeState, is_out_of_memory
from maskbench.runtime.atomic_files import describe_os_error, remove_partial_files
from maskbench.runtime.collectives import create_on_rank0, run_on_every_rank, run_on_rank0, world_size
from maskbench.runtime.environment import describe_environment
from maskbench.runtime.hardware import reset_peak_memory
from maskbench.runtime.plugin_exits import exits_as_errors
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.runtime.working_directory import WorkingDirectory, describe_move
from maskbench.training.train_state import TrainState


def run(
    config: RunConfig,
    *,
    force: bool = False,
    reporter: Reporter | None = None,
    checkpoint_every: float | None = None,
) -> RunRecord:
    """Pre-train, probe, record.

    A run that is already recorded is read, not repeated, unless `force`. One that was interrupted continues from its
    last checkpoint, to the same numbers. One that another process works on is waited for.

    Args:
        config: The run.
        force: Forget what is recorded and start afresh.
        reporter: Gets what happens; silent if None.
        checkpoint_every: Seconds between checkpoints; None: 300, or more where writing would take over 1 % of the time.

    Raises:
        UsageError: For whatever the user can put right, before anything is written.
        Failure: The work cannot be finished. What was finished before stays as it was.
    """
    reporter = reporter or Reporter()
    plan = check_run(config, force=force)
    if force:
        forget_runs([plan])
    return run_or_read(
        plan, reporter, checkpoint_every, lambda holder: reporter.note(f"{plan.run_id} is {holder}; waiting")
    )


def run_all(
    configs: Iterable[RunConfig],
    *,
    force: bool = False,
    reporter: Reporter | None = None,
    checkpoint_every: float | None = None,
) -> list[RunRecord]:
    """Every run, each once. All are checked before the first is started. Arguments and errors as `run`."""
    plans = run_on_every_rank(lambda: check_runs(configs, force=force))
    return run_each(plans, force, reporter or Reporter(), checkpoint_every)


def run_each(plans: Iterable[Plan], force: bool, reporter: Reporter, checkpoint_every: float | None) -> list[RunRecord]:
    """Every run once, however many processes have the same list: what another one works on is put off to the end.

    A run that diverges or fails does not stop the others. Where several processes share each run, a failed one does.
    """
    missing = {plan.run_id: plan for plan in plans}
    if force:
        run_on_rank0(lambda: forget_runs(missing.values()))
    records: dict[str, RunRecord | None] = dict.fromkeys(missing)
    reported: set[str] = set()
    while missing:
        busy = {}
        for run_id, plan in missing.items():
            try:
                records[run_id] = run_or_read(plan, reporter, checkpoint_every, None)
            except Failed as failure:
                if world_size() > 1:  # those that were left in the middle of a step do not come back
                    raise
                reporter.note(str(failure))
                records[run_id] = failure.record
            except Busy as holder:
                busy[run_id] = plan
                if run_id not in reported:
                    reporter.note(f"{run_id} is {holder}; later")
                reported.add(run_id)
        if len(busy) == len(missing):
            time.sleep(POLL_S)
        missing = busy
    return [record for record in records.values() if record is not None]


def run_or_read(
    plan: Plan, reporter: Reporter, checkpoint_every: float | None, wait: Callable[[str], None] | None
) -> RunRecord:
    """The run's record: read where it is finished, else made, by this process alone. wait: see `hold_lease`."""
    folder, directory = plan.folder, WorkingDirectory()
    record = run_on_rank0(lambda: read_if_done(plan, reporter))
    if record is not None:
        return record
    run_on_rank0(lambda: ensure_writable(*plan.place))
    try:
        with ExitStack() as held:
            lease = create_on_rank0(lambda: held.enter_context(hold_lease(folder, waiting=wait)))
            record = run_on_rank0(lambda: read_finished_record(folder))
            if record is not None:  # by whoever was waited for
                return record
            run_on_rank0(lambda: remove_partial_files(folder))
            plan, splits = run_on_every_rank(lambda: load_data(plan))
            probed, state = probe_splits(plan, splits), start_afresh(plan, splits)
            return Execution(
                plan, splits, probed, state, Checkpoints(folder), lease, reporter, checkpoint_every, directory
            )()
    except OSError as error:
        raise Failure(f"{plan.run_id} could not begin: {describe_os_error(error)}") from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise Failure(f"{plan.run_id} could not begin: out of memory; lower --jobs, or --limit the data") from error


def start_afresh(plan: Plan, splits: Splits) -> ResumeState:
    """The state of a run before its first step; `load_data` has settled its system."""
    config, device = plan.config, torch.device(plan.config.system.device)
    reset_peak_memory(device)
    versions = {"strategy_version": plan.strategy.version, "objective_version": plan.objective.version}
    identity = {**versions, "data_fingerprint": splits.fingerprint, **config.model_dump(mode="json")}
    machine = describe_environment(config.system.model_dump(mode="json")) | recorded_plugins(plan)
    return ResumeState(build_state(plan, splits), Stopwatch(device), identity, machine)


def read_if_done(plan: Plan, reporter: Reporter) -> RunRecord | None:
    """The record of a run that ended before, which the reporter gets to know; None where there is none."""
    record = read_finished_record(plan.folder)
    if record is not None:
        if record.status == "complete":
            remove_leftovers(plan.folder)
        reporter.note(f"{plan.run_id} is done already; --force repeats it")
    return record


def check_run(config: RunConfig, *, force: bool = False) -> Plan:
    """The plan of a run that can be carried out; nothing is written. UsageError for what the user can put right.

    force: what there is of the run will be removed, and is not looked at.
    """
    plan = try_run(config)
    _check_what_there_is([plan], force)
    return plan


def try_run(config: RunConfig) -> Plan:
    """The plan of a run that can be carried out, whatever there is of it. Errors as `check_run`."""
    directory = WorkingDirectory()
    plan, splits = load_data(make_plan(config))
    try:
        check_before_start(plan, splits, _try_to_build(plan, splits))
    finally:
        moved = directory.restore()
    if moved is not None:
        raise UsageError(f"strategy {plan.strategy.name}: {describe_move(moved)}")
    return plan


def _check_what_there_is(plans: Sequence[Plan], force: bool) -> None:
    """UsageError where a record cannot be read, or where a run would stand in a row with runs of other code."""
    repeated = {plan.run_id for plan in plans} if force else set()
    for plan in plans:
        if not force:
            read_finished_record(plan.folder)
        ensure_same_code_as_others(plan, repeated)


def _try_to_build(plan: Plan, splits: Splits) -> TrainState:
    try:
        with exits_as_errors():
            return build_state(plan, splits)
    except (UsageError, Failure):
        raise
    except Exception as error:
        name, model = plan.strategy.name, plan.config.model.name
        if is_out_of_memory(error):
            raise Failure(f"{name} with {model}: out of memory; try a smaller --model, or --limit the data") from error
        raise UsageError(f"{name} with {model} cannot be built: {type(error).__name__}: {error}") from error


def check_runs(configs: Iterable[RunConfig], *, force: bool = False) -> list[Plan]:
    """The plans of runs that can be carried out; one run of each kind is tried. Arguments and errors as `check_run`."""
    tried: set[str] = set()
    plans = []
    for config in configs:
        plan, _ = load_data(make_plan(config))
        if plan.kind not in tried:
            try_run(config)
            tried.add(plan.kind)
        plans.append(plan)
    _check_what_there_is(plans, force)
    return plans


def forget_runs(plans: Iterable[Plan]) -> None:
    """Remove records and checkpoints, so that the runs are repeated.

    UsageError where a process works on one of them; then nothing is removed. Failure where files cannot be removed.
    """
    started = [plan for plan in plans if plan.folder.exists()]
    for remove in (False, True):
        for plan in started:
            try:
                with hold_lease(plan.folder, waiting=None):
                    if remove:
                        (plan.folder / "record.json").unlink(missing_ok=True)
                        Checkpoints(plan.folder).remove()
            except Busy as busy:
                raise UsageError(f"{plan.run_id} is {busy}; stop it first, or leave out --force") from None
            except OSError as error:
                raise Failure(f"{plan.run_id} cannot be repeated: {describe_os_error(error)}") from None
