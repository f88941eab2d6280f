"""The metrics that tables and figures are about, and which of them decides."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("knn/top1/cls", "knn/top1/mean", "linear/top1/cls", "linear/top1/mean")
PRIMARY = METRICS[::-1]  # of a run that states none, the first of these that was measured decides
COSTS = (
    "cost/images_per_s",
    "cost/mask_share",
    "cost/peak_memory_mib",
    "cost/gflops_per_image",
    "realised_ratio_mean",
)
LENGTHS = ("epochs", "cost/train_s", "cost/train_tflops")  # of the training, where a budget decides it
BASELINE = "random"
UNTRAINED = "random-init"


def deciding_metric(runs: "pd.DataFrame") -> str | None:
    """The metric that all runs state as their primary one; if they state several, or it was not measured, the first of
    PRIMARY that one of them has. None where no run has any."""
    stated = set(runs["primary"]) if "primary" in runs else set()
    return first_measured(
        [*stated] if len(stated) == 1 else [], lambda name: name in runs and bool(runs[name].notna().any())
    )


def first_measured(stated: list[str], is_measured: Callable[[str], bool]) -> str | None:
    """The first of what is stated, then of PRIMARY, that was measured."""
    return next((name for name in (*stated, *PRIMARY) if is_measured(name)), None)


def heading(metric: str) -> str:
    """ "knn/top1/cls" -> "k-NN cls"."""
    probe, _, pooling = metric.partition("/top1/")
    return f"{probe.replace('knn', 'k-NN')} {pooling}"
