"""The runs that one command asks for, and the trials by which their settings are chosen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from maskbench.config.claims import Claim
from maskbench.config.settings import RunConfig
from maskbench.config.suite import Choice, Suite, expand_suite, expand_trials

ChooseSettings = Callable[[str], dict[str, Any]]  # of a row of the table that is tuned, its settings


class RunSet(Protocol):
    """Configurations to carry out together."""

    @property
    def trials(self) -> list[RunConfig]:
        """The runs by which settings are chosen; none where nothing is tuned."""

    @property
    def claims(self) -> list[Claim]:
        """What the comparison is to decide."""

    def runs(self, choose: ChooseSettings | None = None) -> list[RunConfig]:
        """The runs to compare. choose: gives the settings of a tuned row; the first combination if it is None."""


@dataclass(frozen=True)
class FixedRuns:
    """Runs whose settings are all known."""

    configs: list[RunConfig]

    @property
    def trials(self) -> list[RunConfig]:
        return []

    @property
    def claims(self) -> list[Claim]:
        return []

    def runs(self, _: ChooseSettings | None = None) -> list[RunConfig]:
        return self.configs


@dataclass(frozen=True)
class SuiteRuns:
    """The runs of a suite. overrides: settings by dotted path, laid over the suite's."""

    name: str
    suite: Suite
    overrides: Choice

    @property
    def trials(self) -> list[RunConfig]:
        return expand_trials(self.name, self.suite, self.overrides)

    @property
    def claims(self) -> list[Claim]:
        return self.suite.claims

    def runs(self, choose: ChooseSettings | None = None) -> list[RunConfig]:
        return expand_suite(self.name, self.suite, self.overrides, choose)
