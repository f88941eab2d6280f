"""The checks of an objective, on a tiny encoder and views of random images. Users see their docstrings."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from maskbench.core.examples import Examples
from maskbench.core.step_output import StepOutput
from maskbench.core.view import View
from maskbench.objective import Head, Objective, Recipe
from maskbench.testing.cases import generator_states
from maskbench.testing.component_checks import (
    ensure_documented,
    ensure_parameters_bounded,
    ensure_parameters_survive_json,
)
from maskbench.testing.mistakes import Mistake, ensure
from maskbench.testing.synthetic_batch import tensors_of
from maskbench.testing.synthetic_task import GRID, make_encoder, make_examples, make_head

MODES = ("tokens", "pixels", "crops")


def check_documentation(objective: Objective) -> None:
    """The class has a docstring, and `learns_from` is one of three words."""
    ensure_documented(objective, "say what is learnt, and where it is published")
    said = f"learns_from is {objective.learns_from!r}; write one of {', '.join(MODES)}"
    ensure(objective.learns_from in MODES, said, "learns_from")


def check_parameters(objective: Objective) -> None:
    """Parameters survive JSON, and numbers out of range are refused."""
    ensure_parameters_survive_json(objective)
    ensure_parameters_bounded(objective)


def check_build(objective: Objective) -> None:
    """`build` returns a Head around the encoder that it gets, the same for the same seed of torch."""
    encoder = make_encoder()
    with torch.random.fork_rng(devices=[]):
        head: object = objective.build(encoder, GRID, 3, 3, plain_attention=True)
    ensure(isinstance(head, Head), f"build returns {type(head).__name__}; return a Head", "build")
    assert isinstance(head, Head)
    own = getattr(head, "encoder", None) is encoder
    ensure(
        own, "head.encoder is not the encoder of build, which is what is probed; set self.encoder = encoder", "build"
    )
    recipe: object = head.recipe
    ensure(isinstance(recipe, Recipe), f"head.recipe is {type(recipe).__name__}; give a Recipe", "build")
    for name in head.provides_signals:
        ensure(callable(getattr(head, name, None)), f"the head provides {name!r} but has no method {name}", "build")
    first, second = (make_head(objective).state_dict() for _ in range(2))
    same = all(torch.equal(value, second[name]) for name, value in first.items())
    ensure(same, "build gives other weights for the same seed; draw them by torch alone", "build")


def _cases(objective: Objective) -> Iterator[tuple[Head, Examples]]:
    """A head and examples for each kind of view that the objective takes; none where it trains nothing."""
    if not objective.trains:
        return
    for hidden in (True, False):
        if hidden or objective.learns_from != "tokens":
            head = make_head(objective)
            yield head, make_examples(objective, head.recipe, hidden=hidden)


def _forward(head: Head, examples: Examples, seed: int = 4) -> StepOutput:
    """The output of a copy of the head, so that nothing that it counts is carried over."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = copy.deepcopy(head)
        head.prepare(examples.clean, 0.5)
        return head(examples)


def check_step(objective: Objective) -> None:
    """`forward` gives a StepOutput with a finite scalar loss and what the objective promises."""
    for head, examples in _cases(objective):
        output: object = _forward(head, examples)
        kind = type(output).__name__
        ensure(isinstance(output, StepOutput), f"forward returns {kind}; return StepOutput(loss, ...)", "forward")
        assert isinstance(output, StepOutput)
        _ensure_loss_fits(output.loss)
        _ensure_promises_kept(objective, output, len(examples.labels))
        for name, value in output.logs.items():
            fits = isinstance(value, Tensor) and value.ndim == 0 and not value.requires_grad
            ensure(fits, f"logs[{name!r}] must be a detached () tensor; write .mean().detach()", "forward")
        count = len(examples.views)
        said = f"each has {len(output.each)} outputs for {count} crops; give one a crop, or none"
        ensure(len(output.each) in (0, count), said, "forward")


def _ensure_loss_fits(loss: object) -> None:
    ensure(isinstance(loss, Tensor), f"the loss is {type(loss).__name__}; return a () tensor", "forward")
    assert isinstance(loss, Tensor)
    ensure(loss.ndim == 0, f"the loss is {tuple(loss.shape)}; return a () tensor, e.g. by .mean()", "forward")
    ensure(loss.isfinite(), "the loss is not finite; avoid divisions by 0 and logarithms of 0", "forward")
    ensure(loss.requires_grad, "the loss has no gradient; do not detach it", "forward")


def _ensure_promises_kept(objective: Objective, output: StepOutput, rows: int) -> None:
    each, shape = output.patch_loss, (rows, GRID.size)
    if objective.predicts_pixels and not objective.control:
        said = "predicts_pixels is True, but there is no patch_loss; return it, or set predicts_pixels = False"
        ensure(each is not None, said, "forward")
    if each is not None:
        ensure(each.shape == shape, f"patch_loss is {tuple(each.shape)}, must be {shape}", "forward")
        ensure(not each.requires_grad, "patch_loss keeps its graph; return patch_loss.detach()", "forward")
    if output.prediction is not None:
        images = (rows, 3, *GRID.image_size)
        said = f"prediction is {tuple(output.prediction.shape)}, must be {images}"
        ensure(output.prediction.shape == images, said, "forward")


def check_inputs_unchanged(objective: Objective) -> None:
    """Views, clean images and labels are not modified in place."""
    for head, examples in _cases(objective):
        inputs = dict(_inputs(examples))
        before = {name: value._version for name, value in inputs.items()}
        _forward(head, examples)
        for name, value in inputs.items():
            said = f"{name} is modified in place; work on a clone"
            ensure(value._version == before[name], said, "forward")


def _inputs(examples: Examples) -> Iterator[tuple[str, Tensor]]:
    yield "examples.labels", examples.labels
    for kind, images in (("clean", examples.clean), ("local", examples.local)):
        yield from ((f"examples.{kind}[{number}]", value) for number, value in enumerate(images))
    for view in examples.views:
        yield from ((f"view.{name}", value) for name, value in tensors_of(view).items())


def check_global_generators(objective: Objective) -> None:
    """No number is drawn from the global generators of numpy and Python; torch's is seeded for each step."""
    for head, examples in _cases(objective):
        before = generator_states()
        _forward(head, examples)
        after = generator_states()
        for name in ("numpy", "Python"):
            said = f"draws from {name}'s global generator; use torch, whose generator is seeded for each step"
            ensure(after[name] == before[name], said, "forward")


def check_repeatability(objective: Objective) -> None:
    """The same weights, views and seed give the same loss."""
    for head, examples in _cases(objective):
        losses = [_forward(head, examples).loss for _ in range(2)]
        ensure(torch.equal(*losses), "the loss differs between two calls with the same seed; keep no state", "forward")


def check_gradients(objective: Objective) -> None:
    """Gradients reach the encoder."""
    for head, examples in _cases(objective):
        _call_with_gradients(head, examples)
        reached = any(parameter.grad is not None for parameter in head.encoder.vit.parameters())
        ensure(
            reached, "no gradient reaches the encoder, which then learns nothing; do not detach its tokens", "forward"
        )


def _call_with_gradients(head: Head, examples: Examples) -> None:
    head.prepare(examples.clean, 0.5)
    head(examples).loss.backward()


def check_labels(objective: Objective) -> None:
    """Labels are read only if `needs_labels` says so."""
    if objective.needs_labels:
        return
    said = "forward reads examples.labels, which many data sets lack; set needs_labels = True"
    for head, examples in _cases(objective):
        expected = _forward(head, examples).loss
        try:
            loss = _forward(head, replace(examples, labels=examples.labels.flip(0) * 0)).loss
        except Exception:
            raise Mistake(said, "forward") from None
        ensure(torch.equal(loss, expected), said, "forward")


def check_micro_batches(objective: Objective) -> None:
    """The loss is the mean of the losses of its halves, unless `compares_images` is True."""
    if objective.compares_images:
        return
    for head, examples in _cases(objective):
        head = head.eval()  # without dropout, whose draws differ between whole and halves
        whole = _forward(head, examples).loss
        if not torch.allclose(whole, _forward(head, examples, seed=5).loss):
            continue  # it draws
        rows = len(examples.labels) // 2
        halves = [_forward(head, _take(examples, slice(start, start + rows))).loss for start in (0, rows)]
        said = "the loss is not the mean over the images: its halves give another; set compares_images = True"
        ensure(torch.allclose(whole, torch.stack(halves).mean(), rtol=1e-3, atol=1e-5), said, "forward")


def _take(examples: Examples, rows: slice) -> Examples:
    return Examples(
        tuple(_take_view(view, rows) for view in examples.views),
        tuple(images[rows] for images in examples.clean),
        examples.labels[rows],
        tuple(images[rows] for images in examples.local),
    )


def _take_view(view: View, rows: slice) -> View:
    def part(value: Any) -> Any:
        return value[rows] if isinstance(value, Tensor) else value

    terms = tuple(replace(term, target=part(term.target), weight=part(term.weight)) for term in view.terms)
    masks = {name: part(getattr(view, name)) for name in ("images", "hidden", "replaced", "thrown", "condition")}
    return replace(view, terms=terms, **masks)
