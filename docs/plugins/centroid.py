"""The nearest class mean."""

from dataclasses import dataclass

import torch

from maskbench.probe import FeatureProbe, Features, ProbeResult, accuracy, register


@register("centroid")
@dataclass(frozen=True, kw_only=True)
class Centroid(FeatureProbe):
    """Each test image gets the class whose mean training feature is nearest."""

    def ask(self, features: dict[str, Features]) -> ProbeResult:
        result = ProbeResult()
        for pooling, data in features.items():  # "cls" and "mean"
            classes = range(data.classes)
            members = [data.train[data.train_labels == number] for number in classes]
            means = torch.stack([own.mean(0) for own in members])
            predicted = torch.cdist(data.test, means).argmin(1)
            result.metrics[f"centroid/top1/{pooling}"] = accuracy(predicted, data.test_labels)
        return result
