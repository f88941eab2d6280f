"""What masks look like in numbers: how much, how clumped, where, on the object or beside it, how varied."""

from typing import TypeAlias

from scipy import ndimage
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.core.view import View, realised_ratio

Diagnostics: TypeAlias = dict[str, float | list[list[float]]]


def hidden_tokens(view: View, grid: Grid) -> Tensor | None:
    """(B, N) bool: tokens hidden, or at least half of whose area carries the first term's loss where only pixels are
    degraded. None where the view has no such place: everything, or frequencies, must be recovered."""
    if view.hidden is not None:
        return view.hidden
    if not view.terms:
        return None
    term = view.terms[0]
    weight = term.weight
    assert weight is not None, "the view is complete"
    if term.warp is not None:
        return None
    if weight.ndim > 2:
        area = (weight > 0).float().mean(1, keepdim=True).expand(len(view.images), 1, *grid.image_size)
        weight = (grid.patchify(area).mean(-1) >= 0.5).float()
    hidden = weight > 0
    return None if hidden.all() else hidden


def diagnose(view: View, again: View, grid: Grid, objects: Tensor | None = None) -> Diagnostics:
    """Of complete views of the same images under two draws.

    realised_ratio_mean, realised_ratio_sd: over images. visible_tokens: in the encoder's sequence, mean. Where tokens
    are hidden (hidden_tokens) also: components, connected groups of hidden patches an image (4 neighbours), mean;
    group_size, patches in a group, mean over groups; overlap, share of what one draw hides that the other hides too;
    coverage, rows x cols, how often each patch is hidden; and, given objects (B, N) in [0, 1], the share of each patch
    that shows the object: object_hidden, share of the objects' area that is hidden.
    """
    ratio = realised_ratio(view, grid).double()
    present = view.present
    found: Diagnostics = {
        "realised_ratio_mean": ratio.mean().item(),
        "realised_ratio_sd": ratio.std(correction=0).item(),
        "visible_tokens": float(grid.size) if present is None else present.sum(1).double().mean().item(),
    }
    hidden, other = hidden_tokens(view, grid), hidden_tokens(again, grid)
    if hidden is None or other is None or not hidden.any():
        return found
    hidden, other = hidden.cpu(), other.cpu()
    counts = [ndimage.label(mask)[1] for mask in hidden.view(-1, grid.rows, grid.cols).numpy()]
    coverage = hidden.double().mean(0).view(grid.rows, grid.cols)
    found |= {
        "components": sum(counts) / len(counts),
        "group_size": hidden.sum().item() / max(sum(counts), 1),
        "overlap": ((hidden & other).sum() / hidden.sum()).item(),
        "coverage": [[round(value, 3) for value in row] for row in coverage.tolist()],
    }
    if objects is not None and objects.sum() > 0:
        found["object_hidden"] = ((hidden * objects.cpu()).sum() / objects.sum()).item()
    return found
