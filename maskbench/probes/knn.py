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
    DINO's [10, 20, 100, 200], are computed in one pass.
    """

    k: Count | Annotated[tuple[Count, ...], Field(min_length=1)] = 20
    temperature: Annotated[float, Field(gt=0)] = 0.07

    def ask(self, features: dict[str, Features]) -> ProbeResult:
        result = ProbeResult()
        for pooling, data in features.items():
            for k, predicted in self.predict(data.train, data.train_labels, data.test, data.classes).items():
                label = "knn" if k == 20 else f"knn-{k}"
                result.metrics[f"{label}/top1/{pooling}"] = accuracy(predicted, data.test_labels)
                result.predictions[f"{label}/{pooling}"] = predicted
        return result

    def predict(
        self, bank: Tensor, labels: Tensor, queries: Tensor, classes: int, chunk: int = 500
    ) -> dict[int, Tensor]:
        """Predict the classes of features by the vote of their neighbours.

        Args:
            bank: (m, D) features with known classes. Where k is larger, all m vote.
            labels: (m,) int64 their classes.
            queries: (n, D) features to classify.
            classes: How many there are.
            chunk: Queries at a time. It bounds the memory: 500 x 50,000 similarities are 95 MiB.

        Returns:
            (n,) int64 for each k.
        """
        counts = sorted({self.k} if isinstance(self.k, int) else {*self.k})
        bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
        predicted: dict[int, list[Tensor]] = {k: [] for k in counts}
        for rows in queries.split(chunk):
            similarity, nearest = (rows @ bank.T).topk(min(counts[-1], len(bank)), dim=1)  # in descending order
            weights, neighbour_labels = ((similarity - 1) / self.temperature).exp(), labels[nearest]
            for k in counts:
                votes = torch.zeros(len(rows), classes, device=rows.device)
                predicted[k].append(votes.scatter_add_(1, neighbour_labels[:, :k], weights[:, :k]).argmax(1))
        return {k: torch.cat(chunks) for k, chunks in predicted.items()}
