"""The learning curve: quick k-NN readings on the validation part while training runs."""

import torch

from maskbench.config.schema import System
from maskbench.data.splits import Split, Splits, stratified_order
from maskbench.models.encoder import Encoder
from maskbench.probe import accuracy, extract
from maskbench.probes.knn import Knn
from maskbench.training.collapse import effective_rank

BANK = 2_000  # images known, from the part of train that is not held out
ASKED = 2_000  # validation images asked about


class OnlineKnn:
    """Reads `knn` from a stratified subset: cheap and noisier than the probe, and never from test."""

    def __init__(self, splits: Splits, system: System) -> None:
        self.splits, self.system = splits, system
        self.bank = _subset(splits.train.part(splits.fit.to(splits.train.labels.device)), BANK)
        held_out = splits.validation
        if isinstance(held_out, torch.Tensor):
            held_out = splits.train.part(held_out.to(splits.train.labels.device))
        self.asked = _subset(held_out, ASKED)

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """{"online/knn/top1/<pooling>": share, "online/rank/<pooling>": effective dimensions} of the encoder as it
        stands."""
        known = extract(encoder, self.bank, self.splits, self.system)
        asked = extract(encoder, self.asked, self.splits, self.system)
        probe, readings = Knn(k=20), {}
        for pooling in sorted(known):
            answers = probe.predictions(known[pooling], self.bank.labels, asked[pooling], len(self.splits.classes))[20]
            readings[f"online/knn/top1/{pooling}"] = accuracy(answers, self.asked.labels)
            readings[f"online/rank/{pooling}"] = effective_rank(asked[pooling])
        return readings


def _subset(images: Split, most: int) -> Split:
    order = stratified_order(images.labels.cpu())[:most].sort().values
    return images.part(order.to(images.labels.device))
