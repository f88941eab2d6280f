"""Results as a pandas DataFrame, and a figure of your own: accuracy of each seed beside the cost of a run.

    python examples/custom_plot.py [RESULTS] [FIGURE]

RESULTS is a folder that `maskbench run` wrote. Prints the mean of each strategy and writes FIGURE.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import maskbench

METRIC = "linear/top1/mean"


def main(folder: str, figure: str) -> None:
    results = maskbench.load_results(folder)
    results = results[results["status"] == "complete"]
    print(results.groupby("label")[[METRIC, "cost/images_per_s"]].mean().round(3).to_string())

    fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for label, runs in results.dropna(subset=["cost/images_per_s"]).groupby("label"):
        ax.scatter(runs["cost/images_per_s"], 100 * runs[METRIC], label=label)
    untrained = results.loc[results["label"] == "random-init", METRIC]
    if len(untrained):
        ax.axhline(100 * untrained.mean(), color="grey", linestyle=":", label="untrained")
    ax.set_xlabel("images/s in training")
    ax.set_ylabel("linear probe, top-1 in %")
    ax.legend()
    fig.savefig(figure, dpi=150)
    print(f"wrote {figure}")


if __name__ == "__main__":
    here = Path(__file__).parents[1]
    folder = sys.argv[1] if len(sys.argv) > 1 else str(here / "results" / "cifar10-small")
    main(folder, sys.argv[2] if len(sys.argv) > 2 else "accuracy.png")
