"""A training step on a GPU that is not there: fake tensors know their device and shape and hold no numbers, so whatever
mixes devices, or asks the device for a number (.item(), nonzero, boolean indexing), is an error; so is, by `Apart`,
every copy between host and device. Backward passes want a driver: they are tried on fake tensors of a CPU, where asking
for a number is an error too. Kernels that wait without saying so are not found out."""

import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maskbench.api import degrade
from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.core.view import View
from maskbench.data import color_jitter
from maskbench.data.splits import Splits
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.strategy import REGISTRY
from maskbench.testing.synthetic_batch import make_batch
from maskbench.training.train_state import initial_state
from tests.helpers.one_step import one_step

CUDA = torch.device("cuda")
VARYING = {
    "attmask-high", "attmask-hint", "attmask-low", "block", "block-dinov2", "block-ibot", "cluster", "multi-block",
}  # fmt: skip
NAMES = [name for name in REGISTRY.names() if name not in ("none", "distort")]  # distort: grid_sample wants a driver


class Waits(Exception):
    """The host has to wait for the device."""


class Apart(TorchDispatchMode):
    """Raises Waits where numbers go from host to device or back, but for single ones that are given to a kernel; and
    for masked_scatter's backward pass, which asks how many there are, though fake tensors know its shape."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.masked_scatter_backward.default:
            raise Waits(str(function))
        found = function(*args, **(kwargs or {}))
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            tensors = [leaf for leaf in tree_leaves((found, args)) if isinstance(leaf, Tensor)]
            if len({tensor.device.type for tensor in tensors}) > 1:
                raise Waits(f"{function} between host and device")
        return found


@pytest.fixture(autouse=True)
def _own_constants() -> Iterator[None]:
    """Fake ones do not outlive their test."""
    color_jitter.yiq_matrices.cache_clear()
    yield
    color_jitter.yiq_matrices.cache_clear()


def moved(module: nn.Module | None, mode: FakeTensorMode, device: torch.device) -> None:
    """Every parameter and buffer becomes a fake one on the device."""
    for part in module.modules() if module is not None else ():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = mode.from_tensor(parameter).detach().to(device)
                part._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer).to(device)


def fake_splits(splits: Splits, mode: FakeTensorMode, device: torch.device) -> Splits:
    def fake(value: Any) -> Any:
        return mode.from_tensor(value) if isinstance(value, Tensor) else value

    parts = {name: replace(part, **{key: fake(value) for key, value in vars(part).items()})
             for name, part in (("train", splits.train), ("test", splits.test))}  # fmt: skip
    tensors = {name: fake(getattr(splits, name)) for name in ("validation", "fit", "mean", "std")}
    return replace(splits, **parts, **tensors).to(device)


def stepped(name: str, objective: str = "mae", device: torch.device = CUDA, **settings: Any) -> View:
    """The view in a step on the device, with fake tensors, done as `pretrain` does it."""
    changes = {"strategy": name, "objective": objective, "system.device": "cpu", "system.precision": "fp32",
               "train.batch_size": 64, "data.limit": 300, "data.img_size": 32, **settings}  # fmt: skip
    planned, splits = load_data(make_plan(parse_config(merge(load_preset("quick"), changes))))
    state = build_state(planned, splits)
    with FakeTensorMode() as mode:
        for module in (state.head, state.module, None if state.teacher is None else state.teacher.copy):
            moved(module, mode, device)
        teacher, untaught = state.teacher, REGISTRY.create("random")
        state = replace(initial_state(planned.config, state.head, untaught, state.module), teacher=teacher)
        splits = fake_splits(splits, mode, device)
        color_jitter.yiq_matrices(splits.mean.device, torch.float32)  # once a process
        with Apart():
            index = torch.empty(64, dtype=torch.int64, device=device)
            return one_step(planned, splits, state, index, backward=device != CUDA)


@pytest.mark.parametrize(
    ("name", "device"), [(name, device) for name in NAMES for device in ("cuda", "cpu")[: 1 + (name not in VARYING)]]
)
def test_a_step_asks_for_nothing(name: str, device: str) -> None:
    """It stays on the device and gets no answer from it but the number of tokens that are left where that varies."""
    if name not in VARYING:
        assert stepped(name, device=torch.device(device)).images.device.type == device
        return
    with pytest.raises(DataDependentOutputException) as caught:
        stepped(name, device=torch.device(device))
    ours = [frame for frame in traceback.extract_tb(caught.value.__traceback__) if "/maskbench/" in frame.filename]
    assert ours[-1].filename.endswith("encoder.py") and "present.sum(1).max()" in (ours[-1].line or "")


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("objective", ["simmim", "gmml", "dino", "ibot", "barlow"])
def test_other_objectives_ask_for_nothing_either(objective: str, device: str) -> None:
    assert stepped("random", objective, torch.device(device)).images.device.type == device


@pytest.mark.parametrize("name", sorted(VARYING))
def test_exact_counts_need_no_answer(name: str) -> None:
    """What varies in its paper hides the same number everywhere in the matched regime."""
    assert stepped(name, regime="matched", ratio=0.75).images.is_cuda


def test_what_a_strategy_builds_goes_to_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """For `bench strategies`, and for loops of others."""
    devices: list[Any] = []
    monkeypatch.setattr(nn.Module, "to", lambda self, device: devices.append(torch.device(device)) or self)
    batch = make_batch(REGISTRY.create("adios"), 4)
    degrade("adios", batch.images, patch_size=4)
    assert devices == [batch.images.device] * 2
