"""The optimizers: AdamW, and Muon for the matrices of transformer blocks with AdamW for everything else."""

from typing import Any

import torch
from torch import Tensor, nn

from maskbench.config.settings import Train
from maskbench.errors import UsageError
from maskbench.training.schedules import weight_decay_groups

NEWTON_SCHULZ_STEPS = 5  # torch's default


class MuonWithAdamW:
    """Two optimizers used as one.

    The parameter groups are, in this order: Muon's matrices and AdamW's matrices, which decay, and all the rest, which
    does not. Muon's update is scaled to the size of AdamW's, so that one learning rate serves both.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the scaling
    ("match_rms_adamw") is from Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982.
    """

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self.muon, self.adamw = muon, adamw

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [*self.muon.param_groups, *self.adamw.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.muon.zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)

    def step(self) -> None:
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])


Optimizer = torch.optim.Optimizer | MuonWithAdamW


def build_optimizer(train: Train, trained: nn.Module) -> Optimizer:
    """The optimizer of all trained parameters, its learning rate 0 until the schedule sets it.

    The last parameter group is the one without weight decay.

    Raises:
        UsageError: `train.optimizer` is muon and this torch has none.
    """
    matrices = block_matrices(trained) if train.optimizer == "muon" else {}
    groups = weight_decay_groups(trained, train.weight_decay, without=matrices.keys())
    adamw = torch.optim.AdamW(groups, lr=0.0, betas=train.betas, fused=True)
    if train.optimizer == "adamw":
        return adamw
    if not hasattr(torch.optim, "Muon"):
        raise UsageError(f"train.optimizer=muon needs torch 2.9 or newer, this is {torch.__version__}; use adamw")
    muon = torch.optim.Muon(
        matrices.values(),
        lr=0.0,
        weight_decay=train.weight_decay,
        ns_steps=NEWTON_SCHULZ_STEPS,
        adjust_lr_fn="match_rms_adamw",
    )
    return MuonWithAdamW(muon, adamw)


def block_matrices(module: nn.Module) -> dict[str, Tensor]:
    """The weight matrices of transformer blocks, encoder's and decoder's, by name: what Muon updates."""
    return {
        name: value
        for name, value in module.named_parameters()
        if value.requires_grad and value.ndim == 2 and "blocks" in name.split(".") and name.endswith(".weight")
    }


def muon_gflops(optimizer: Optimizer) -> float:
    """GFLOPs of Muon's orthogonalisation in one step (a multiply-add is two); 0 for AdamW, whose work is negligible.

    A Newton-Schulz step on an m x n matrix X, m <= n, multiplies X by its transpose (2 m^2 n), the product by itself
    (2 m^3), and that by X (2 m^2 n).
    """
    if not isinstance(optimizer, MuonWithAdamW):
        return 0.0
    total = 0
    for matrix in (matrix for group in optimizer.muon.param_groups for matrix in group["params"]):
        small, large = sorted(matrix.shape)
        total += NEWTON_SCHULZ_STEPS * (4 * small**2 * large + 2 * small**3)
    return total / 1e9
