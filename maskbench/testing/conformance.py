"""The conformance suite: whether a strategy, anybody's plugin included, keeps the contract."""

from dataclasses import dataclass

from maskbench.strategy import REGISTRY, Strategy
from maskbench.testing.checks import CHECKS, Check


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: Name of the check, e.g. "row independence".
        requirement: What a strategy must do to pass it.
        failure: What is wrong, or "" if the check passed.
    """

    check: str
    requirement: str
    failure: str = ""


@dataclass(frozen=True)
class Report:
    """What `check_strategy` found. `str(report)` is a text for people, a line a check.

    Attributes:
        strategy: The strategy that was checked.
        findings: The result of each check, in the order in which they ran.
    """

    strategy: Strategy
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return not any(finding.failure for finding in self.findings)

    def __str__(self) -> str:
        width = max(len(finding.check) for finding in self.findings)
        lines = []
        for finding in self.findings:
            lines.append(f"{'FAIL' if finding.failure else 'ok  '}  {finding.check:{width}} {finding.requirement}")
            if finding.failure:
                lines.append(f"      {'':{width}} -> {finding.failure}")
        failed = sum(bool(finding.failure) for finding in self.findings)
        verdict = "conforms" if not failed else f"fails {failed} of {len(self.findings)} checks"
        return "\n".join([*lines, f"{self.strategy.name} {verdict}"])


def check_strategy(strategy: Strategy | str) -> Report:
    """Run every check on a strategy, with its own parameters and in the matched regime.

    Takes about a second on a CPU. No clock is involved: a report is the same on every machine.

    Args:
        strategy: An instance, or the name of a registered strategy, which is then checked with its defaults.

    Returns:
        The report. A check that fails, or an error in the strategy, is a finding and raises nothing.

    Raises:
        UsageError: No strategy has this name.
    """
    if isinstance(strategy, str):
        strategy = REGISTRY.create(strategy)
    return Report(strategy, tuple(_run_check(check, strategy) for check in CHECKS))


def _run_check(check: Check, strategy: Strategy) -> Finding:
    failure = ""
    try:
        check(strategy)
    except AssertionError as error:
        failure = " ".join(str(error).split())
    except Exception as error:  # a plugin may raise anything
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    name = check.__name__.removeprefix("check_").replace("_", " ")
    return Finding(name, (check.__doc__ or "").rstrip("."), failure)
