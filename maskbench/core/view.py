"""What a strategy returns: the degraded images, who is hidden, and what must be recovered."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskbench.core.grid import Grid


@dataclass(frozen=True)
class Term:
    """One part of the loss: scale * sum(weight * error) / sum(weight), 0 where nothing is weighted.

    target: (B, C, H', W') image to recover; None: the clean images. The objective may normalise it patch by patch,
        in the target's own geometry, so H' and W' are multiples of the patch.
    weight: >= 0, (B, N) per token, or with 3 or 4 dimensions and broadcastable to the compared image (pixels,
        frequencies); None: 1 on hidden tokens that are neither replaced nor thrown, 1 everywhere where the view hides
        nothing.
    warp: maps a predicted image (B, C, H, W) to the geometry in which it is compared; differentiable.
    warp_target: the normalised target goes through `warp` too.
    density: set by the harness where the view is a part of a batch: the mean weight over all parts, which takes the
        place of this part's, so that the mean of the parts' losses is the loss of the batch.
    """

    target: Tensor | None = None
    weight: Tensor | None = None
    warp: Callable[[Tensor], Tensor] | None = None
    warp_target: bool = False
    scale: float = 1.0
    density: Tensor | None = None


@dataclass(frozen=True)
class View:
    """What the encoder is shown of a batch, and what it must recover.

    images: (B, C, H, W) what the encoder sees where nothing is hidden.
    hidden: (B, N) bool, True = the encoder does not see the token's content. None: only pixels are degraded.
    replaced: (B, N) bool, part of `hidden`: a mask token stands in the sequence; no loss by default.
    thrown: (B, N) bool, part of `hidden`, disjoint from `replaced`: neither encoded nor decoded, no loss.
    length: tokens left in every row once those hidden and not replaced are dropped; None where it varies.
    condition: (B,) noise level for objectives that are told it, or None.
    """

    images: Tensor
    hidden: Tensor | None = None
    replaced: Tensor | None = None
    thrown: Tensor | None = None
    length: int | None = None
    terms: tuple[Term, ...] = (Term(),)
    condition: Tensor | None = None

    @property
    def present(self) -> Tensor | None:
        """(B, N) bool, True = the token is in the encoder's sequence when hidden ones are dropped; None: all are."""
        if self.hidden is None:
            return None
        return ~self.hidden if self.replaced is None else ~self.hidden | self.replaced

    @property
    def recovered(self) -> Tensor | None:
        """(B, N) bool, True = hidden and to be recovered (neither replaced nor thrown); None: nothing is hidden."""
        if self.hidden is None:
            return None
        recovered = self.hidden
        for excluded in (self.replaced, self.thrown):
            if excluded is not None:
                recovered = recovered & ~excluded
        return recovered


def complete(view: View, images: Tensor, grid: Grid, name: str = "strategy") -> View:
    """`view` with every target and weight filled in. ValueError where it breaks the contract; `name` is blamed."""
    batch, size = len(images), grid.size
    if view.images.shape != images.shape:
        raise ValueError(f"{name}: view.images is {tuple(view.images.shape)}, must be {tuple(images.shape)}")
    for field in ("hidden", "replaced", "thrown"):
        mask = getattr(view, field)
        if mask is None:
            continue
        if mask.shape != (batch, size) or mask.dtype != torch.bool:
            raise ValueError(
                f"{name}: view.{field} must be ({batch}, {size}) bool, is {tuple(mask.shape)} {mask.dtype}"
            )
        if view.hidden is None:
            raise ValueError(f"{name}: view.{field} is given but view.hidden is None; it must be a part of hidden")
    for term in view.terms:
        weight = term.weight
        if weight is not None and (weight.ndim < 2 or (weight.ndim == 2 and weight.shape != (batch, size))):
            raise ValueError(
                f"{name}: a term's weight is {tuple(weight.shape)}; weigh tokens by ({batch}, {size}), pixels or "
                f"frequencies by (..., 1 or C, H, W)"
            )
    recovered = view.recovered
    default = images.new_ones(batch, size) if recovered is None else recovered.to(images.dtype)
    terms = tuple(
        replace(
            term,
            target=images if term.target is None else term.target,
            weight=default if term.weight is None else term.weight.to(images.dtype),
        )
        for term in view.terms
    )
    return replace(view, terms=terms)


def realised_ratio(view: View, grid: Grid) -> Tensor:
    """(B,) share of tokens hidden; where nothing is hidden, the share of area that the first term weighs."""
    if view.hidden is not None:
        return view.hidden.float().mean(1)
    if not view.terms:
        return torch.zeros(len(view.images), device=view.images.device)
    weight = view.terms[0].weight
    assert weight is not None, "the view is complete"
    return (weight > 0).float().flatten(1).mean(1).expand(len(view.images))
