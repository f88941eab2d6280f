"""The encoder: any timm `VisionTransformer` with absolute positions, over any subset of its tokens.

timm's named parts are used one by one (patch_embed, cls_token, reg_token, pos_embed, norm_pre, blocks, norm), so the
wrapped model stays a plain timm model and its state dict loads strictly into `timm.create_model`.

Initialisation (all of it moves a short run's probe by points): Xavier-uniform for every linear layer and for the patch
embedding seen as one, zero biases, normal(0.02) for class and register tokens, as in MAE (arXiv 2111.06377); positions
start as fixed 2-D sine-cosine tables (Chen, Xie, He, arXiv 2104.02057) but stay trainable, because timm keeps them as
parameters. The last layer norm belongs to the encoder, so probes read normalised tokens.
"""

from collections.abc import Collection
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from maskbench.core.grid import Grid
from maskbench.core.step_output import precise
from maskbench.core.view import View
from maskbench.errors import UsageError, unknown


class Encoded(NamedTuple):
    """Tokens after the last norm: prefix (B, P, D), patches (B, K, D). places (B, K) int64: which token of the grid
    each is; None where all N are there in order. valid (B, K) bool, False on padding; None: no padding."""

    prefix: Tensor
    patches: Tensor
    places: Tensor | None = None
    valid: Tensor | None = None


class Encoder(nn.Module):
    """A timm ViT over the tokens that a view leaves. Never masks by itself; deterministic in eval mode."""

    def __init__(self, vit: VisionTransformer, grid: Grid) -> None:
        super().__init__()
        self.vit = vit
        self.grid = grid
        self.width: int = vit.embed_dim
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.width))  # outside `vit`: not part of the export

    def patch_embeddings(self, images: Tensor, replaced: Tensor | None = None, places: Tensor | None = None) -> Tensor:
        """(B, N, D) patch embeddings with positions; the mask token stands where `replaced` (B, N) is True. With
        `places` (B, K), which of the N tokens of each image to embed, (B, K, D) of these alone.

        Images of another size than the grid's get positions that timm resizes bicubically, antialiased (DINO does not).
        """
        embed, skip = self.vit.patch_embed, 0 if self.vit.no_embed_class else self.vit.num_prefix_tokens
        side, proj = self.grid.patch, embed.proj
        size = images.shape[2] // side, images.shape[3] // side
        # The convolution as a matrix product: on a CPU a third of its time, and less where images have gradients.
        cells = images.unflatten(3, (size[1], side)).unflatten(2, (size[0], side)).permute(0, 2, 4, 1, 3, 5)
        cells = cells.reshape(len(images), size[0] * size[1], -1)
        if places is not None:
            cells = cells.gather(1, places[..., None].expand(-1, -1, cells.shape[2]))
        patches = embed.norm(F.linear(cells, proj.weight.flatten(1), proj.bias))
        if replaced is not None:
            replaced = replaced if places is None else replaced.gather(1, places)
            patches = torch.where(replaced[..., None], self.mask_token.to(patches.dtype), patches)
        positions = self.vit.pos_embed[:, skip:]
        if size != (self.grid.rows, self.grid.cols):
            positions = resample_abs_pos_embed(
                positions, list(size), [self.grid.rows, self.grid.cols], num_prefix_tokens=0
            )
        if places is not None:
            # Not by F.embedding, whose gradient in compiled code adds images up in the order in which threads come.
            positions = positions.expand(len(images), -1, -1).gather(1, places[..., None].expand(-1, -1, self.width))
        return self.vit.pos_drop(patches + positions)

    def prefix(self, batch: int) -> Tensor:
        """(B, P, D) class and register tokens, with positions where the model gives them any."""
        tokens = [token for token in (self.vit.cls_token, self.vit.reg_token) if token is not None]
        if not tokens:
            return self.vit.pos_embed.new_zeros(batch, 0, self.width)
        prefix = torch.cat(tokens, 1)
        if not self.vit.no_embed_class:
            prefix = prefix + self.vit.pos_embed[:, : prefix.shape[1]]
        return prefix.expand(batch, -1, -1)

    def forward(
        self,
        images: Tensor,
        present: Tensor | None = None,
        replaced: Tensor | None = None,
        length: int | None = None,
        read: Collection[int] = (),
    ) -> Encoded:
        """Encode the tokens of `present` (B, N) bool, all if None; `replaced` ones as mask tokens.

        read: the blocks, counted from 1, whose outputs are averaged before the last norm; the last one if empty.

        length: how many are present in every row. Where it is None the rows vary: they are padded to the longest,
        rounded up to 8, and the padding is masked out of the attention; this costs one host synchronisation.
        """
        places = valid = bias = None
        if present is not None:
            padded = length is None
            if length is None:
                length = min(self.grid.size, -(-int(present.sum(1).max()) // 8) * 8)
            places = raster_order(present, length)
            if padded:
                valid = torch.arange(length, device=images.device) < present.sum(1, keepdim=True)
                prefix_valid = valid.new_ones(len(images), self.vit.num_prefix_tokens)
                bias = self.attention_bias(torch.cat([prefix_valid, valid], 1))
        prefix, patches = self.prefix(len(images)), self.patch_embeddings(images, replaced, places)
        tokens = self.vit.norm_pre(torch.cat([prefix.to(patches.dtype), patches], 1))
        outputs = []
        for number, block in enumerate(self.vit.blocks, 1):
            tokens = block(tokens, attn_mask=bias)
            if number in read:
                outputs.append(tokens)
        tokens = self.vit.norm(torch.stack(outputs).mean(0) if outputs else tokens)
        return Encoded(tokens[:, : prefix.shape[1]], tokens[:, prefix.shape[1] :], places, valid)

    def with_mask_tokens(self, view: View, read: Collection[int] = ()) -> Encoded:
        """The whole sequence, mask tokens where the view hides; patches (B, N, D) are zeros where it throws away, which
        never enters the sequence. read: as in `forward`."""
        present = None if view.thrown is None else ~view.thrown
        encoded: Encoded = self(view.images, present, view.hidden, read=read)
        if encoded.places is None:
            return encoded
        patches = spread(encoded, encoded.patches.new_zeros(1, 1, self.width), self.grid.size)
        return Encoded(encoded.prefix, patches)

    def cls_attention(self, images: Tensor) -> Tensor:
        """(B, N) float32 attention of the last block from the class token to each patch, mean over heads.

        From q and k of the block, so it does not matter whether attention is fused. Rows sum to less than 1: what
        the class token gives to itself and to registers is cut away, and the rest is not renormalised.
        """
        return self._cls_attention(self._before(images, -1))

    def attend(self, images: Tensor) -> tuple[Encoded, Tensor]:
        """All tokens of clean images, and (B, N) as from `cls_attention`, in one pass."""
        tokens = self._before(images, -1)
        attention = self._cls_attention(tokens)
        return self._split(self.vit.norm(self.vit.blocks[-1](tokens))), attention

    def _before(self, images: Tensor, place: int) -> Tensor:
        """All tokens of clean images as the block at `place` gets them."""
        tokens = self.vit.norm_pre(torch.cat([self.prefix(len(images)), self.patch_embeddings(images)], 1))
        for block in self.vit.blocks[:place]:
            tokens = block(tokens)
        return tokens

    def _split(self, tokens: Tensor) -> Encoded:
        return Encoded(tokens[:, : self.vit.num_prefix_tokens], tokens[:, self.vit.num_prefix_tokens :])

    def _cls_attention(self, tokens: Tensor) -> Tensor:
        last = self.vit.blocks[-1]
        attention = last.attn
        batch, count, _ = tokens.shape
        qkv = attention.qkv(last.norm1(tokens)).reshape(batch, count, 3, attention.num_heads, -1)
        query, key, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = attention.q_norm(query[:, :, :1]), attention.k_norm(key)
        with torch.autocast(tokens.device.type, enabled=False):
            scores = (query.float() * attention.scale) @ key.float().transpose(-2, -1)
        return scores.softmax(-1).mean(1)[:, 0, self.vit.num_prefix_tokens :]

    def pooled(self, images: Tensor, blocks: int = 1) -> dict[str, Tensor]:
        """Features (B, blocks * D) float32 of clean images: "cls" where the model has a class token, "mean" over
        patches. blocks: how many of the last blocks are read, each through the last norm, and concatenated."""
        if blocks == 1:
            return self.pool(self(images))
        parts = [self.pool(encoded) for encoded in self.last_blocks(images, blocks)]
        return {pooling: torch.cat([part[pooling] for part in parts], 1) for pooling in parts[0]}

    def last_blocks(self, images: Tensor, count: int) -> list[Encoded]:
        """All tokens of clean images after each of the last `count` blocks and the last norm, in order of depth."""
        tokens = self._before(images, len(self.vit.blocks) - count)
        found = []
        for block in self.vit.blocks[len(self.vit.blocks) - count :]:
            tokens = block(tokens)
            found.append(self._split(self.vit.norm(tokens)))
        return found

    def pool(self, encoded: Encoded) -> dict[str, Tensor]:
        """Features (B, D) float32 at least by name: "mean" over the patches that are there, "cls"."""
        patches = precise(encoded.patches)
        if encoded.valid is None:
            features = {"mean": patches.mean(1)}
        else:
            valid = encoded.valid[..., None].to(patches.dtype)
            features = {"mean": (patches * valid).sum(1) / valid.sum(1).clamp_min(1)}
        if self.vit.cls_token is not None:
            features["cls"] = precise(encoded.prefix[:, 0])
        return features

    def attention_bias(self, valid: Tensor) -> Tensor:
        """The attention mask that keeps out tokens where `valid` (B, K) is False, prefix included: bool for fused
        attention, additive for plain. Where all are, they see each other: no softmax is over nothing."""
        allowed = (valid | ~valid.any(1, keepdim=True))[:, None, None, :]
        if self.vit.blocks[0].attn.fused_attn:
            return allowed.expand(-1, -1, allowed.shape[-1], -1)
        return torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, -torch.inf)


def spread(encoded: Encoded, filler: Tensor, size: int) -> Tensor:
    """(B, size, D): the encoded patches at their places in the grid, `filler` (1, 1, D) everywhere else."""
    patches, places = encoded.patches, encoded.places
    assert places is not None, "all tokens are there in order"
    if encoded.valid is not None:
        places = torch.where(encoded.valid, places, size)  # padding goes to a place that is cut off
    tokens = filler.to(patches.dtype).repeat(len(patches), size + 1, 1)
    return tokens.scatter(1, places[..., None].expand_as(patches), patches)[:, :size]


def raster_order(present: Tensor, length: int) -> Tensor:
    """(B, length) int64: the numbers of each row's True tokens in ascending order, 0 where there are fewer."""
    place = torch.where(present, present.cumsum(1) - 1, length).clamp(max=length)
    token = torch.arange(present.shape[1], device=present.device).expand_as(place)
    order = place.new_zeros(len(present), length + 1)
    return order.scatter_(1, place, token)[:, :length]


def build_encoder(name: str, grid: Grid, channels: int, kwargs: dict[str, Any], *, plain_attention: bool) -> Encoder:
    """The encoder `name` for this grid, initialised by torch's current generator. UsageError where it cannot serve."""
    if not timm.is_model(name):
        raise unknown("model", name, timm.list_models("vit*"))
    try:
        vit = timm.create_model(name, **create_arguments(grid, channels, kwargs))
    except (TypeError, AssertionError) as error:
        if timm.models.model_entrypoint(name).__module__ == VisionTransformer.__module__:
            raise UsageError(f"model {name} with {kwargs}: {error}; change model.kwargs") from None
        raise _unsuitable(name) from None
    standard = type(vit) is VisionTransformer and all(type(block) is Block for block in vit.blocks)
    if not standard or vit.pos_embed is None or vit.attn_pool is not None:
        raise _unsuitable(name)
    _initialise(vit)
    use_plain_attention(vit, plain_attention)
    return Encoder(vit, grid)


def _unsuitable(name: str) -> UsageError:
    return UsageError(
        f"model {name} is no plain timm VisionTransformer with absolute positions; "
        f"choose one that is, e.g. vit_tiny_patch16_224 or deit3_small_patch16_224"
    )


def create_arguments(grid: Grid, channels: int, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments with which `timm.create_model(name, ...)` makes the model that an exported encoder fits."""
    return {
        "img_size": list(grid.image_size),
        "patch_size": grid.patch,
        "in_chans": channels,
        "num_classes": 0,
        "fc_norm": False,  # the last norm acts on tokens, not on their mean
        **kwargs,
    }


def use_plain_attention(module: nn.Module, plain: bool) -> None:
    """Choose between timm's plain and fused attention everywhere in `module`."""
    for part in module.modules():
        if isinstance(part, Attention):
            part.fused_attn = not plain


def transformer(width: int, depth: int, heads: int, *, plain_attention: bool) -> nn.ModuleList:
    """Blocks of a light decoder, initialised like the encoder."""
    blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
    blocks.apply(_xavier)
    use_plain_attention(blocks, plain_attention)
    return blocks


def sine_cosine(grid: Grid, width: int) -> Tensor:
    """(1, N, width) fixed 2-D positions: a quarter each of sin and cos of the row and of the column."""
    if width % 4:
        raise UsageError(f"width {width} must be a multiple of 4 for sine-cosine positions")
    frequency = 10_000.0 ** -(torch.arange(width // 4).double() / (width // 4))
    rows, cols = torch.meshgrid(torch.arange(grid.rows), torch.arange(grid.cols), indexing="ij")
    angles = [axis.flatten().double()[:, None] * frequency for axis in (rows, cols)]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1)
    return table.float()[None]


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _initialise(vit: VisionTransformer) -> None:
    vit.apply(_xavier)
    nn.init.xavier_uniform_(vit.patch_embed.proj.weight.data.flatten(1))
    for token in (vit.cls_token, vit.reg_token):
        if token is not None:
            nn.init.normal_(token, std=0.02)
    skip = 0 if vit.no_embed_class else vit.num_prefix_tokens
    rows, cols = vit.patch_embed.grid_size
    with torch.no_grad():
        vit.pos_embed.zero_()
        vit.pos_embed[:, skip:] = sine_cosine(Grid(rows, cols, vit.patch_embed.patch_size[0]), vit.embed_dim)
