"""What a table is made of: a section for each group of comparable runs, its rows, and its columns of text."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from maskbench.analysis.statistics import Estimate

MINUS = "−"
UNFINISHED = ("failed", "diverged", "missing")


@dataclass(kw_only=True)
class Row(ABC):
    """One line of a table.

    Attributes:
        label: What the line is about: a strategy or a control, with the settings that tell it from others of its name;
            in the table of probes, a metric.
        is_control: The line is there to compare with and is no strategy.
        is_best: The highest mean, or statistically not distinguishable from it: its deciding cells are bold.
        unfinished: Number of runs that are not complete, by reason: failed, diverged or missing.
    """

    label: str
    is_control: bool = False
    is_best: bool = False
    unfinished: dict[str, int] = field(default_factory=dict)

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The row as it is written to .json; .csv flattens it."""

    @property
    def name(self) -> str:
        """The label, and how many of its runs are not complete: "gmml (1 failed)"."""
        counts = ", ".join(f"{count} {reason}" for reason, count in self.unfinished.items() if count)
        return f"{self.label} ({counts})" if counts else self.label


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Column:
    """A column of text.

    Attributes:
        heading: Its heading.
        cells: One text for each row, None where there is nothing to say.
        decides: The cells of the best rows are bold.
        is_cost: Where a page is narrow, the column goes into a second part of the table.
    """

    heading: str
    cells: list[str | None]
    decides: bool = False
    is_cost: bool = False


def make_column(
    heading: str, rows: Sequence[R], cell: Callable[[R], str | None], *, decides: bool = False, is_cost: bool = False
) -> Column:
    """A column whose cells are `cell` of each row."""
    return Column(heading, [cell(row) for row in rows], decides, is_cost)


@dataclass(kw_only=True)
class Section(ABC):
    """One table: the runs of one group.

    Attributes:
        group: What all its runs share, parts separated by " | ": data, model, length of training, probe protocols.
        rows: Its lines, in the order in which they are shown.
        about: What the table shows, where it is not the comparison.
        row_heading: What a row is.
    """

    group: str
    rows: Sequence[Row]
    about: str = ""
    row_heading: str = "strategy"

    @abstractmethod
    def columns(self) -> list[Column]:
        """Every column of this kind of table, empty ones too."""

    @property
    @abstractmethod
    def notes(self) -> list[str]:
        """Sentences below the table: what its numbers mean, and what they cannot show."""

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """What .json says between the group and the rows."""

    def to_json(self) -> dict[str, Any]:
        """The section as it is written to .json."""
        about = {"about": self.about} if self.about else {}
        rows = [row.to_json() for row in self.rows]
        return {"group": self.group, **about, **self.details(), "rows": rows, "notes": self.notes}

    def filled_columns(self) -> list[Column]:
        """The columns that have something to say in some row."""
        return [column for column in self.columns() if any(cell is not None for cell in column.cells)]


def round_stable(value: float | None) -> float | None:
    """Seven digits: enough for any reader, and the same on every platform."""
    return None if value is None else float(f"{value:.7g}")


def round_known(value: float) -> float:
    """`round_stable` of a number that is there."""
    return float(f"{value:.7g}")


def round_estimate(estimate: Estimate) -> Estimate:
    """An estimate and its interval with seven digits."""
    return Estimate(round_known(estimate.value), round_stable(estimate.low), round_stable(estimate.high))


def estimate_to_json(estimate: Estimate) -> dict[str, float | None]:
    """{"mean", "low", "high"}."""
    return {"mean": estimate.value, "low": estimate.low, "high": estimate.high}


def format_points(difference: float) -> str:
    """A difference of accuracies in points, with its sign and a real minus: 0.012 -> "+1.2"."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)
