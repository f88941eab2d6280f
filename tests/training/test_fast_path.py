"""The fast path against the plain loop: bf16 products, plain attention, fused optimizer, masks by topk and packed crops
train the same model as timm's blocks in fp32 do."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain import PlainMae
from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.runs.plan import Plan, build_state, load_data, make_plan
from maskbench.training.step import Trainer
from maskbench.training.train_state import TrainState, initial_state
from tests.helpers.one_step import NullStopwatch

SIZE = {"embed_dim": 48, "depth": 3, "num_heads": 3}
DECODER = {"decoder_width": 32, "decoder_depth": 2, "decoder_heads": 2}
STEPS, BATCH = 20, 32


def ours(precision: str, attention: str) -> tuple[Plan, Any, TrainState]:
    changes = {
        "strategy": "random", "regime": "matched", "ratio": 0.75, "data.limit": STEPS * BATCH, "data.img_size": 16,
        "objective": {"name": "mae", "parameters": {**DECODER, "normalise": "patch"}}, "model.kwargs": SIZE,
        "system": {"device": "cpu", "precision": precision, "attention": attention},
        "train.batch_size": BATCH, "train.epochs": 1, "train.warmup_epochs": 0,
    }  # fmt: skip
    planned, splits = load_data(make_plan(parse_config(merge(load_preset("quick"), changes))))
    return planned, splits, build_state(planned, splits)


def twin(head: nn.Module) -> PlainMae:
    """The plain model with the weights of `head`, under the names that both give them."""
    plain = PlainMae(image=16, patch=4, ratio=0.75, **DECODER, **SIZE)
    state = {**head.state_dict(), "positions": head.get_buffer("positions")}
    del state["encoder.mask_token"]  # for objectives that replace tokens
    plain.load_state_dict({name.removeprefix("encoder."): value for name, value in state.items()})
    return plain


def losses(precision: str, attention: str) -> tuple[Tensor, Tensor]:
    """Of every step: ours, and the plain model's on the same crops and masks, each with its own AdamW."""
    planned, splits, state = ours(precision, attention)
    config, plain = planned.config, twin(state.head)
    state = initial_state(config, state.head, planned.strategy)
    matrices = [parameter for name, parameter in plain.named_parameters() if _decays(name, parameter)]
    others = [parameter for name, parameter in plain.named_parameters() if not _decays(name, parameter)]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=config.train.betas, weight_decay=config.train.weight_decay)
    found: list[tuple[float, float]] = []
    trainer = Trainer(config, splits, planned.strategy, state, NullStopwatch())  # type: ignore[arg-type]
    for step in range(STEPS):
        index = torch.arange(step * BATCH, (step + 1) * BATCH)
        view, output = trainer.forward_batch(index, 0, step / STEPS)
        state.optimizer.zero_grad()
        output.loss.backward()
        trainer.update((step + 1) / STEPS)
        state.step += 1
        assert view.hidden is not None
        loss = plain(view.images, view.hidden.float())
        optimizer.zero_grad()
        loss.backward()
        for group, ours_ in zip(optimizer.param_groups, state.optimizer.param_groups, strict=True):
            group["lr"] = ours_["lr"]
        optimizer.step()
        found.append((output.loss.item(), loss.item()))
    one, other = torch.tensor(found, dtype=torch.float64).T
    return one, other


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim == 2 or name.endswith("proj.weight")


@pytest.mark.parametrize(
    ("precision", "attention", "tolerance"),
    [
        ("fp32", "fused", 1e-5),  # the order of sums, 2**-24 each, grown by 20 steps of AdamW
        ("fp32", "plain", 1e-5),
        ("bf16", "plain", 1e-2),  # products of numbers rounded to 2**-9, a loss that averages thousands of them
    ],
)
def test_it_trains_the_same_model(precision: str, attention: str, tolerance: float) -> None:
    fast, plain = losses(precision, attention)
    assert plain[0] - plain[-1] > 0.02  # it learns, so weights have moved
    assert ((fast - plain).abs() / plain).max() < tolerance
