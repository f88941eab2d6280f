"""Strategies that train a network, ready to be called on six small images, and a small MAE for their loss."""

import torch
from torch import Tensor

from maskbench.core.context import Context
from maskbench.core.grid import Grid
from maskbench.core.view import View, complete
from maskbench.models.encoder import Encoder, build_encoder
from maskbench.objective import Examples, Head
from maskbench.objectives.mae import Mae
from maskbench.strategy import REGISTRY, Strategy

GRID = Grid(4, 6, 4)


def images(count: int = 6) -> Tensor:
    """(count, 3, 16, 24), always the same."""
    return torch.randn(count, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def create_ready(name: str, progress: float = 0.0, **parameters: float) -> tuple[Strategy, Context]:
    """The strategy, and a context that holds its untrained network and random features."""
    torch.manual_seed(0)
    strategy = REGISTRY.create(name, **parameters)
    module = strategy.build(images(), GRID, 16)
    signals = {"features": torch.randn(6, 24, 16)}
    context = Context(GRID, torch.arange(6), seed=3, epoch=0, step=0, progress=progress, module=module, signals=signals)
    return strategy, context


def encoder() -> Encoder:
    """An untrained ViT, 32 wide and 2 deep."""
    torch.manual_seed(5)
    kwargs = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    return build_encoder("vit_tiny_patch16_224", GRID, 3, kwargs, plain_attention=True)


def head() -> Head:
    """An untrained MAE of `encoder`."""
    mae = Mae(decoder_width=16, decoder_depth=1, decoder_heads=2)
    return mae.build(encoder(), GRID, 3, 10, plain_attention=True)


def split_loss(strategy: Strategy, context: Context, model: Head, seed: int = 3) -> tuple[Tensor, Tensor, View]:
    """The objective's loss, the strategy's own, and the view."""
    again = Context(
        GRID, torch.arange(6), seed=seed, epoch=0, step=0, progress=context.progress, module=context.module,
        signals=context._signals,
    )  # fmt: skip
    view = complete(strategy(images(), again), images(), GRID)
    outcome = model(Examples((view,), (images(),), torch.zeros(6, dtype=torch.long)))
    own = strategy.loss(view, outcome, again)
    assert own is not None
    return outcome.loss, own, view
