"""The conformance suites: whether a strategy, an objective or a probe, anybody's included, keeps the contract."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from maskbench.config.specs import parse_specs
from maskbench.core.component import Component
from maskbench.core.registry import Registry
from maskbench.objective import REGISTRY as OBJECTIVES
from maskbench.objective import Objective
from maskbench.probe import REGISTRY as PROBES
from maskbench.probe import Probe
from maskbench.runtime.plugin_exits import exits_as_errors
from maskbench.strategy import REGISTRY, Strategy
from maskbench.testing import checks, learning_checks, objective_checks, probe_checks
from maskbench.testing.mistakes import locate_error, source_files

C = TypeVar("C", bound=Component)


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: Name of the check, e.g. "row independence".
        requirement: What a component must do to pass it.
        failure: What is wrong, and the remedy; "" if the check passed or was left out.
        location: FILE:LINE of the mistake in the plugin, or "" where that is not known.
        waits_for: The check that failed before, so that this one was left out; "" if it ran.
    """

    check: str
    requirement: str
    failure: str = ""
    location: str = ""
    waits_for: str = ""


@dataclass(frozen=True)
class Report:
    """What the checks found. `str(report)` is a text for people, a line a check.

    Attributes:
        component: The strategy, objective or probe that was checked.
        findings: The result of each check, in the order in which they ran.
    """

    component: Component
    findings: tuple[Finding, ...]

    @property
    def strategy(self) -> Component:
        """The former name of `component`."""
        return self.component

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return not any(finding.failure for finding in self.findings)

    def __str__(self) -> str:
        width = max(len(finding.check) for finding in self.findings)
        lines = []
        for finding in self.findings:
            if finding.failure:
                place = f"{finding.location}: " if finding.location else ""
                lines.append(f"FAIL  {finding.check:{width}} {place}{finding.failure}")
            elif finding.waits_for:
                lines.append(f"--    {finding.check:{width}} not checked before {finding.waits_for} passes")
            else:
                lines.append(f"ok    {finding.check:{width}} {finding.requirement}")
        failed = sum(bool(finding.failure) for finding in self.findings)
        verdict = "conforms" if not failed else f"fails {failed} of {len(self.findings)} checks"
        return "\n".join([*lines, f"{self.component.name} {verdict}"])


@dataclass(frozen=True)
class Step:
    """A check, and the checks whose failure would make it fail as well: one mistake is one line."""

    check: Callable[[Any], None]
    after: tuple[str, ...] = ()


_MADE = ("build", "shapes")
_PURE = (*_MADE, "inputs unchanged", "global generators")

STRATEGY_STEPS = (
    Step(checks.check_documentation),
    Step(checks.check_matched),
    Step(checks.check_parameters, ("matched",)),
    Step(learning_checks.check_build),
    Step(checks.check_shapes, ("documentation", "matched", "build")),
    Step(checks.check_inputs_unchanged, _MADE),
    Step(checks.check_global_generators, (*_MADE, "inputs unchanged")),
    Step(checks.check_schedule, _PURE),
    Step(checks.check_precision, _PURE),
    Step(checks.check_ratio, (*_PURE, "schedule")),
    Step(checks.check_loss_weights, _PURE),
    Step(checks.check_repeatability, _PURE),
    Step(checks.check_row_independence, (*_PURE, "repeatability")),
    Step(checks.check_distinct_draws, (*_PURE, "repeatability", "row independence")),
    Step(checks.check_coverage, (*_PURE, "ratio", "repeatability", "distinct draws")),
    Step(learning_checks.check_loss, (*_PURE, "repeatability")),
    Step(checks.check_batching, _PURE),
    Step(checks.check_device, _PURE),
)
OBJECTIVE_STEPS = (
    Step(objective_checks.check_documentation),
    Step(objective_checks.check_parameters),
    Step(objective_checks.check_build),
    Step(objective_checks.check_step, ("documentation", "build")),
    Step(objective_checks.check_inputs_unchanged, ("step",)),
    Step(objective_checks.check_global_generators, ("step",)),
    Step(objective_checks.check_repeatability, ("step", "global generators")),
    Step(objective_checks.check_labels, ("step", "repeatability")),
    Step(objective_checks.check_gradients, ("step", "inputs unchanged")),
    Step(objective_checks.check_micro_batches, ("step", "labels", "inputs unchanged", "repeatability")),
)
PROBE_STEPS = (
    Step(probe_checks.check_documentation),
    Step(probe_checks.check_parameters),
    Step(probe_checks.check_result),
    Step(probe_checks.check_encoder_unchanged, ("result",)),
    Step(probe_checks.check_features_unchanged, ("result",)),
    Step(probe_checks.check_global_generators, ("result",)),
    Step(probe_checks.check_repeatability, ("result", "global generators")),
    Step(probe_checks.check_test_labels, ("result", "repeatability", "features unchanged", "global generators")),
)


def check_strategy(strategy: Strategy | str) -> Report:
    """Run every check on a strategy, with its own parameters and in the matched regime.

    Takes about a second on a CPU. No clock is involved: a report is the same on every machine.

    Args:
        strategy: An instance, or the name of a registered strategy, which is then checked with its defaults.

    Returns:
        The report. A check that fails, or an error in the strategy, is a finding and raises nothing. A check that could
        only repeat what an earlier one found is left out.

    Raises:
        UsageError: No strategy has this name.
    """
    if isinstance(strategy, str):
        strategy = REGISTRY.create(strategy)
    return run_steps(strategy, STRATEGY_STEPS)


def check_objective(objective: Objective | str) -> Report:
    """Run every check on an objective, with a tiny encoder and views of random images.

    Args:
        objective: An instance, or the name of a registered objective, which is then checked with its defaults.

    Returns:
        The report, as from `check_strategy`.

    Raises:
        UsageError: No objective has this name.
    """
    return run_steps(OBJECTIVES.create(objective) if isinstance(objective, str) else objective, OBJECTIVE_STEPS)


def check_probe(probe: Probe | str) -> Report:
    """Run every check on a probe, with a tiny encoder and a tiny data set of three classes.

    Args:
        probe: An instance, or the name of a registered probe, which is then checked with its defaults.

    Returns:
        The report, as from `check_strategy`.

    Raises:
        UsageError: No probe has this name.
    """
    return run_steps(PROBES.create(probe) if isinstance(probe, str) else probe, PROBE_STEPS)


def check_component(component: Component) -> Report:
    """The report on a strategy, an objective or a probe."""
    steps = {Strategy: STRATEGY_STEPS, Objective: OBJECTIVE_STEPS, Probe: PROBE_STEPS}
    return run_steps(component, next(own for kind, own in steps.items() if isinstance(component, kind)))


def components_of(plugin: str) -> list[Component]:
    """Load a plugin; the strategies, objectives and probes that it registers, with their defaults.

    Args:
        plugin: FILE.py or package.module.

    Raises:
        UsageError: It is missing or broken.
    """
    found: list[Component] = [REGISTRY.create(name) for name in REGISTRY.load(plugin)]
    file = str(Path(plugin).resolve())
    others: tuple[Registry[Any], ...] = (OBJECTIVES, PROBES)  # the plugin registers itself there when it is imported
    for registry in others:
        made = (registry.create(name) for name in registry.names() if name not in registry.broken)
        found += [
            one
            for one in made
            if file in (str(Path(each).resolve()) for each in source_files(one)) or type(one).__module__ == plugin
        ]
    return found


def components_named(text: str) -> list[Component]:
    """Strategies, NAME[:key=value...],..., or an objective or a probe of this name.

    Raises:
        UsageError: Nothing has this name, or a parameter is wrong.
    """
    registries: tuple[Registry[Any], ...] = (REGISTRY, OBJECTIVES, PROBES)
    found: list[Component] = []
    for spec in parse_specs(text):
        registry = next((one for one in registries if spec["name"] in one.names()), REGISTRY)
        found.append(registry.create(spec["name"], **spec["parameters"]))
    return found


def run_steps(component: Component, steps: Sequence[Step]) -> Report:
    """Run the checks in order, without those that a failed one makes meaningless."""
    findings: list[Finding] = []
    roots: dict[str, str] = {}  # of a check that did not pass, the one that failed first
    for step in steps:
        name = check_name(step.check)
        cause = next((roots[before] for before in step.after if before in roots), "")
        finding = Finding(name, _requirement(step), waits_for=cause) if cause else _run_check(step, component)
        findings.append(finding)
        if finding.failure or cause:
            roots[name] = cause or name
    return Report(component, tuple(findings))


def check_name(check: Callable[..., None]) -> str:
    """How a check is called in reports, e.g. "row independence"."""
    return check.__name__.removeprefix("check_").replace("_", " ")


def _requirement(step: Step) -> str:
    return (step.check.__doc__ or "").rstrip(".")


def _run_check(step: Step, component: Component) -> Finding:
    name = check_name(step.check)
    try:
        with exits_as_errors():
            step.check(component)
    except AssertionError as error:
        return Finding(
            name, _requirement(step), _one_line(error) or "an assertion fails", locate_error(error, component)
        )
    except Exception as error:  # a plugin may raise anything
        said = f"{type(error).__name__}: {_one_line(error)}".removeprefix("ContractError: ")
        return Finding(
            name, _requirement(step), said.removeprefix(f"{component.name}: "), locate_error(error, component)
        )
    return Finding(name, _requirement(step))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
