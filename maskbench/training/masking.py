"""A strategy that learns outside of a run: its network, its views with gradients, and its own loss."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maskbench.core.context import Context
from maskbench.core.rng import derive_seed
from maskbench.core.step_output import StepOutput
from maskbench.core.view import View, complete
from maskbench.errors import UsageError
from maskbench.strategy import Strategy
from maskbench.training.degrade_arguments import (
    ensure_signals_fit,
    find_strategy,
    make_grid,
    number_images,
    share,
    whole_number,
)
from maskbench.training.outside_compilation import outside_compilation


@dataclass(frozen=True)
class LearnedView(View):
    """A view that remembers what its strategy needs for a loss of its own.

    Attributes:
        context: What the strategy received when it made the view.
    """

    context: Context | None = None


class Masking(nn.Module):
    """A strategy and what it learns, in any training loop.

    It is a module: `parameters()` go to your optimizer, beside your model's, and `state_dict()` to your checkpoint.
    Gradients of your loss reach them through the view. Strategies that learn nothing work, too, and have no
    parameters.

    Example:
        An adversary beside a model of your own::

            masking = maskbench.Masking("adios", images, patch_size=16)
            optimizer = torch.optim.AdamW([*model.parameters(), *masking.parameters()])
            ...
            view = masking(images, epoch=epoch, index=index, step=step, progress=step / steps)
            prediction = model(view.images, view.hidden)
            loss = maskbench.recovery_loss(prediction, view, patch_size=16) + masking.loss(view)

    Attributes:
        strategy: The strategy.
        module: What it learns or has fitted to the images; None if there is nothing.
        grid: The patches of the images.
    """

    def __init__(
        self,
        name_or_strategy: str | Strategy,
        images: Tensor,
        *,
        patch_size: int,
        seed: int = 0,
        width: int = 0,
        **parameters: Any,
    ) -> None:
        """Build what the strategy learns.

        Args:
            name_or_strategy: A registered name, or a strategy.
            images: (B, C, H, W), normalised: a sample, for its shape and for strategies that fit something to it.
            patch_size: Side of a patch in pixels; divides H and W.
            seed: Seed of the initial weights and of all draws. torch's own generator stays as it is.
            width: Values in a token of your encoder, for strategies whose network depends on it.
            **parameters: The strategy's parameters.

        Raises:
            UsageError: Unknown strategy or parameter. It is a ValueError.
        """
        super().__init__()
        self.strategy = find_strategy(name_or_strategy).replace(**parameters)
        self.grid = make_grid(images, patch_size)
        self.seed = whole_number("seed", seed, 0)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(seed, "init", "strategy"))
            module = self.strategy.build(images, self.grid, width)
        self.module = None if module is None else module.to(images.device)

    @outside_compilation
    def forward(
        self,
        images: Tensor,
        *,
        epoch: int = 0,
        index: Tensor | None = None,
        step: int = 0,
        progress: float = 0.0,
        **signals: Tensor,
    ) -> LearnedView:
        """The view of `images`, with gradients if the strategy learns.

        Args:
            images: (B, C, H, W), normalised. Not changed.
            epoch: Number of the epoch, from 0; other epochs give other draws.
            index: (B,) int64, the numbers of the images in the data set. Default: 0 to B - 1, so that every batch of an
                epoch gets the same draws.
            step: Number of the training step, for draws that all images of a batch share.
            progress: Share of the training done, in [0, 1], for strategies that change with it.
            **signals: What the strategy needs, by name: `attention`, `features`, `embeddings`, `patch_loss`, `parts`,
                `source`, as for `degrade`. They get no gradient.

        Raises:
            UsageError: A signal is missing or unknown, or the images are of another size. It is a ValueError.
        """
        self._ensure_usable(images, signals)
        context = Context(
            self.grid,
            number_images(images, index),
            seed=self.seed,
            epoch=whole_number("epoch", epoch, 0),
            step=whole_number("step", step, 0),
            progress=share("progress", progress),
            module=self.module,
            signals={name: signal.detach() for name, signal in signals.items()},
        )
        learns = self.module is not None and torch.is_grad_enabled()
        # Draws and exact sums need float32.
        with torch.set_grad_enabled(learns), torch.autocast(images.device.type, enabled=False):
            view = complete(self.strategy(images, context), images, self.grid, self.strategy.name)
        return LearnedView(**vars(view), context=context)

    @outside_compilation
    def loss(self, view: LearnedView, patch_loss: Tensor | None = None) -> Tensor:
        """The strategy's own loss, to be added to yours.

        Args:
            view: What this object returned for the batch.
            patch_loss: (B, N) error of each patch under your model, for strategies that learn from it;
                `maskbench.patch_losses` computes it.

        Returns:
            () the loss, with its graph; 0 for strategies that have none.

        Raises:
            UsageError: The view is not one that `Masking` returned, or `patch_loss` is missing.
        """
        if not isinstance(view, LearnedView) or view.context is None:
            raise UsageError("loss takes the view that this Masking returned, not one of degrade")
        if patch_loss is None and self.strategy.learns_from_patch_loss:
            raise UsageError(f"{self.strategy.name} needs patch_loss=..., see maskbench.patch_losses")
        zero = view.images.new_zeros((), dtype=torch.float32)
        patch_loss = None if patch_loss is None else patch_loss.detach()
        with torch.autocast(view.images.device.type, enabled=False):
            own = self.strategy.loss(view, StepOutput(zero, patch_loss), view.context)
        return zero if own is None else own

    def _ensure_usable(self, images: Tensor, signals: dict[str, Tensor]) -> None:
        if make_grid(images, self.grid.patch) != self.grid:
            height, width = self.grid.image_size
            raise UsageError(f"images are {tuple(images.shape[-2:])}, this Masking was made for {(height, width)}")
        ensure_signals_fit(self.strategy, images, self.grid, signals)
