"""Online k-NN: quick readings on the validation part while training runs, for the learning curve."""

import torch

from maskbench.config.settings import System
from maskbench.data.splits import Split, Splits, stratified_order
from maskbench.models.encoder import Encoder
from maskbench.probe import accuracy, extract
from maskbench.probes.knn import Knn
from maskbench.training.collapse import effective_rank

BANK_IMAGES = 2_000  # training images that vote, of those that are not held out
QUERY_IMAGES = 2_000  # validation images that are classified


class OnlineKnn:
    """`knn` on a stratified subset: cheap, noisier than the probe, and never on test."""

    def __init__(self, splits: Splits, system: System) -> None:
        self.splits, self.system = splits, system
        self.bank = _stratified_subset(splits.train.subset(splits.fit.to(splits.train.labels.device)), BANK_IMAGES)
        held_out = splits.validation
        if isinstance(held_out, torch.Tensor):
            held_out = splits.train.subset(held_out.to(splits.train.labels.device))
        self.queries = _stratified_subset(held_out, QUERY_IMAGES)

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Read the encoder as it is now.

        Returns:
            {"online/knn/top1/<pooling>": accuracy in [0, 1], "online/rank/<pooling>": effective dimensions}; the latter
            alone where images have no labels.
        """
        bank = extract(encoder, self.bank, self.splits, self.system)
        queries = extract(encoder, self.queries, self.splits, self.system)
        classes = len(self.splits.classes)
        probe, readings = Knn(k=20), {}
        for pooling in sorted(bank):
            if classes:
                predicted = probe.predict(bank[pooling], self.bank.labels, queries[pooling], classes)[20]
                readings[f"online/knn/top1/{pooling}"] = accuracy(predicted, self.queries.labels)
            readings[f"online/rank/{pooling}"] = effective_rank(queries[pooling])
        return readings


def _stratified_subset(images: Split, count: int) -> Split:
    order = stratified_order(images.labels.cpu())[:count].sort().values
    return images.subset(order.to(images.labels.device))
