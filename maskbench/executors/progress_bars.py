"""How far all runs are, on a terminal: a bar for each that is under way, from what it publishes in its folder."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from maskbench.runs.reporter import Reporter, Terminal
from maskbench.runs.status import Status, status

LOOK_EVERY_S = 2.0


class Board(AbstractContextManager["Board"]):
    """Bars below the lines of `reporter`, where that is a terminal; otherwise nothing."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        shown = isinstance(reporter, Terminal) and reporter.console.is_terminal
        columns = [
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[words]}"),
            TimeRemainingColumn(compact=True),
        ]
        self.progress = Progress(
            *columns, console=reporter.console if isinstance(reporter, Terminal) else None, transient=True,
            disable=not shown,
        )  # fmt: skip
        self.all = self.progress.add_task("all runs", total=total, words="")
        self.bars: dict[str, TaskID] = {}
        self.looked = 0.0

    def __enter__(self) -> "Board":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def show(self, done: int, under_way: Mapping[str, Path]) -> None:
        """The runs under way, by id and folder; every two seconds, however often this is called."""
        if self.progress.disable or time.monotonic() - self.looked < LOOK_EVERY_S:
            return
        self.looked = time.monotonic()
        for run_id in self.bars.keys() - under_way.keys():
            self.progress.remove_task(self.bars.pop(run_id))
        running = 0
        for folder in under_way.values():
            each = status(folder, lambda: None)
            if each.state == "running":
                running += 1
                self._bar(each)
        words = f"{done} done, {running} running, {len(under_way) - running} queued"
        self.progress.update(self.all, completed=done, words=words)

    def _bar(self, each: Status) -> None:
        if each.run_id not in self.bars:
            self.bars[each.run_id] = self.progress.add_task(each.run_id, total=None, words="")
        self.progress.update(
            self.bars[each.run_id], completed=each.step or 0, total=each.steps or None,
            words=" ".join([each.note, *each.where.split()[-1:]]),
        )  # fmt: skip
