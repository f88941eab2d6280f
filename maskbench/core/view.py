"""What a strategy returns: the degraded images, the state of each token, and what the model must recover."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.errors import ContractError


@dataclass(frozen=True)
class Term:
    """One part of the loss: scale * sum(weight * error) / sum(weight) over the batch, 0 where all weights are 0.

    `Term()` means: recover the clean images, on the masked tokens. The objective chooses the error (l1, l2) and how the
    target is normalised.

    Attributes:
        target: (B, C, H', W') images to recover, H' and W' multiples of the patch, since the objective may normalise
            patch by patch. None (default): the clean images.
        weight: >= 0. (B, N) per token, or 3 or 4 dimensions that broadcast to the compared image (pixels, frequencies).
            None (default): 1 on masked tokens and 0 on others; 1 everywhere if `View.hidden` is None.
        warp: Maps a predicted image (B, C, H, W) to the geometry in which it is compared, e.g. a crop or a spectrum.
            Differentiable. None (default): compare as it is.
        warp_target: True: the normalised target goes through `warp`, too. Default False.
        scale: Factor of this term in the total loss, default 1.
    """

    target: Tensor | None = None
    weight: Tensor | None = None
    warp: Callable[[Tensor], Tensor] | None = None
    warp_target: bool = False
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class MicroBatchTerm(Term):
    """A term of a micro-batch. The training loop makes it; strategies never do.

    Attributes:
        mean_weight: () mean weight over the whole batch. The sum of errors is divided by it, not by the micro-batch's
            own, so that the mean of the micro-batches' losses is the loss of the batch.
    """

    mean_weight: Tensor


@dataclass(frozen=True)
class View:
    """What a strategy returns for a batch: what the encoder sees, and what the model must recover.

    Each token is in one of four states, which `hidden`, `replaced` and `thrown` say:

    | state      | hidden, replaced, thrown | content encoded | encoder's sequence | decoder's sequence | in the loss |
    |------------|--------------------------|-----------------|--------------------|--------------------|-------------|
    | seen       | False, False, False      | yes             | its content        | its encoding       | no (a)      |
    | masked     | True, False, False       | no              | absent (b)         | a mask token       | yes         |
    | mask token | True, True, False        | no              | a mask token       | its encoding       | no          |
    | dropped    | True, False, True        | no              | absent             | absent             | no          |

    (a) Yes if `hidden` is None: then the whole image is to be recovered. (b) In `simmim` and `ibot`, which have no
    decoder, a mask token. "In the loss" is the default; a `Term` with a weight decides for itself.

    Attributes:
        images: (B, C, H, W) the images for the encoder, degraded or as they were. Contents of hidden tokens are unused.
        hidden: (B, N) bool, True = the encoder does not see the token's content. None (default): all tokens are seen,
            and the strategy degrades pixels only.
        replaced: (B, N) bool, a part of `hidden`: True = mask token. None (default): none.
        thrown: (B, N) bool, a part of `hidden` that does not overlap `replaced`: True = dropped. None (default): none.
        length: Tokens that stand in the encoder's sequence, seen and mask tokens, if every row has the same number.
            None (default): it varies, and the encoder pads. With a number it need not wait for the device to count.
        terms: The parts of the loss, summed. Default: one `Term()`. Empty: nothing to recover.
        condition: (B,) noise level, for objectives that take one. None (default): no level.
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
        """(B, N) bool, True = seen or mask token: in the sequence of an encoder that leaves out masked tokens.

        None: all tokens are.
        """
        if self.hidden is None:
            return None
        return ~self.hidden if self.replaced is None else ~self.hidden | self.replaced

    @property
    def recovered(self) -> Tensor | None:
        """(B, N) bool, True = masked: hidden, no mask token, not dropped. None: nothing is hidden."""
        if self.hidden is None:
            return None
        recovered = self.hidden
        for excluded in (self.replaced, self.thrown):
            if excluded is not None:
                recovered = recovered & ~excluded
        return recovered


def complete(view: View, images: Tensor, grid: Grid, name: str = "strategy") -> View:
    """Check a view and fill in every target and weight that is None.

    Args:
        view: What a strategy returned.
        images: (B, C, H, W) the clean images.
        grid: Their patches.
        name: The strategy, named in errors.

    Raises:
        ContractError: It is no view, or a shape or dtype is wrong. It is a ValueError.
    """
    if not isinstance(view, View):
        raise ContractError(f"{name}: __call__ returns {type(view).__name__}; return a View")
    _ensure_images_fit(view, images, name)
    shape = (len(images), grid.size)
    _ensure_masks_fit(view, shape, name)
    _ensure_weights_fit(view, shape, name)
    recovered = view.recovered
    default = images.new_ones(shape) if recovered is None else recovered.to(images.dtype)
    terms = tuple(
        replace(
            term,
            target=images if term.target is None else term.target,
            weight=default if term.weight is None else term.weight.to(images.dtype),
        )
        for term in view.terms
    )
    return replace(view, terms=terms)


def _ensure_images_fit(view: View, images: Tensor, name: str) -> None:
    if not isinstance(view.images, Tensor):
        raise ContractError(f"{name}: view.images is {type(view.images).__name__}; return a tensor")
    if view.images.shape != images.shape:
        raise ContractError(f"{name}: view.images is {tuple(view.images.shape)}, must be {tuple(images.shape)}")
    if view.images.dtype != images.dtype:
        raise ContractError(
            f"{name}: view.images is {view.images.dtype}, must be {images.dtype}; add .to(images.dtype)"
        )


def _ensure_masks_fit(view: View, shape: tuple[int, int], name: str) -> None:
    for field in ("hidden", "replaced", "thrown"):
        mask = getattr(view, field)
        if mask is None:
            continue
        if not isinstance(mask, Tensor):
            raise ContractError(f"{name}: view.{field} is {type(mask).__name__}; return a {shape} bool tensor")
        if mask.shape != shape or mask.dtype != torch.bool:
            remedy = "" if mask.dtype == torch.bool else "; make it by hide(scores, count), or compare: scores > 0.5"
            raise ContractError(
                f"{name}: view.{field} must be {shape} bool, is {tuple(mask.shape)} {mask.dtype}{remedy}"
            )
        if view.hidden is None:
            raise ContractError(f"{name}: view.{field} is set but view.hidden is None; it must be a part of hidden")


def _ensure_weights_fit(view: View, shape: tuple[int, int], name: str) -> None:
    if not isinstance(view.terms, tuple) or not all(isinstance(term, Term) for term in view.terms):
        raise ContractError(f"{name}: view.terms must be a tuple of Term; write terms=(Term(...),) with the comma")
    for term in view.terms:
        weight = term.weight
        if weight is not None and (weight.ndim < 2 or (weight.ndim == 2 and weight.shape != shape)):
            raise ContractError(
                f"{name}: a term's weight is {tuple(weight.shape)}; weigh tokens by {shape}, pixels or "
                f"frequencies by (..., 1 or C, H, W)"
            )


def realised_ratio(view: View, grid: Grid) -> Tensor:
    """(B,) share of tokens hidden; if nothing is hidden, the share of area to which the first term gives weight."""
    if view.hidden is not None:
        return view.hidden.float().mean(1)
    if not view.terms:
        return torch.zeros(len(view.images), device=view.images.device)
    weight = view.terms[0].weight
    assert weight is not None, "the view is complete"
    return (weight > 0).float().flatten(1).mean(1).expand(len(view.images))


def hides_nothing(view: View, grid: Grid) -> Tensor:
    """(B,) bool, True = an image from which nothing is to be recovered: no token hidden, no area weighted.

    False for all if the strategy neither hides nor weighs anything, as `none` does. The view is complete.
    """
    if view.hidden is None and not view.terms:
        return torch.zeros(len(view.images), dtype=torch.bool, device=view.images.device)
    return realised_ratio(view, grid) == 0


def shows_nothing(view: View) -> Tensor:
    """(B,) bool, True = an image of which the encoder sees no token."""
    if view.hidden is None:
        return torch.zeros(len(view.images), dtype=torch.bool, device=view.images.device)
    return view.hidden.all(1)
