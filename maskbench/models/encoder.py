"""The encoder: any timm `VisionTransformer` with absolute positions, over any subset of its tokens.

timm's named parts are used one by one (patch_embed, cls_token, reg_token, pos_embed, norm_pre, blocks, norm), so the
wrapped model stays a plain timm model and its state dict loads strictly into `timm.create_model`. The last layer norm
belongs to the encoder, so probes read normalised tokens. maskbench.models.initialisation says how it starts.
"""

import math
from collections.abc import Collection
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from maskbench.config.model_arguments import check_model_kwargs
from maskbench.core.grid import Grid
from maskbench.core.step_output import at_least_float32
from maskbench.core.view import View
from maskbench.errors import UsageError
from maskbench.models.initialisation import initialise_linear, initialise_vit
from maskbench.models.positions import resize_positions
from maskbench.models.timm_models import create_timm_model, ensure_known_model
from maskbench.models.tokens import EncodedTokens, scatter_to_grid, true_indices


class Encoder(nn.Module):
    """A timm ViT over the tokens that a view leaves. Never masks by itself; deterministic in eval mode.

    Attributes:
        vit: The timm model. Its state dict is what is exported.
        grid: The patches of an image.
        width: Size of a token.
        mask_token: (1, 1, width), learnt. Outside `vit`, so not part of the export.
    """

    def __init__(self, vit: VisionTransformer, grid: Grid) -> None:
        super().__init__()
        self.vit = vit
        self.grid = grid
        self.width: int = vit.embed_dim
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.width))

    def forward(
        self,
        images: Tensor,
        present: Tensor | None = None,
        replaced: Tensor | None = None,
        length: int | None = None,
        read: Collection[int] = (),
    ) -> EncodedTokens:
        """Encode some or all tokens of images.

        Args:
            images: (B, C, H, W), normalised.
            present: (B, N) bool, the tokens to encode. None: all.
            replaced: (B, N) bool, tokens in whose place the mask token stands. None: none.
            length: How many tokens are present in every row. Where it is None the rows vary: they are padded to the
                longest, rounded up to 8, and attention leaves the padding out. This costs one host synchronisation.
            read: Blocks, counted from 1, whose outputs are averaged before the last norm. Empty: the last one alone.
        """
        patch_index = valid = bias = None
        if present is not None:
            padded = length is None
            if length is None:
                longest = int(present.sum(1).max())
                length = min(self.grid.size, math.ceil(longest / 8) * 8)
            patch_index = true_indices(present, length)
            if padded:
                valid = torch.arange(length, device=images.device) < present.sum(1, keepdim=True)
                prefix_valid = valid.new_ones(len(images), self.vit.num_prefix_tokens)
                bias = self.attention_bias(torch.cat([prefix_valid, valid], 1))
        prefix, patches = self.prefix_tokens(len(images)), self.embed_patches(images, replaced, patch_index)
        tokens = self.vit.norm_pre(torch.cat([prefix.to(patches.dtype), patches], 1))
        outputs = []
        for number, block in enumerate(self.vit.blocks, 1):
            tokens = block(tokens, attn_mask=bias)
            if number in read:
                outputs.append(tokens)
        tokens = self.vit.norm(torch.stack(outputs).mean(0) if outputs else tokens)
        return EncodedTokens(tokens[:, : prefix.shape[1]], tokens[:, prefix.shape[1] :], patch_index, valid)

    def encode_with_mask_tokens(self, view: View, read: Collection[int] = ()) -> EncodedTokens:
        """Encode the whole sequence, with mask tokens where the view hides.

        Dropped tokens (`view.thrown`) never enter the sequence; patches (B, N, D) are zeros there. read: see `forward`.
        """
        present = None if view.thrown is None else ~view.thrown
        encoded: EncodedTokens = self(view.images, present, view.hidden, read=read)
        if encoded.patch_index is None:
            return encoded
        patches = scatter_to_grid(encoded, encoded.patches.new_zeros(1, 1, self.width), self.grid.size)
        return EncodedTokens(encoded.prefix, patches)

    def encode_with_attention(self, images: Tensor) -> tuple[EncodedTokens, Tensor]:
        """All tokens of clean images, and (B, N) as from `cls_attention`, in one pass."""
        tokens = self._run_blocks(images, len(self.vit.blocks) - 1)
        attention = self._attention_in_last_block(tokens)
        return self._split_prefix(self.vit.norm(self.vit.blocks[-1](tokens))), attention

    def encode_last_blocks(self, images: Tensor, count: int) -> list[EncodedTokens]:
        """All tokens of clean images after each of the last `count` blocks and the last norm, in order of depth."""
        before = len(self.vit.blocks) - count
        tokens = self._run_blocks(images, before)
        encoded = []
        for block in self.vit.blocks[before:]:
            tokens = block(tokens)
            encoded.append(self._split_prefix(self.vit.norm(tokens)))
        return encoded

    def cls_attention(self, images: Tensor) -> Tensor:
        """(B, N) float32 attention of the last block from the class token to each patch, mean over heads.

        From q and k of the block, so it does not matter whether attention is fused. Rows sum to less than 1: what
        the class token gives to itself and to registers is cut away, and the rest is not renormalised.
        """
        return self._attention_in_last_block(self._run_blocks(images, len(self.vit.blocks) - 1))

    def pooled_features(self, images: Tensor, blocks: int = 1) -> dict[str, Tensor]:
        """Features (B, blocks * D) float32 of clean images by pooling, as from `pool`.

        blocks: how many of the last blocks are read, each through the last norm, and concatenated.
        """
        if blocks == 1:
            return self.pool(self(images))
        pooled = [self.pool(encoded) for encoded in self.encode_last_blocks(images, blocks)]
        return {pooling: torch.cat([each[pooling] for each in pooled], 1) for pooling in pooled[0]}

    def pool(self, encoded: EncodedTokens) -> dict[str, Tensor]:
        """Features (B, D), float32 or wider: "mean" over the patches that were encoded; "cls", the class token.

        "cls" is missing where the model has no class token.
        """
        patches = at_least_float32(encoded.patches)
        if encoded.valid is None:
            features = {"mean": patches.mean(1)}
        else:
            valid = encoded.valid[..., None].to(patches.dtype)
            features = {"mean": (patches * valid).sum(1) / valid.sum(1).clamp_min(1)}
        if self.vit.cls_token is not None:
            features["cls"] = at_least_float32(encoded.prefix[:, 0])
        return features

    def embed_patches(
        self, images: Tensor, replaced: Tensor | None = None, patch_index: Tensor | None = None
    ) -> Tensor:
        """Patch embeddings with positions.

        Args:
            images: (B, C, H, W). Of another size than the grid's, they get positions that are resized bicubically,
                antialiased, as timm does it (DINO does not antialias).
            replaced: (B, N) bool: the mask token stands where it is True.
            patch_index: (B, K) int64: which of the N patches of each image to embed. None: all.

        Returns:
            (B, N, D), or (B, K, D) of the chosen ones.
        """
        embed, skip = self.vit.patch_embed, 0 if self.vit.no_embed_class else self.vit.num_prefix_tokens
        side, proj = self.grid.patch, embed.proj
        rows, cols = images.shape[2] // side, images.shape[3] // side
        # The convolution as a matrix product: on a CPU a third of its time, and less where images have gradients.
        pixels = images.unflatten(3, (cols, side)).unflatten(2, (rows, side)).permute(0, 2, 4, 1, 3, 5)
        pixels = pixels.reshape(len(images), rows * cols, -1)
        if patch_index is not None:
            pixels = pixels.gather(1, patch_index[..., None].expand(-1, -1, pixels.shape[2]))
        patches = embed.norm(F.linear(pixels, proj.weight.flatten(1), proj.bias))
        if replaced is not None:
            replaced = replaced if patch_index is None else replaced.gather(1, patch_index)
            patches = torch.where(replaced[..., None], self.mask_token.to(patches.dtype), patches)
        positions = self.vit.pos_embed[:, skip:]
        positions = resize_positions(positions, (self.grid.rows, self.grid.cols), (rows, cols))
        if patch_index is not None:
            # Not by F.embedding, whose gradient in compiled code adds images up in the order in which threads come.
            index = patch_index[..., None].expand(-1, -1, self.width)
            positions = positions.expand(len(images), -1, -1).gather(1, index)
        return self.vit.pos_drop(patches + positions)

    def prefix_tokens(self, batch: int) -> Tensor:
        """(B, P, D) class and register tokens, with positions where the model gives them any."""
        tokens = [token for token in (self.vit.cls_token, self.vit.reg_token) if token is not None]
        if not tokens:
            return self.vit.pos_embed.new_zeros(batch, 0, self.width)
        prefix = torch.cat(tokens, 1)
        if not self.vit.no_embed_class:
            prefix = prefix + self.vit.pos_embed[:, : prefix.shape[1]]
        return prefix.expand(batch, -1, -1)

    def attention_bias(self, valid: Tensor) -> Tensor:
        """The attention mask that leaves out tokens where `valid` (B, K) is False, prefix included.

        bool for fused attention, additive for plain. In a row without a valid token, all see each other: no softmax is
        over nothing.
        """
        allowed = (valid | ~valid.any(1, keepdim=True))[:, None, None, :]
        if self.vit.blocks[0].attn.fused_attn:
            return allowed.expand(-1, -1, allowed.shape[-1], -1)
        return torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, -torch.inf)

    def _run_blocks(self, images: Tensor, count: int) -> Tensor:
        """(B, P + N, D): all tokens of clean images after the first `count` blocks."""
        tokens = self.vit.norm_pre(torch.cat([self.prefix_tokens(len(images)), self.embed_patches(images)], 1))
        for block in self.vit.blocks[:count]:
            tokens = block(tokens)
        return tokens

    def _split_prefix(self, tokens: Tensor) -> EncodedTokens:
        return EncodedTokens(tokens[:, : self.vit.num_prefix_tokens], tokens[:, self.vit.num_prefix_tokens :])

    def _attention_in_last_block(self, tokens: Tensor) -> Tensor:
        """`cls_attention`, from the tokens that enter the last block."""
        last = self.vit.blocks[-1]
        attention = last.attn
        batch, count, _ = tokens.shape
        qkv = attention.qkv(last.norm1(tokens)).reshape(batch, count, 3, attention.num_heads, -1)
        query, key, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = attention.q_norm(query[:, :, :1]), attention.k_norm(key)
        with torch.autocast(tokens.device.type, enabled=False):
            scores = (query.float() * attention.scale) @ key.float().transpose(-2, -1)
        return scores.softmax(-1).mean(1)[:, 0, self.vit.num_prefix_tokens :]


def build_encoder(name: str, grid: Grid, channels: int, kwargs: dict[str, Any], *, plain_attention: bool) -> Encoder:
    """Build the timm model `name` for this grid, initialised from torch's current generator.

    Args:
        name: A timm `VisionTransformer` with absolute positions.
        grid: The patches of an image.
        channels: Of an image.
        kwargs: Further arguments of the architecture, such as embed_dim or depth.
        plain_attention: Whether to use timm's plain attention in place of the fused one.

    Raises:
        UsageError: For a model of another architecture, or with arguments that it does not take or that are not of
            an architecture (see maskbench.config.model_arguments).
    """
    ensure_known_model(name)
    check_model_kwargs(kwargs)
    try:
        vit = create_timm_model(name, timm_arguments(grid, channels, kwargs))
    except (TypeError, AssertionError) as error:
        if timm.models.model_entrypoint(name).__module__ == VisionTransformer.__module__:
            raise UsageError(f"model {name} with {kwargs}: {error}; change model.kwargs") from None
        raise _unsupported_model(name) from None
    standard = type(vit) is VisionTransformer and all(type(block) is Block for block in vit.blocks)
    if not standard or vit.pos_embed is None or vit.attn_pool is not None:
        raise _unsupported_model(name)
    initialise_vit(vit)
    use_plain_attention(vit, plain_attention)
    return Encoder(vit, grid)


def _unsupported_model(name: str) -> UsageError:
    return UsageError(
        f"model {name} is no plain timm VisionTransformer with absolute positions; "
        f"choose one that is, e.g. vit_tiny_patch16_224 or deit3_small_patch16_224"
    )


def timm_arguments(grid: Grid, channels: int, kwargs: dict[str, Any]) -> dict[str, Any]:
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


def build_decoder_blocks(width: int, depth: int, heads: int, *, plain_attention: bool) -> nn.ModuleList:
    """Blocks of a light decoder, initialised like the encoder."""
    blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
    blocks.apply(initialise_linear)
    use_plain_attention(blocks, plain_attention)
    return blocks
