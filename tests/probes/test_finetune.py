"""Fine-tuning against a loop written out, and what it must leave alone."""

import copy
import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from maskbench.core.rng import derive_seed
from maskbench.data.mixup import mix_batch
from maskbench.probe import Subject
from maskbench.probes import finetune
from maskbench.probes.finetune import Finetune, FinetuneModel, layer_groups
from maskbench.training.crops import labelled_batches
from tests.helpers import tiny_subject
from tests.helpers.tiny_subject import shuffle_labels

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 30, "blr": 1e-2}


@pytest.mark.parametrize("pre_norm", [False, True])
def test_the_rate_of_each_parameter(pre_norm: bool) -> None:
    """Powers of the decay by hand, for a ViT with the parts that timm may give it."""
    encoder = tiny_subject.encoder(depth=3, reg_tokens=2, init_values=0.1, pre_norm=pre_norm)
    model = FinetuneModel(encoder, 3, 0.1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["scale"], group["weight_decay"])
        for group in layer_groups(model, 0.5, 0.05)
        for parameter in group["params"]
    }
    vectors = {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "ls1.gamma", "ls2.gamma"} | {
        f"{part}.bias" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    matrices = {f"{part}.weight" for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    before = {"mask_token", "vit.cls_token", "vit.reg_token", "vit.pos_embed"}
    before |= {"vit.norm_pre.weight", "vit.norm_pre.bias"} if pre_norm else {"vit.patch_embed.proj.bias"}
    wanted = {f"encoder.{name}": (1 / 16, 0.0) for name in before}
    wanted["encoder.vit.patch_embed.proj.weight"] = (1 / 16, 0.05)
    for block, scale in enumerate((1 / 8, 1 / 4, 1 / 2)):
        wanted |= {f"encoder.vit.blocks.{block}.{name}": (scale, 0.0) for name in vectors}
        wanted |= {f"encoder.vit.blocks.{block}.{name}": (scale, 0.05) for name in matrices}
    wanted |= dict.fromkeys(("norm.weight", "norm.bias", "classify.bias"), (1.0, 0.0))
    wanted["classify.weight"] = (1.0, 0.05)
    assert found == wanted


def test_training_written_out() -> None:
    """AdamW, schedule, layer decay, weight decay, mixing and label smoothing, by hand, parameter by parameter."""
    given = {"epochs": 3, "warmup_epochs": 1, "batch_size": 60, "blr": 2e-2, "weight_decay": 0.5, "drop_path": 0.0}
    probe, subject = Finetune(**given), tiny_subject.subject(encoder=tiny_subject.encoder(drop_path_rate=0.0), seed=7)
    index = torch.arange(130)
    theirs = probe.train_model(subject, index, 0.6)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(7, "finetune"))
        ours = FinetuneModel(subject.encoder, 3, 0.0).train()
    first: dict[str, Tensor] = {}
    second: dict[str, Tensor] = {}
    batches = labelled_batches(
        subject.splits, index, (16, 16), seed=7, stream="finetune", epochs=3, batch_size=60, scale=(0.35, 1.0)
    )
    shares = [1 / 2, 1.0, *(0.5 + 0.5 * math.cos(math.pi * done / 3) for done in range(4))]
    for step, (images, labels) in enumerate(batches):
        generator = np.random.default_rng(derive_seed(7, "finetune", "mixing", step))
        images, targets = mix_batch(images, torch.eye(3)[labels], generator, mixup=0.8, cutmix=1.0)
        loss = -((0.9 * targets + 0.1 / 3) * ours(images).log_softmax(1)).sum() / 60
        ours.zero_grad()
        loss.backward()
        for name, parameter in ours.named_parameters():
            if name == "encoder.mask_token":
                continue
            layers = 3 if "vit." in name else 0
            layers = 2 - int(name.split(".")[3]) if ".blocks." in name else layers
            rate = shares[step] * 2e-2 * 60 / 256 * 0.6**layers
            decay = 0.0 if parameter.ndim == 1 or name.endswith(("cls_token", "pos_embed")) else 0.5
            gradient = parameter.grad
            assert gradient is not None
            first[name] = 0.9 * first.get(name, torch.zeros(())) + 0.1 * gradient
            second[name] = 0.999 * second.get(name, torch.zeros(())) + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            with torch.no_grad():
                parameter.mul_(1 - rate * decay).sub_(rate * mean / (square.sqrt() + 1e-8))
    assert step == 5
    clean = torch.randn(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    wanted = ours(clean)
    assert wanted.std() > 0.1, "something was learnt"
    torch.testing.assert_close(theirs(clean), wanted, rtol=1e-3, atol=1e-3)


def test_the_classifier_by_hand() -> None:
    """The mean patch of the last block, through the new norm; neither the class token nor the encoder's own norm."""
    encoder, images = tiny_subject.encoder().eval(), torch.randn(2, 3, 16, 16)
    nn.init.constant_(encoder.vit.norm.weight, 5.0)
    model = FinetuneModel(encoder, 3, 0.1).eval()
    nn.init.normal_(model.classify.weight)
    outputs: list[Tensor] = []
    encoder.vit.blocks[-1].register_forward_hook(lambda module, given, output: outputs.append(output))
    encoder(images)
    mean = outputs[0][:, 1:].mean(1)
    mean = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(model(images), mean @ model.classify.weight.T + model.classify.bias)


def test_drop_path_grows_with_depth() -> None:
    for given in ({"drop_path_rate": 0.5}, {"drop_path_rate": 0.0}):
        encoder = tiny_subject.encoder(depth=3, **given)
        kept = [type(block.drop_path1) for block in encoder.vit.blocks]
        blocks = FinetuneModel(encoder, 3, 0.2).encoder.vit.blocks
        assert [block.drop_path1.drop_prob for block in blocks] == pytest.approx([0.0, 0.1, 0.2])
        assert [block.drop_path2.drop_prob for block in blocks] == pytest.approx([0.0, 0.1, 0.2])
        assert [type(block.drop_path1) for block in encoder.vit.blocks] == kept, "the encoder's own stay"
    assert DropPath not in kept


def test_the_encoder_and_the_random_state_are_left_alone() -> None:
    encoder = tiny_subject.encoder().train()
    encoder.vit.patch_embed.requires_grad_(False)
    before, parts = copy.deepcopy(encoder.state_dict()), list(map(id, encoder.modules()))
    asked, state = [parameter.requires_grad for parameter in encoder.parameters()], torch.get_rng_state()
    subject = tiny_subject.subject(encoder=encoder)
    Finetune(**QUICK)(subject)
    assert torch.equal(torch.get_rng_state(), state)
    assert encoder.training and list(map(id, encoder.modules())) == parts
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert [parameter.requires_grad for parameter in encoder.parameters()] == asked
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    model = Finetune(**QUICK).train_model(subject, torch.arange(60), 1.0)
    for key, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[key]) == (key == "mask_token"), f"all of the copy is trained: {key}"


def test_the_layer_decay_is_chosen_on_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, calls, right = tiny_subject.subject(), [], {1.0}

    def trained(self: Finetune, subject: Subject, index: Tensor, layer_decay: float) -> float:
        calls.append((index.tolist(), layer_decay))
        return layer_decay

    def predictions(subject: Subject, model: float, images: Any) -> Tensor:
        return images.labels if model in right else (images.labels + 1) % 3

    monkeypatch.setattr(Finetune, "train_model", trained)
    monkeypatch.setattr(finetune, "predict", predictions)
    fit, everything = subject.splits.fit.tolist(), list(range(300))
    result = Finetune()(subject)
    assert result.chosen == {"finetune/layer_decay/mean": 1.0} and result.metrics == {"finetune/top1/mean": 1.0}
    assert calls == [(fit, 0.75), (fit, 1.0), (everything, 1.0)]
    right.add(0.75)
    assert Finetune()(subject).chosen == {"finetune/layer_decay/mean": 0.75}, "ties: the smallest"
    calls.clear()
    assert Finetune(layer_decays=(0.6,))(subject).chosen == {"finetune/layer_decay/mean": 0.6}
    assert calls == [(everything, 0.6)], "nothing to choose, nothing spent"


def test_what_can_be_seen_is_learnt_and_shuffled_labels_give_chance() -> None:
    probe = Finetune(layer_decays=(1.0,), **QUICK)
    result = probe(tiny_subject.subject())
    assert result.metrics["finetune/top1/mean"] > 0.95
    assert result.predictions["finetune/mean"].shape == (150,)
    # As for the attentive probe: a sd of at most 0.27 for a shuffle, of 0.09 for the mean of 9.
    scores = [
        probe(tiny_subject.subject(splits=shuffle_labels(seed))).metrics["finetune/top1/mean"] for seed in range(9)
    ]
    assert abs(sum(scores) / 9 - 1 / 3) < 3 * 0.09


def test_seeds_and_a_validation_split_of_its_own() -> None:
    splits = tiny_subject.splits()
    own = dataclasses.replace(splits, validation=splits.train.take(splits.validation))  # type: ignore[arg-type]
    probe, index = Finetune(**QUICK), torch.arange(60)
    one, same, other = (
        probe.train_model(tiny_subject.subject(splits=own, seed=seed), index, 1.0).classify.weight for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert probe(tiny_subject.subject(splits=own)).metrics == probe(tiny_subject.subject()).metrics
