"""Your own strategy against random masking and no training at all, over three seeds.

    python examples/own_strategy.py [OUTPUT]

Prints the mean accuracy of each strategy, and the difference from random masking, seed by seed.
"""

import sys

import maskbench
from maskbench.strategy import Context, Ratio, Strategy, Tensor, View, dataclass, hide, register

SEEDS = (0, 1, 2)
METRIC = "knn/top1/mean"  # nearest neighbours of the mean of the patch tokens


@register("vertical-bands")
@dataclass(frozen=True, kw_only=True)
class VerticalBands(Strategy):
    """Hides whole columns of patches, so that nothing above or below a hidden patch reveals it."""

    ratio: Ratio = 0.75

    def __call__(self, images: Tensor, context: Context) -> View:
        grid = context.grid
        columns = context.uniform(grid.cols).repeat(1, grid.rows)  # (B, N): the patches of a column share a number
        scores = columns + 1e-4 * context.uniform(grid.size)  # which patches go first in a partly hidden column
        count = grid.count(self.ratio)
        return View(images, hide(scores, count), length=grid.size - count)


def main(output: str) -> None:
    small = {  # 20 seconds on two CPU cores; remove these lines for a longer comparison
        "data.limit": 500, "data.img_size": 16, "train.epochs": 3, "train.warmup_epochs": 1, "train.batch_size": 100,
        "model.kwargs": {"embed_dim": 64, "depth": 2, "num_heads": 2}, "probes": "knn",
    }  # fmt: skip
    controlled = {"regime": "matched", "ratio": 0.75}  # every strategy hides 75 % of every image
    for seed in SEEDS:
        for strategy in ("random", "vertical-bands"):
            maskbench.run({**small, **controlled, "strategy": strategy, "seed": seed, "output": output})
        maskbench.run({**small, "strategy": "none", "objective": "random-init", "seed": seed, "output": output})

    results = maskbench.load_results(output)
    accuracy = 100 * results.pivot(index="seed", columns="label", values=METRIC)
    print(accuracy.mean().rename("accuracy in %").round(1).to_string())
    difference = (accuracy["vertical-bands"] - accuracy["random"]).rename("vertical-bands - random, in points")
    print(difference.round(1).to_string())


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "results/own-strategy")
