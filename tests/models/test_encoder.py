"""The encoder against timm's own forward pass and against attention written plainly."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.models.encoder import Encoder, build_encoder, timm_arguments, use_plain_attention
from maskbench.models.initialisation import sine_cosine_positions
from maskbench.models.tokens import true_indices

GRID = Grid(4, 6, 4)
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"reg_tokens": 3},
    {"no_embed_class": True, "reg_tokens": 2},
    {"qk_norm": True},
    {"class_token": False, "global_pool": "avg"},
    {"pre_norm": True},
    {"init_values": 0.1},
]
variants = pytest.mark.parametrize("extra", VARIANTS, ids=str)


def encoder_for(extra: dict[str, Any] | None = None, plain: bool = True) -> Encoder:
    torch.manual_seed(0)
    kwargs = SMALL | (extra or {})
    return build_encoder("vit_tiny_patch16_224", GRID, 3, kwargs, plain_attention=plain).eval()


def images(batch: int = 5) -> Tensor:
    return torch.randn(batch, 3, 16, 24, generator=torch.Generator().manual_seed(1))


@variants
@torch.no_grad()
def test_all_tokens_equal_timms_forward(extra: dict[str, Any]) -> None:
    encoder, x = encoder_for(extra), images()
    encoded = encoder(x)
    expected = encoder.vit.forward_features(x)
    torch.testing.assert_close(torch.cat([encoded.prefix, encoded.patches], 1), expected)
    assert encoded.prefix.shape[1] == encoder.vit.num_prefix_tokens


@variants
@torch.no_grad()
def test_export_loads_strictly_into_timm(extra: dict[str, Any]) -> None:
    encoder, x = encoder_for(extra), images()
    model = timm.create_model("vit_tiny_patch16_224", **timm_arguments(GRID, 3, SMALL | extra)).eval()
    model.load_state_dict(encoder.vit.state_dict(), strict=True)
    torch.testing.assert_close(model.forward_features(x), encoder.vit.forward_features(x))


def some_present(count: int | None) -> Tensor:
    scores = torch.rand(5, GRID.size, generator=torch.Generator().manual_seed(2))
    if count is not None:
        return scores.argsort(1).argsort(1) < count
    return scores < torch.tensor([[0.1], [0.3], [0.5], [0.7], [0.9]])


@variants
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fused"])
@torch.no_grad()
def test_a_subset_is_encoded_as_if_the_others_did_not_exist(extra: dict[str, Any], plain: bool) -> None:
    encoder, x = encoder_for(extra, plain), images()
    for count in (7, None):
        present = some_present(count)
        encoded = encoder(x, present, length=count)
        assert encoded.patch_index is not None
        for row in range(5):
            # One row by hand: its tokens alone, through timm's blocks.
            places = present[row].nonzero()[:, 0]
            patches = encoder.embed_patches(x[row : row + 1])[:, places]
            tokens = encoder.vit.norm_pre(torch.cat([encoder.prefix_tokens(1), patches], 1))
            for block in encoder.vit.blocks:
                tokens = block(tokens)
            tokens = encoder.vit.norm(tokens)[0]
            prefix = encoder.vit.num_prefix_tokens
            torch.testing.assert_close(encoded.prefix[row], tokens[:prefix], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(encoded.patches[row, : len(places)], tokens[prefix:], rtol=1e-4, atol=1e-5)
            assert encoded.patch_index[row, : len(places)].tolist() == places.tolist()


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fused"])
def test_an_image_of_which_nothing_is_left_leaves_the_others_their_gradients(plain: bool) -> None:
    encoder = encoder_for({"class_token": False, "global_pool": "avg"}, plain)
    present = some_present(None)
    present[2] = False
    gradients = []
    for rows in (slice(None), [0, 1, 3, 4]):
        encoder.zero_grad()
        encoded = encoder(images()[rows], present[rows])
        assert encoded.valid is not None
        (encoded.patches * encoded.valid[..., None]).square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.vit.blocks.parameters() if p.grad is not None])
    for with_it, without in zip(*gradients, strict=True):
        torch.testing.assert_close(with_it, without, rtol=1e-4, atol=1e-5)


def test_varying_counts_are_padded_to_multiples_of_eight() -> None:
    encoded = encoder_for()(images(), some_present(None))
    longest = int(some_present(None).sum(1).max())
    assert encoded.patches.shape[1] == min(GRID.size, -(-longest // 8) * 8)
    assert encoded.valid is not None
    assert encoded.valid.sum(1).tolist() == some_present(None).sum(1).tolist()


@torch.no_grad()
def test_attention_is_compared_in_single_precision_under_autocast() -> None:
    """What half precision has left of queries and keys is multiplied as it is: no score is rounded again."""
    encoder, x = encoder_for(), images()
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder.cls_attention(x)
        tokens = encoder._run_blocks(x, len(encoder.vit.blocks) - 1)
        last = encoder.vit.blocks[-1]
        qkv = last.attn.qkv(last.norm1(tokens)).float().unflatten(2, (3, last.attn.num_heads, -1))
    query, key = qkv[:, 0, 0], qkv[:, :, 1]
    scores = (query[:, None] * key).sum(-1) * last.attn.scale
    expected = scores.softmax(1).mean(2)[:, encoder.vit.num_prefix_tokens :]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_replaced_tokens_carry_the_mask_token_at_their_position() -> None:
    encoder, x = encoder_for(), images()
    encoder.mask_token.normal_()
    replaced = some_present(5)
    with_token = encoder.embed_patches(x, replaced)
    expected = encoder.mask_token[0] + encoder.vit.pos_embed[0, 1:]
    for row in range(5):
        torch.testing.assert_close(with_token[row][replaced[row]], expected[replaced[row]])
    torch.testing.assert_close(with_token[~replaced], encoder.embed_patches(x)[~replaced])


@torch.no_grad()
def test_the_tokens_at_some_places_are_those_of_all() -> None:
    """In the order in which they are asked for."""
    encoder, x, generator = encoder_for(), images(), torch.Generator().manual_seed(2)
    encoder.mask_token.normal_()
    places = torch.stack([torch.randperm(GRID.size, generator=generator)[:5] for _ in x])
    replaced = torch.rand(len(x), GRID.size, generator=generator) < 0.5
    some, every = encoder.embed_patches(x, replaced, places), encoder.embed_patches(x, replaced)
    for row in range(len(x)):
        torch.testing.assert_close(some[row], every[row][places[row]])


@pytest.mark.parametrize("extra", [{}, {"reg_tokens": 3}, {"qk_norm": True}], ids=str)
@pytest.mark.parametrize("plain", [True, False], ids=["plain", "fused"])
@torch.no_grad()
def test_cls_attention_equals_the_blocks_own_weights(extra: dict[str, Any], plain: bool) -> None:
    encoder, x = encoder_for(extra, plain), images()
    seen: list[Tensor] = []
    last = encoder.vit.blocks[-1].attn
    use_plain_attention(last, True)
    hook = last.attn_drop.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    encoder.vit.forward_features(x)
    hook.remove()
    use_plain_attention(last, plain)
    expected = seen[0].mean(1)[:, 0, encoder.vit.num_prefix_tokens :]
    torch.testing.assert_close(encoder.cls_attention(x), expected, rtol=1e-4, atol=1e-6)


def test_encode_is_deterministic_and_never_masks() -> None:
    encoder, x = encoder_for(), images()
    first, second = encoder.pooled_features(x), encoder.pooled_features(x)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert set(first) == {"cls", "mean"}
    assert set(encoder_for({"class_token": False, "global_pool": "avg"}).pooled_features(x)) == {"mean"}


@pytest.mark.parametrize("count", [2, 3, 7])
def test_true_indices_against_a_plain_loop(count: int) -> None:
    mask = torch.rand(20, 7, generator=torch.Generator().manual_seed(4)) < torch.linspace(0, 1, 20)[:, None]
    expected = []
    for row in mask.tolist():
        columns = [column for column, value in enumerate(row) if value]
        expected.append((columns + [0] * count)[:count])
    assert true_indices(mask, count).tolist() == expected


def test_sine_cosine_by_hand() -> None:
    table = sine_cosine_positions(GRID, 8)[0]
    row, col = 2, 5
    for i in range(2):
        frequency = 10_000 ** (-i / 2)
        got = [float(table[row * 6 + col, part * 2 + i]) for part in range(4)]
        expected = [f(torch.tensor(at * frequency)) for at in (row, col) for f in (torch.sin, torch.cos)]
        assert got == pytest.approx([float(value) for value in expected], abs=1e-6)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "beit_base_patch16_224",
        "swin_tiny_patch4_window7_224",
        "vit_relpos_small_patch16_224",
        "vit_base_patch16_rpn_224",
        "eva02_tiny_patch14_224",
        "deit_tiny_distilled_patch16_224",
    ],
)
def test_other_architectures_are_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"model {name} is no plain timm VisionTransformer"):
        build_encoder(name, Grid(2, 2, 16), 3, {}, plain_attention=True)


def test_a_misspelt_model_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean vit_tiny_patch16_224"):
        build_encoder("vit_tny_patch16_224", GRID, 3, {}, plain_attention=True)


def test_a_misspelt_model_argument_is_named() -> None:
    with pytest.raises(UsageError, match="depht"):
        build_encoder("vit_tiny_patch16_224", GRID, 3, SMALL | {"depht": 3}, plain_attention=True)
