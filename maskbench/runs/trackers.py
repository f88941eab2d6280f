"""A run's curve in TensorBoard, Weights & Biases or MLflow as it is made: the numbers of metrics.csv, nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from maskbench.errors import UsageError, unknown_name
from maskbench.runs.reporter import Reporter

if TYPE_CHECKING:
    from maskbench.data.splits import Splits
    from maskbench.record import RunRecord
    from maskbench.runs.plan import Plan


class Tracker(Reporter, ABC):
    """Opens when a run begins, closes when it ends, whatever way it ends."""

    def __init__(self) -> None:
        self.run: Any = None
        self.reached = 0

    def begin(self, plan: "Plan", splits: "Splits", steps: int) -> None:
        self.reached = 0
        self.run = self.open_run(plan)

    def epoch(self, row: dict[str, float]) -> None:
        self.reached = int(row["step"])
        self.log({name: value for name, value in row.items() if name != "step"})

    def end(self, record: "RunRecord | None") -> None:
        if self.run is not None:
            if record is not None:
                self.log(record.metrics)
            self.close()
            self.run = None

    @abstractmethod
    def open_run(self, plan: "Plan") -> Any:
        """What numbers are logged to."""

    @abstractmethod
    def log(self, numbers: dict[str, float]) -> None:
        """Log numbers at the step reached."""

    @abstractmethod
    def close(self) -> None:
        """Finish: nothing more will come."""


class TensorBoard(Tracker):
    """Event files in the run's own folder: `tensorboard --logdir results`."""

    def open_run(self, plan: "Plan") -> Any:
        writer = import_module("torch.utils.tensorboard").SummaryWriter(str(plan.folder / "tensorboard"))
        writer.add_text("config", f"```\n{plan.config.model_dump_json(indent=1)}\n```")
        return writer

    def log(self, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.run.add_scalar(name, value, self.reached, new_style=True, double_precision=True)
        self.run.flush()

    def close(self) -> None:
        self.run.close()


class Wandb(Tracker):
    """Project `maskbench` unless WANDB_PROJECT names another; WANDB_MODE=offline works."""

    def open_run(self, plan: "Plan") -> Any:
        return import_module("wandb").init(
            project=None if _is_set("WANDB_PROJECT") else "maskbench",
            name=plan.run_id,
            group=plan.config.output,
            config=plan.config.model_dump(mode="json"),
            dir=str(plan.folder),
            reinit="finish_previous",
        )

    def log(self, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=self.reached)

    def close(self) -> None:
        self.run.finish()


class Mlflow(Tracker):
    """An experiment a results folder, where MLFLOW_TRACKING_URI says or as MLflow has it by default."""

    def open_run(self, plan: "Plan") -> Any:
        from maskbench.runs.resume import flatten

        mlflow = import_module("mlflow")
        mlflow.set_experiment(plan.config.output)
        run = mlflow.start_run(run_name=plan.run_id)
        mlflow.log_params(flatten(plan.config.model_dump(mode="json")))
        return run

    def log(self, numbers: dict[str, float]) -> None:
        import_module("mlflow").log_metrics(numbers, step=self.reached)

    def close(self) -> None:
        import_module("mlflow").end_run()


TRACKERS: dict[str, tuple[type[Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (Wandb, "wandb"),
    "mlflow": (Mlflow, "mlflow"),
}


def _is_set(variable: str) -> bool:
    import os

    return bool(os.environ.get(variable))


def create_trackers(names: Sequence[str]) -> list[Tracker]:
    """Trackers by name. UsageError for an unknown one, or one whose package is not installed."""
    trackers = []
    for name in names:
        if name not in TRACKERS:
            raise unknown_name("tracker", name, TRACKERS)
        tracker, package = TRACKERS[name]
        try:
            import_module(package)
        except ImportError:
            raise UsageError(f"--track {name} needs a package: pip install 'maskbench[track]'") from None
        trackers.append(tracker())
    return trackers


class TrackingReporter(Reporter):
    """Passes everything on to a reporter and to trackers. A tracker that fails is reported once and left out."""

    def __init__(self, reporter: Reporter, trackers: Sequence[Tracker]) -> None:
        self.reporter, self.trackers = reporter, list(trackers)

    def note(self, text: str) -> None:
        self.reporter.note(text)

    def begin(self, plan: "Plan", splits: "Splits", steps: int) -> None:
        self.reporter.begin(plan, splits, steps)
        if steps:
            self._each(lambda tracker: tracker.begin(plan, splits, steps))

    def step(self, state: Any, loss: float | None) -> None:
        self.reporter.step(state, loss)

    def epoch(self, row: dict[str, float]) -> None:
        self.reporter.epoch(row)
        self._each(lambda tracker: tracker.epoch(row))

    def probing(self) -> None:
        self.reporter.probing()

    def end(self, record: "RunRecord | None") -> None:
        self.reporter.end(record)
        self._each(lambda tracker: tracker.end(record))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self.trackers):
            try:
                call(tracker)
            except Exception as error:
                self.trackers.remove(tracker)
                self.note(f"{type(tracker).__name__} stopped tracking: {type(error).__name__}: {error}")
