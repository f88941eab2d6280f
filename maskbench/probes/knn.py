"""Weighted k-nearest-neighbour classification."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from maskbench.probe import Features, Probe, ProbeResult, accuracy, register


@register("knn")
@dataclass(frozen=True, kw_only=True)
class Knn(Probe):
    """The k nearest training images by cosine similarity vote with weight exp(similarity / temperature).

    Protocol of Wu et al. (arXiv 1805.01978) as DINO (arXiv 2104.14294) uses it: k = 20, temperature 0.07, features
    scaled to unit length and not centred. Exact: every training image is compared. Nothing is chosen.
    """

    k: Annotated[int, Field(ge=1)] = 20
    temperature: Annotated[float, Field(gt=0)] = 0.07

    def __call__(self, features: dict[str, Features]) -> ProbeResult:
        label = "knn" if self.k == 20 else f"knn-{self.k}"
        result = ProbeResult()
        for pooling, given in features.items():
            predicted = self.predict(given.train, given.train_labels, given.test, given.classes)
            result.metrics[f"{label}/top1/{pooling}"] = accuracy(predicted, given.test_labels)
            result.predictions[f"{label}/{pooling}"] = predicted
        return result

    def predict(self, known: Tensor, labels: Tensor, asked: Tensor, classes: int, chunk: int = 500) -> Tensor:
        """(n,) int64 class of each `asked` (n, D), from `known` (m, D) with labels (m,); k shrinks to m if larger."""
        known, asked = F.normalize(known, dim=1), F.normalize(asked, dim=1)
        k = min(self.k, len(known))
        predicted = []
        for part in asked.split(chunk):  # chunks bound the memory: 500 x 50,000 similarities are 95 MiB
            similarity, nearest = (part @ known.T).topk(k, dim=1)
            votes = torch.zeros(len(part), classes, device=part.device)
            votes.scatter_add_(1, labels[nearest], ((similarity - 1) / self.temperature).exp())
            predicted.append(votes.argmax(1))
        return torch.cat(predicted)
