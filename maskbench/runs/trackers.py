"""A run's curve in TensorBoard, Weights & Biases or MLflow as it is made: the numbers of metrics.csv, nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from maskbench.errors import UsageError, unknown
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

    def begin(self, planned: "Plan", splits: "Splits", steps: int) -> None:
        self.reached = 0
        self.run = self.opened(planned)

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
    def opened(self, planned: "Plan") -> Any:
        """What numbers are logged to."""

    @abstractmethod
    def log(self, numbers: dict[str, float]) -> None:
        """At the step reached."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will come."""


class TensorBoard(Tracker):
    """Event files in the run's own folder: `tensorboard --logdir results`."""

    def opened(self, planned: "Plan") -> Any:
        writer = import_module("torch.utils.tensorboard").SummaryWriter(str(planned.folder / "tensorboard"))
        writer.add_text("config", f"```\n{planned.config.model_dump_json(indent=1)}\n```")
        return writer

    def log(self, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.run.add_scalar(name, value, self.reached, new_style=True, double_precision=True)
        self.run.flush()

    def close(self) -> None:
        self.run.close()


class Wandb(Tracker):
    """Project `maskbench` unless WANDB_PROJECT names another; WANDB_MODE=offline works."""

    def opened(self, planned: "Plan") -> Any:
        return import_module("wandb").init(
            project=None if _set("WANDB_PROJECT") else "maskbench",
            name=planned.run_id,
            group=planned.config.output,
            config=planned.config.model_dump(mode="json"),
            dir=str(planned.folder),
            reinit="finish_previous",
        )

    def log(self, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=self.reached)

    def close(self) -> None:
        self.run.finish()


class Mlflow(Tracker):
    """An experiment a results folder, where MLFLOW_TRACKING_URI says or as MLflow has it by default."""

    def opened(self, planned: "Plan") -> Any:
        from maskbench.runs.resume import flat

        mlflow = import_module("mlflow")
        mlflow.set_experiment(planned.config.output)
        run = mlflow.start_run(run_name=planned.run_id)
        mlflow.log_params(flat(planned.config.model_dump(mode="json")))
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


def _set(variable: str) -> bool:
    import os

    return bool(os.environ.get(variable))


def trackers(names: Sequence[str]) -> list[Tracker]:
    """Trackers by name. UsageError for an unknown one, or one whose package is not installed."""
    made = []
    for name in names:
        if name not in TRACKERS:
            raise unknown("tracker", name, TRACKERS)
        tracker, package = TRACKERS[name]
        try:
            import_module(package)
        except ImportError:
            raise UsageError(f"--track {name} needs a package: pip install 'maskbench[track]'") from None
        made.append(tracker())
    return made


class Tracked(Reporter):
    """A reporter and trackers beside it. A tracker that fails is told of once and left out: it stops no run."""

    def __init__(self, reporter: Reporter, beside: Sequence[Tracker]) -> None:
        self.reporter, self.beside = reporter, list(beside)

    def note(self, text: str) -> None:
        self.reporter.note(text)

    def begin(self, planned: "Plan", splits: "Splits", steps: int) -> None:
        self.reporter.begin(planned, splits, steps)
        if steps:
            self._each(lambda tracker: tracker.begin(planned, splits, steps))

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
        for tracker in list(self.beside):
            try:
                call(tracker)
            except Exception as error:
                self.beside.remove(tracker)
                self.note(f"{type(tracker).__name__} stopped tracking: {type(error).__name__}: {error}")
