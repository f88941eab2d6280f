"""Whether a plugin's code is still what it was when a run was made or begun."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from maskbench import objective as objectives
from maskbench import probe as probes
from maskbench import strategy as strategies
from maskbench.core.registry import Registry
from maskbench.core.source_digest import is_same_code
from maskbench.errors import UsageError
from maskbench.record import RunRecord, UnreadableRecord, read_record
from maskbench.runs.plan import Plan

REMEDY = "--force repeats it, another --output keeps both; raise the class's version where results change"


def plugin_sources(plan: Plan) -> dict[str, str]:
    """The digest of the code of each component of a run that does not ship: {"strategy my-mask": "sha256:..."}."""
    components: list[tuple[Registry[Any], str]] = [
        (strategies.REGISTRY, plan.strategy.name),
        (objectives.REGISTRY, plan.objective.name),
        *((probes.REGISTRY, probe.name) for probe in plan.probes),
    ]
    digests = {f"{registry.kind} {name}": registry.source_digest(name) for registry, name in components}
    return {name: digest for name, digest in digests.items() if digest is not None}


def recorded_plugins(plan: Plan) -> dict[str, Any]:
    """What the environment of a record and a checkpoint says of plugins: nothing where the run has none."""
    sources = plugin_sources(plan)
    return {"plugins": sources} if sources else {}


def changed_plugins(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """The components whose code is not the same, e.g. ["strategy my-mask"]."""
    return [name for name in here if name in there and not is_same_code(here[name], there[name])]


def changed_since(record: RunRecord, plan: Plan) -> list[str]:
    """The components whose code has changed since a record was made; older records know a strategy's file alone."""
    here, there = plugin_sources(plan), record.environment.get("plugins")
    if isinstance(there, Mapping):
        return changed_plugins(here, there)
    name, origin = plan.strategy.name, str(record.strategy.get("distribution", ""))
    changed = " sha256:" in origin and origin != strategies.REGISTRY.origin(name)
    return [f"strategy {name}"] if here and changed else []


def ensure_same_code_as_others(plan: Plan, but: Collection[str] = ()) -> None:
    """UsageError where finished runs that would stand in one row with this one were made by other code of a plugin.

    but: ids of runs that are going to be repeated.
    """
    if not plugin_sources(plan):
        return
    for path in sorted(plan.folder.parent.glob(f"{plan.kind}-s*/record.json")):
        if path.parent.name in but:
            continue
        with suppress(UnreadableRecord):
            record = read_record(path)
            changed = changed_since(record, plan) if record.status != "failed" else []
            if changed:
                raise UsageError(f"{path.parent} was made by other code of {', '.join(changed)}; {REMEDY}")
