"""Progress bars on a terminal, one for each run under way, from the live status in its folder."""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from maskbench.runs.reporter import Reporter, Terminal
from maskbench.runs.status import Status, read_status
from maskbench.runtime.escaping import escape_control

UPDATE_EVERY_S = 2.0


class ProgressBars(AbstractContextManager["ProgressBars"]):
    """Bars below the lines of `reporter` where that is a terminal; otherwise nothing."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        console = reporter.console if isinstance(reporter, Terminal) else None
        columns = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[words]}", markup=False),
            TimeRemainingColumn(compact=True),
        ]
        is_shown = console is not None and console.is_terminal
        self.progress = Progress(*columns, console=console, transient=True, disable=not is_shown)
        self.total_bar = self.progress.add_task("all runs", total=total, words="")
        self.bars: dict[str, TaskID] = {}
        self.updated_at = 0.0

    def __enter__(self) -> "ProgressBars":
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def update(self, done: int, folders: Mapping[str, Path]) -> None:
        """Update the bars, at most every UPDATE_EVERY_S. folders: of the runs that are submitted, by run id."""
        if self.progress.disable or time.monotonic() - self.updated_at < UPDATE_EVERY_S:
            return
        self.updated_at = time.monotonic()
        for run_id in self.bars.keys() - folders.keys():
            self.progress.remove_task(self.bars.pop(run_id))
        statuses = [read_status(folder, lambda: None) for folder in folders.values()]
        running = [status for status in statuses if status.state == "running"]
        for status in running:
            self._update_bar(status)
        words = f"{done} done, {len(running)} running, {len(folders) - len(running)} queued"
        self.progress.update(self.total_bar, completed=done, words=words)

    def _update_bar(self, status: Status) -> None:
        if status.run_id not in self.bars:
            self.bars[status.run_id] = self.progress.add_task(status.run_id, total=None, words="")
        words = escape_control(" ".join([status.note, *status.where.split()[-1:]]))
        self.progress.update(
            self.bars[status.run_id], completed=status.step or 0, total=status.steps or None, words=words
        )
