"""The checks of a probe, on a tiny encoder and a tiny labelled data set. Users see their docstrings."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from maskbench.data.splits import Images, Splits
from maskbench.probe import Probe, ProbeResult, Subject
from maskbench.testing.cases import generator_states
from maskbench.testing.component_checks import (
    ensure_documented,
    ensure_parameters_bounded,
    ensure_parameters_survive_json,
)
from maskbench.testing.mistakes import Mistake, ensure, locate_error
from maskbench.testing.synthetic_task import CLASSES, make_encoder, make_splits, make_system


def check_documentation(probe: Probe) -> None:
    """The class has a docstring."""
    ensure_documented(probe, "say what is measured, and how choices are made")


def check_parameters(probe: Probe) -> None:
    """Parameters survive JSON, and numbers out of range are refused."""
    ensure_parameters_survive_json(probe)
    ensure_parameters_bounded(probe)


def _subject(splits: Splits | None = None) -> Subject:
    return Subject(make_encoder(), splits or make_splits(), make_system(), seed=0)


def _method(probe: Probe) -> str:
    return "ask" if hasattr(probe, "ask") else "__call__"


def _ask(probe: Probe, subject: Subject) -> ProbeResult:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        try:
            return probe(subject)
        except RuntimeError as error:
            if "inference tensor" not in str(error).lower():
                raise
            said = "features are modified in place, and the next probe gets them; work on a clone"
            raise Mistake(said, locate_error(error, probe)) from None


def check_result(probe: Probe) -> None:
    """It returns a ProbeResult: finite numbers and predicted classes, under keys that start with its name."""
    where, subject = _method(probe), _subject()
    result: object = _ask(probe, subject)
    ensure(isinstance(result, ProbeResult), f"returns {type(result).__name__}; return a ProbeResult", where)
    assert isinstance(result, ProbeResult)
    ensure(result.metrics, "returns no metric; fill ProbeResult.metrics", where)
    for key, value in result.metrics.items():
        _ensure_key_fits(probe, "metrics", key)
        ensure(type(value) in (float, int), f"metrics[{key!r}] is {type(value).__name__}; add .item()", where)
        ensure(math.isfinite(value), f"metrics[{key!r}] is {value}; avoid divisions by 0", where)
        share = "/top" not in key or 0 <= value <= 1
        ensure(share, f"metrics[{key!r}] is {value}; accuracies are shares in [0, 1]", where)
    for key, predicted in result.predictions.items():
        _ensure_key_fits(probe, "predictions", key)
        _ensure_predictions_fit(f"predictions[{key!r}]", predicted, len(subject.splits.test), where)
    try:
        json.dumps(result.chosen)
    except TypeError as error:
        ensure(False, f"chosen cannot be written to the record: {error}; use numbers and text", where)


def _ensure_key_fits(probe: Probe, field: str, key: object) -> None:
    fits = isinstance(key, str) and key.split("/")[0].startswith(probe.name)
    ensure(fits, f"{field} has the key {key!r}; start it with {probe.name}/", _method(probe))


def _ensure_predictions_fit(name: str, predicted: object, images: int, where: str) -> None:
    said = f"{name} must be ({images},) int64 on the CPU or the encoder's device, as argmax gives it"
    fits = isinstance(predicted, Tensor) and predicted.dtype == torch.int64 and predicted.ndim in (1, 2)
    ensure(fits, said, where)
    assert isinstance(predicted, Tensor)
    ensure(predicted.shape[-1] == images, f"{name} has {predicted.shape[-1]} rows for {images} test images", where)
    ensure(((predicted >= 0) & (predicted < CLASSES)).all(), f"{name} has classes outside of [0, classes)", where)


def check_encoder_unchanged(probe: Probe) -> None:
    """The encoder stays as it is, with its weights, its mode and without gradients of the probe."""
    subject = _subject()
    encoder = subject.encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()], [p.requires_grad for p in encoder.parameters()]
    _ask(probe, subject)
    where = _method(probe)
    for name, value in encoder.state_dict().items():
        said = f"the encoder's {name} changes, and the next probe gets it; work on copy.deepcopy(subject.encoder)"
        ensure(torch.equal(value, before[name]), said, where)
    after = [module.training for module in encoder.modules()], [p.requires_grad for p in encoder.parameters()]
    ensure(modes == after, "the encoder is left in another mode; restore train(), eval() and requires_grad", where)


def check_features_unchanged(probe: Probe) -> None:
    """Features and labels, which probes share, are not modified in place."""
    subject = _subject()
    blocks = getattr(probe, "feature_blocks", 1)
    features = dict(_tensors(subject, blocks))
    before = {name: value.clone() for name, value in features.items()}
    _ask(probe, subject)
    for name, value in features.items():
        said = f"{name} is modified in place, and the next probe gets it; work on a clone"
        ensure(torch.equal(value, before[name]), said, _method(probe))


def _tensors(subject: Subject, blocks: int) -> Iterator[tuple[str, Tensor]]:
    for pooling, data in subject.features(blocks).items():
        yield from ((f"features[{pooling!r}].{name}", value) for name, value in vars(data).items() if name != "classes")
    yield "the labels of train", subject.splits.train.labels
    yield "the labels of test", subject.splits.test.labels


def check_global_generators(probe: Probe) -> None:
    """No number is drawn from the global generators of torch, numpy and Python."""
    subject = _subject()
    before = generator_states()
    probe(subject)
    for name, state in generator_states().items():
        said = f"draws from {name}'s global generator; draw from torch.Generator().manual_seed(subject.seed)"
        ensure(state == before[name], said, _method(probe))


def check_repeatability(probe: Probe) -> None:
    """The same encoder and data give the same numbers, predictions and choices."""
    first, second = (_ask(probe, _subject()) for _ in range(2))
    ensure(_equal(first, second), "two calls give other results; draw from a generator of your own", _method(probe))


def check_test_labels(probe: Probe) -> None:
    """Test labels change neither predictions nor choices: they are for the final numbers alone."""
    splits = make_splits()
    assert isinstance(splits.test, Images)
    others = replace(splits, test=replace(splits.test, labels=splits.test.labels.roll(1)))
    first, second = (_ask(probe, _subject(data)) for data in (splits, others))
    said = "other test labels give other predictions or choices; choose on validation, then predict test"
    ensure(_equal(first, second, metrics=False), said, _method(probe))


def _equal(first: ProbeResult, second: ProbeResult, *, metrics: bool = True) -> bool:
    if first.predictions.keys() != second.predictions.keys() or first.chosen != second.chosen:
        return False
    pairs: list[tuple[Any, Any]] = [(value, second.predictions[key]) for key, value in first.predictions.items()]
    return all(torch.equal(*pair) for pair in pairs) and (not metrics or first.metrics == second.metrics)
