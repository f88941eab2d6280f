"""Muon beside AdamW, against both written plainly; and what must not change where neither is asked for."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from maskbench.config.settings import Train
from maskbench.errors import UsageError
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.runs.resume import flatten
from maskbench.training.flops import training_gflops_per_image
from maskbench.training.optimizers import MuonWithAdamW, block_matrices, build_optimizer, muon_gflops
from tests.helpers.tiny_run import tiny_config

MUON = {"train__optimizer": "muon"}


class Small(nn.Module):
    """Two blocks' matrices, wide and tall, and what must stay AdamW's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 24), nn.Linear(24, 8)])
        self.frozen = nn.ModuleDict({"blocks": nn.Linear(8, 8)}).requires_grad_(False)
        self.pos_embed = nn.Parameter(torch.zeros(1, 4, 8))


def orthogonalised(matrix: Tensor) -> Tensor:
    """Five Newton-Schulz steps as the source writes them, in float64."""
    x = matrix.double() / matrix.norm().clamp_min(1e-7)
    if len(x) > len(x.T):
        return orthogonalised(matrix.T).T
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x


def test_steps_are_muons_and_adamws_written_plainly() -> None:
    torch.manual_seed(0)
    module, rate, decay, momentum = Small(), 0.02, 0.1, 0.95
    optimizer = build_optimizer(Train(optimizer="muon", weight_decay=decay), module)
    names = dict(module.named_parameters())
    matrices = {name: names[name].detach().double().clone() for name in ("blocks.0.weight", "blocks.1.weight")}
    buffers = {name: torch.zeros_like(value) for name, value in matrices.items()}
    rest = {
        name: nn.Parameter(value.detach().clone())
        for name, value in names.items()
        if name not in matrices and value.requires_grad
    }
    plain = torch.optim.AdamW(
        [
            {"params": [rest["embed.weight"]], "weight_decay": decay},
            {"params": [value for name, value in rest.items() if name != "embed.weight"], "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.95),
    )
    for _ in range(4):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for value in names.values():
            if value.requires_grad:
                value.grad = torch.randn_like(value)
        for name, value in matrices.items():
            gradient = names[name].grad.double()  # type: ignore[union-attr]
            buffers[name] = momentum * buffers[name] + (1 - momentum) * gradient
            update = orthogonalised((1 - momentum) * gradient + momentum * buffers[name])  # Nesterov
            scale = 0.2 * math.sqrt(max(value.shape))  # the size of AdamW's updates
            matrices[name] = (1 - rate * decay) * value - rate * scale * update
        for name, value in rest.items():
            value.grad = names[name].grad.clone()  # type: ignore[union-attr]
        optimizer.step()
        plain.step()
    for name, value in matrices.items():
        # torch orthogonalises in bfloat16: an entry of the update, about 0.2, is off by 1 % of it or less in each step.
        torch.testing.assert_close(names[name].detach().double(), value, atol=4 * rate * 0.2 * 0.05, rtol=0)
        assert (names[name].detach() - value).abs().mean() < 0.1 * rate
    for name, value in rest.items():
        torch.testing.assert_close(names[name], value)


@pytest.mark.parametrize(
    ("strategy", "objective"), [("random", "mae"), ("attmask-high", "ibot:prototypes=48:hidden=32:bottleneck=16")]
)
def test_every_trained_parameter_has_one_optimizer(strategy: str, objective: str, tmp_path: Path) -> None:
    plan, splits = load_data(make_plan(tiny_config(tmp_path, strategy, objective=objective, **MUON)))
    state = build_state(plan, splits)
    assert isinstance(state.optimizer, MuonWithAdamW)
    handed = [id(value) for group in state.optimizer.param_groups for value in group["params"]]
    assert sorted(handed) == sorted(id(value) for value in state.head.parameters() if value.requires_grad)
    muons = {id(value) for group in state.optimizer.muon.param_groups for value in group["params"]}
    blocks = {id(block.attn.qkv.weight) for block in state.head.encoder.vit.blocks}  # type: ignore[union-attr]
    assert blocks <= muons and id(state.head.encoder.vit.patch_embed.proj.weight) not in muons
    assert state.optimizer.param_groups[-1]["weight_decay"] == 0


def test_flops_of_the_update_are_counted(tmp_path: Path) -> None:
    found = {}
    for name in ("adamw", "muon"):
        plan, splits = load_data(make_plan(tiny_config(tmp_path, train__optimizer=name)))
        state = build_state(plan, splits)
        found[name] = training_gflops_per_image(plan.config, splits, plan.strategy, state)
    assert isinstance(state.optimizer, MuonWithAdamW)
    for value in block_matrices(state.head).values():
        value.grad = torch.ones_like(value)
    with FlopCounterMode(display=False) as counter:
        state.optimizer.muon.step()
    assert muon_gflops(state.optimizer) == pytest.approx(counter.get_total_flops() / 1e9)
    more = muon_gflops(state.optimizer) / plan.config.train.batch_size
    assert found["muon"] == pytest.approx(found["adamw"] + more) and more > 0


def test_adamw_is_the_run_that_it_was(tmp_path: Path) -> None:
    """A run from before the setting has the same name as one with adamw; muon's has another."""
    names = {name: make_plan(tiny_config(tmp_path, train__optimizer=name)).run_id for name in ("adamw", "muon")}
    assert make_plan(tiny_config(tmp_path)).run_id == names["adamw"] != names["muon"]
    assert flatten(tiny_config(tmp_path).model_dump())["train.optimizer"] == "adamw"


def test_a_torch_without_muon_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UsageError, match="needs torch 2.9 or newer"):
        build_optimizer(Train(optimizer="muon"), Small())
