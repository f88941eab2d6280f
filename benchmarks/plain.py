"""The training loop that a user would write: timm's blocks in fp32, images cropped one by one in a DataLoader, masks by
two argsorts, as MAE's authors publish it (arXiv 2111.06377). What ours is measured against, in speed and in numbers."""

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN = STD = (0.5, 0.5, 0.5)


class Pictures(Dataset[Tensor]):
    """(3, size, size) crops, one image at a time. pixels: (N, size, size, 3) uint8."""

    def __init__(self, pixels: Tensor) -> None:
        self.pictures = [Image.fromarray(each.numpy()) for each in pixels]
        self.transform = transforms.Compose([
            transforms.RandomResizedCrop(pixels.shape[1], scale=(0.5, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: int) -> Tensor:
        image: Tensor = self.transform(self.pictures[place])
        return image


def loader(pixels: Tensor, batch_size: int, workers: int) -> DataLoader[Tensor]:
    """Shuffled whole batches."""
    return DataLoader(Pictures(pixels), batch_size, shuffle=True, drop_last=True, num_workers=workers)


class PlainMae(nn.Module):
    """Masked autoencoder with timm's ViT; the loss is the error of hidden patches, each normalised by its moments."""

    def __init__(
        self, *, image: int, patch: int, decoder_width: int, decoder_depth: int, decoder_heads: int, ratio: float,
        **kwargs: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch, self.ratio = patch, ratio
        self.vit = timm.create_model(
            "vit_tiny_patch16_224", img_size=image, patch_size=patch, num_classes=0, fc_norm=False, **kwargs
        )
        count = self.vit.patch_embed.num_patches
        self.embed = nn.Linear(self.vit.embed_dim, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_width))
        self.positions = nn.Parameter(torch.zeros(1, count, decoder_width), requires_grad=False)
        self.blocks = nn.Sequential(*[Block(decoder_width, decoder_heads, qkv_bias=True) for _ in range(decoder_depth)])
        self.norm = nn.LayerNorm(decoder_width)
        self.predict = nn.Linear(decoder_width, patch**2 * 3)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """The loss of `images` (B, 3, H, W). noise: (B, N), the largest of which are hidden; drawn if not given."""
        tokens = self.vit.patch_embed(images) + self.vit.pos_embed[:, 1:]
        batch, count, width = tokens.shape
        kept = int(count * (1 - self.ratio))
        noise = torch.rand(batch, count, device=images.device) if noise is None else noise
        shuffled = noise.argsort(1)
        restored = shuffled.argsort(1)
        tokens = tokens.gather(1, shuffled[:, :kept, None].expand(-1, -1, width))
        first = (self.vit.cls_token + self.vit.pos_embed[:, :1]).expand(batch, -1, -1)
        tokens = self.embed(self.vit.norm(self.vit.blocks(torch.cat([first, tokens], 1))))
        filled = torch.cat([tokens[:, 1:], self.mask_token.expand(batch, count - kept, -1)], 1)
        filled = filled.gather(1, restored[..., None].expand(-1, -1, filled.shape[2])) + self.positions
        decoded = self.predict(self.norm(self.blocks(torch.cat([tokens[:, :1], filled], 1)))[:, 1:])
        hidden = (restored >= kept).float()
        return ((decoded - self.target(images)).square().mean(2) * hidden).sum() / hidden.sum()

    def target(self, images: Tensor) -> Tensor:
        """(B, N, patch * patch * 3): pixels of each patch, less their mean and over their deviation."""
        cut = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        cut = cut.reshape(*cut.shape[:2], 3, -1).transpose(2, 3).flatten(2)  # colours last
        return (cut - cut.mean(2, keepdim=True)) / (cut.var(2, keepdim=True) + 1e-6).sqrt()
