"""A training step on a GPU that is not there: fake tensors know their device and shape and hold no numbers, so whatever
mixes devices, or asks the device for a number (.item(), .cpu(), nonzero, boolean indexing), is an error."""

import contextlib
import traceback
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from maskbench.config import merge, parse, preset
from maskbench.data.splits import Splits
from maskbench.plan import Plan, build, load_splits, plan
from maskbench.pretrain import outcome_of
from maskbench.state import State
from maskbench.strategy import REGISTRY
from maskbench.view import View

CUDA = torch.device("cuda")
VARYING = {
    "attmask-high", "attmask-hint", "attmask-low", "block", "block-dinov2", "block-ibot", "cluster", "multi-block",
}  # fmt: skip
NAMES = [name for name in REGISTRY.names() if name not in ("none", "distort")]  # distort: grid_sample wants a driver


class Watch:
    """A stopwatch that stops nothing."""

    def phase(self, name: str) -> Any:
        return contextlib.nullcontext()


def moved(module: nn.Module | None, mode: FakeTensorMode) -> None:
    """Every parameter and buffer becomes a fake one on the GPU."""
    for part in module.modules() if module is not None else ():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = mode.from_tensor(parameter).detach().to(CUDA)
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer).to(CUDA)


def fake_splits(splits: Splits, mode: FakeTensorMode) -> Splits:
    def fake(value: Any) -> Any:
        return mode.from_tensor(value) if isinstance(value, Tensor) else value

    parts = {name: replace(part, **{key: fake(value) for key, value in vars(part).items()})
             for name, part in (("train", splits.train), ("test", splits.test))}  # fmt: skip
    tensors = {name: fake(getattr(splits, name)) for name in ("validation", "fit", "mean", "std")}
    return replace(splits, **parts, **tensors).to(CUDA)


def stepped(name: str, objective: str = "mae", **settings: Any) -> tuple[View, Tensor]:
    """The view and the loss of a step on the GPU that is not there."""
    changes = {"strategy": name, "objective": objective, "system.device": "cpu", "system.precision": "fp32",
               "train.batch_size": 64, "data.limit": 300, "data.img_size": 32, **settings}  # fmt: skip
    planned, splits = load_splits(plan(parse(merge(preset("quick"), changes))))
    state = build(planned, splits)
    with FakeTensorMode() as mode:
        return _step(planned, fake_splits(splits, mode), state, mode)


def _step(planned: Plan, splits: Splits, state: State, mode: FakeTensorMode) -> tuple[View, Tensor]:
    for module in (state.head, state.module, None if state.teacher is None else state.teacher.copy):
        moved(module, mode)
    index = torch.empty(64, dtype=torch.int64, device=CUDA)
    view, outcome = outcome_of(planned.config, splits, planned.strategy, state, index, 0, 0.5, Watch())  # type: ignore[arg-type]
    return view, outcome.loss


@pytest.mark.parametrize("name", NAMES)
def test_a_step_stays_on_the_device(name: str) -> None:
    """Without any answer from it, but for the number of tokens that are left where that varies."""
    if name not in VARYING:
        view, loss = stepped(name)
        assert loss.device.type == "cuda" and view.images.device.type == "cuda"
        return
    with pytest.raises(DataDependentOutputException) as caught:
        stepped(name)
    ours = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if "/maskbench/" in frame.filename]
    assert ours[-1].filename.endswith("vit.py") and "present.sum(1).max()" in (ours[-1].line or "")


@pytest.mark.parametrize("objective", ["simmim", "gmml", "dino", "ibot", "barlow"])
def test_other_objectives_stay_there_too(objective: str) -> None:
    _, loss = stepped("random", objective)
    assert loss.device.type == "cuda"


@pytest.mark.parametrize("name", sorted(VARYING))
def test_exact_counts_need_no_answer(name: str) -> None:
    """What varies in its paper hides the same number everywhere in the matched regime."""
    _, loss = stepped(name, regime="matched", ratio=0.75)
    assert loss.device.type == "cuda"
