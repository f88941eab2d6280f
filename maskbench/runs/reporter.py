"""Who gets to know what happens in a run: nobody, or a terminal."""

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from maskbench.runtime.escaping import escape_control, escape_lines

if TYPE_CHECKING:
    from maskbench.data.splits import Splits
    from maskbench.record import RunRecord
    from maskbench.runs.plan import Plan
    from maskbench.training.train_state import TrainState

SHOWN = 8  # numbers of the probes in the line that ends a run


class Reporter:
    """Says nothing. Subclasses override the events that they report."""

    def note(self, text: str) -> None:
        """A fact worth a line."""

    def begin(self, plan: "Plan", splits: "Splits", steps: int) -> None:
        """Work is about to start: `steps` of training, then probing."""

    def step(self, state: "TrainState", loss: float | None) -> None:
        """A step was made; `loss` where it was read."""

    def epoch(self, row: dict[str, float]) -> None:
        """The curve has a new row."""

    def probing(self) -> None:
        """Training is over."""

    def end(self, record: "RunRecord | None") -> None:
        """The record is written; None: the run was interrupted or failed."""


class _Stderr(Console):
    """stderr. A reader that is gone stops no run."""

    def on_broken_pipe(self) -> None:
        """Go on in silence."""


class Terminal(Reporter):
    """Lines and, on a terminal, a progress bar with loss, images/s and time left, all on stderr."""

    def __init__(self, bar: bool = True) -> None:
        self.bar = bar
        self.console = _Stderr(file=sys.stderr, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._batch = 0
        self._epochs = 0
        self._label = ""

    def note(self, text: str) -> None:
        self.console.print(escape_lines(text), markup=False)

    def begin(self, plan: "Plan", splits: "Splits", steps: int) -> None:
        train = plan.config.train
        self._label, self._batch, self._epochs = (
            escape_control(f"{plan.label} s{plan.config.seed}"),
            train.batch_size,
            train.epochs,
        )
        if steps:
            peak = "" if train.warmup_epochs < train.epochs else ", reached at the end: all of it is warm-up"
            self.note(
                f"{plan.run_id}: {train.epochs} epochs x {len(splits.train):,} images, {steps} steps of "
                f"{train.batch_size}, peak lr {plan.config.lr:g}{peak}, {plan.config.system.device} "
                f"{plan.config.system.precision}"
            )
        else:
            self.note(f"{plan.run_id}: {plan.label}, not trained")
        if not (self.bar and self.console.is_terminal):
            return
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
        )
        self._progress.start()
        self._task = self._progress.add_task(self._label, total=steps or None, numbers="")

    def step(self, state: "TrainState", loss: float | None) -> None:
        if self._progress is None:
            return
        self._progress.update(self._task, completed=state.step)
        if loss is not None:
            speed = self._progress.tasks[0].speed
            rate = f"{speed * self._batch:.0f} images/s" if speed else ""
            epoch = len(state.curve) + 1
            self._progress.update(self._task, numbers=f"epoch {epoch}/{self._epochs}  loss {loss:.4f}  {rate}")

    def probing(self) -> None:
        if self._progress is not None:
            self._progress.update(self._task, description=f"{self._label}: probing", total=None, numbers="")

    def end(self, record: "RunRecord | None") -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if record is None:
            return
        if record.error:
            self.note(f"{record.run_id}: {record.status}: {record.error}")
            return
        shown = [f"{name} {100 * value:.1f} %" for name, value in record.metrics.items() if "/top1/" in name]
        if len(shown) > SHOWN:
            shown[SHOWN:] = [f"{len(shown) - SHOWN} more in the record"]
        self.note(f"{record.run_id}: {', '.join(shown)}; {record.metrics['cost/wall_s']:.0f} s")
