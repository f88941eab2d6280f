"""The record of a run whose process died, written by the process that had started it."""

from contextlib import suppress

from maskbench.core.grid import Grid
from maskbench.models.encoder import timm_arguments
from maskbench.record import RunRecord
from maskbench.runs.artifacts import read_finished_record
from maskbench.runs.lease import Busy, hold_lease
from maskbench.runs.plan import Plan, load_data, probe_splits
from maskbench.runs.plugin_sources import recorded_plugins
from maskbench.runs.run_facts import describe_component, describe_data
from maskbench.runtime.environment import describe_environment
from maskbench.strategy import REGISTRY


def record_death(plan: Plan, reason: str) -> RunRecord | None:
    """Record a run as failed whose process died on this machine, by a signal, os._exit or a crash of its code.

    Its checkpoints stay, so that the same command goes on.

    Args:
        plan: The run.
        reason: One line.

    Returns:
        The record. The finished one, where the process died after it. None where another process has taken the run
        over, or nothing can be written.
    """
    with suppress(Busy, OSError), hold_lease(plan.folder, waiting=None):
        record = read_finished_record(plan.folder)
        if record is None:
            record = _failed_record(plan, reason)
            record.write(plan.folder / "record.json")
        return record
    return None


def _failed_record(plan: Plan, reason: str) -> RunRecord:
    """Without what its process alone knew: numbers, curve, and the size of the model. No code of a plugin runs."""
    plan, splits = load_data(plan)
    config = plan.config
    rows, cols = (side // config.model.patch_size for side in config.data.img_size)
    grid = Grid(rows, cols, config.model.patch_size)
    return RunRecord(
        run_id=plan.run_id,
        status="failed",
        error=reason,
        config=config.model_dump(mode="json"),
        strategy={**describe_component(plan.strategy), "distribution": REGISTRY.origin(plan.strategy.name)},
        objective=describe_component(plan.objective),
        dataset=describe_data(splits, probe_splits(plan, splits)),
        model={
            "name": config.model.name,
            "arguments": timm_arguments(grid, config.data.in_chans, config.model.kwargs),
        },
        seed=config.seed,
        metrics={},
        protocols={probe.name: probe.version for probe in plan.probes},
        diagnostics={},
        curve=[],
        chosen={},
        environment=describe_environment(config.system.model_dump(mode="json")) | recorded_plugins(plan),
    )
