"""Weighted k-nearest-neighbour classification."""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from maskbench.probe import FeatureProbe, Features, ProbeResult, accuracy, register

Count = Annotated[int, Field(ge=1)]


@register("knn")
@dataclass(frozen=True, kw_only=True)
class Knn(FeatureProbe):
    """The k nearest training images by cosine similarity vote with weight exp(similarity / temperature).

    Protocol of Wu et al. (arXiv 1805.01978) as DINO (arXiv 2104.14294) uses it: k = 20, temperature 0.07, features
    scaled to unit length and not centred. Exact: every training image is compared. Nothing is chosen. Several k, e.g.
    DINO's [10, 20, 100, 200], are answered in one pass.
    """

    k: Count | Annotated[tuple[Count, ...], Field(min_length=1)] = 20
    temperature: Annotated[float, Field(gt=0)] = 0.07

    def ask(self, features: dict[str, Features]) -> ProbeResult:
        result = ProbeResult()
        for pooling, given in features.items():
            for k, predicted in self.predictions(given.train, given.train_labels, given.test, given.classes).items():
                label = "knn" if k == 20 else f"knn-{k}"
                result.metrics[f"{label}/top1/{pooling}"] = accuracy(predicted, given.test_labels)
                result.predictions[f"{label}/{pooling}"] = predicted
        return result

    def predictions(
        self, known: Tensor, labels: Tensor, asked: Tensor, classes: int, chunk: int = 500
    ) -> dict[int, Tensor]:
        """For each k the (n,) int64 classes of `asked` (n, D), from `known` (m, D) with labels (m,); all m vote where
        k is larger."""
        counts = sorted({self.k} if isinstance(self.k, int) else {*self.k})
        known, asked = F.normalize(known, dim=1), F.normalize(asked, dim=1)
        predicted: dict[int, list[Tensor]] = {k: [] for k in counts}
        for part in asked.split(chunk):  # chunks bound the memory: 500 x 50,000 similarities are 95 MiB
            similarity, nearest = (part @ known.T).topk(min(counts[-1], len(known)), dim=1)  # in descending order
            weights, classes_of = ((similarity - 1) / self.temperature).exp(), labels[nearest]
            for k in counts:
                votes = torch.zeros(len(part), classes, device=part.device)
                predicted[k].append(votes.scatter_add_(1, classes_of[:, :k], weights[:, :k]).argmax(1))
        return {k: torch.cat(parts) for k, parts in predicted.items()}
