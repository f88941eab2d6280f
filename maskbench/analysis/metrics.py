"""The metrics that tables and figures are about, and which of them decides."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("knn/top1/cls", "knn/top1/mean", "linear/top1/cls", "linear/top1/mean")
PRIMARY = METRICS[::-1]  # the first of these that there is decides order, differences and groups
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
    """The first of PRIMARY that one of the runs has; None where no run has any."""
    return next((name for name in PRIMARY if name in runs and runs[name].notna().any()), None)


def heading(metric: str) -> str:
    """ "knn/top1/cls" -> "k-NN cls"."""
    probe, _, pooling = metric.partition("/top1/")
    return f"{probe.replace('knn', 'k-NN')} {pooling}"
