"""The loop: schedule, pairing of runs, state, guard."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskbench.config.settings import RunConfig
from maskbench.core.grid import Grid
from maskbench.runs.plan import Plan, build_state, load_data, make_plan
from maskbench.runs.run_facts import object_shares
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import REGISTRY
from maskbench.training.crops import make_crops, sample_crops, sample_indices
from maskbench.training.data_order import epoch_order
from maskbench.training.loop import Diverged, pretrain
from maskbench.training.schedules import learning_rate, steps_per_epoch, weight_decay_groups
from maskbench.training.step import Trainer
from maskbench.training.train_state import TrainState
from maskbench.training.views import make_context, make_view
from tests.helpers.tiny_run import tiny_config


def ready(config: RunConfig) -> tuple:  # type: ignore[type-arg]
    planned, splits = load_data(make_plan(config))
    return planned, splits, build_state(planned, splits)


def train(config: RunConfig, planned: Plan, splits, state: TrainState, on_step=lambda *_: None) -> Stopwatch:  # type: ignore[no-untyped-def]
    watch = Stopwatch(torch.device("cpu"))
    trainer = Trainer(config, splits, planned.strategy, state, watch)
    pretrain(trainer, online=dict, on_step=on_step, on_epoch=lambda _: None)
    return watch


def weights(state: TrainState) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.head.state_dict().items()}


def test_learning_rate_by_hand(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, train__epochs=10, train__warmup_epochs=2, train__lr=1.0, train__min_lr=0.1)
    rates = [learning_rate(config, step, 4) for step in range(40)]
    assert rates[:8] == pytest.approx([(step + 1) / 8 for step in range(8)])
    for step in range(8, 40):
        share = (step - 8) / 31
        assert rates[step] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2)
    assert rates[-1] == pytest.approx(0.1)


def test_weight_decay_follows_half_a_cosine_and_gradients_are_clipped(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, train__weight_decay=0.04, train__weight_decay_end=0.4, train__clip_grad=0.01)
    planned, splits, state = ready(config)
    decays, norms = [], []

    def look(state: TrainState, _: float | None) -> None:
        decays.append([group["weight_decay"] for group in state.optimizer.param_groups])
        gradients = [p.grad for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients)))

    train(config, planned, splits, state, look)
    for step, (decayed, kept) in enumerate(decays):
        assert decayed == pytest.approx(0.4 - 0.36 * (1 + math.cos(math.pi * step / 7)) / 2)
        assert kept == 0
    assert norms == pytest.approx([0.01] * 8, rel=1e-3)  # far below what they are unclipped


def test_learning_rate_per_256_images(tmp_path: Path) -> None:
    assert tiny_config(tmp_path, train__blr=1e-3, train__batch_size=64).lr == pytest.approx(2.5e-4)


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own() -> None:
    labels = torch.zeros(500)
    orders = [epoch_order(seed, epoch, labels).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(sorted(order) == list(range(500)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]


@pytest.mark.parametrize("count", [1, 7, 256, 1000])
def test_a_sample_of_sorted_images_has_every_class_in_proportion(tmp_path: Path, count: int) -> None:
    """Folders come class by class, and what is fitted to images, shown of them or said of their masks is of all."""
    config = tiny_config(tmp_path)
    planned, splits = load_data(make_plan(config))
    order = splits.train.labels.argsort()
    splits = replace(splits, train=splits.train.take(order))
    numbers = sample_indices(splits, count)
    assert len(numbers.unique()) == len(numbers) == min(count, 300)
    shares = splits.train.labels.bincount() / 300
    found = splits.train.labels[numbers].bincount(minlength=len(shares)) / len(numbers)
    assert (found - shares).abs().max() <= 1 / len(numbers)  # of any run of images, one too many or too few
    batch = sample_crops(config, planned.strategy, splits, count)
    assert torch.equal(batch.index, numbers) and torch.equal(batch.labels, splits.train.labels[numbers])


def test_the_objects_are_those_of_the_sampled_images(tmp_path: Path) -> None:
    """An image of nothing but its object, cropped as the strategy's images are, is the object's share of each patch."""
    config = tiny_config(tmp_path, data__crop_scale=[0.3, 1.0])
    planned, splits = load_data(make_plan(config))
    objects = splits.train.objects
    assert objects is not None
    silhouettes = replace(
        splits, train=replace(splits.train, pixels=objects[:, None].to(torch.uint8).mul(255).expand(-1, 3, -1, -1)),
        mean=torch.zeros(3), std=torch.ones(3),
    )  # fmt: skip
    shown = sample_crops(config, planned.strategy, silhouettes, 256).images[:, 0]
    found = object_shares(config, planned.strategy, splits)
    assert found is not None and found.shape == (256, 16)
    torch.testing.assert_close(found, shown.unflatten(2, (4, 4)).unflatten(1, (4, 4)).mean((2, 4)).flatten(1))


def test_two_strategies_share_everything_but_the_masks(tmp_path: Path) -> None:
    seen = {}
    for strategy in ("random", "gmml", "attmask-high", "zoom-in-mask"):
        planned, splits, state = ready(tiny_config(tmp_path, strategy))
        first = {name: value.clone() for name, value in state.head.encoder.state_dict().items()}
        decoder = {name: value.clone() for name, value in state.head.state_dict().items() if "encoder" not in name}
        index = epoch_order(0, 1, splits.train.labels)[:64]
        boxes = []
        original = planned.strategy
        from maskbench.training import crops as module

        def spy(*args, **kwargs):  # type: ignore[no-untyped-def]
            boxes.append(module_random_boxes(*args, **kwargs))  # noqa: B023
            return boxes[-1]  # noqa: B023

        module_random_boxes = module.random_boxes
        module.random_boxes = spy
        try:
            clean = make_crops(planned.config, original, splits, splits.train.take(index), index, 1).images
        finally:
            module.random_boxes = module_random_boxes
        seen[strategy] = (first, decoder, index, boxes[0], clean)
    base = seen["random"]
    for strategy, (first, decoder, index, boxes, clean) in seen.items():
        assert all(torch.equal(first[name], base[0][name]) for name in base[0]), "initial encoder"
        assert all(torch.equal(decoder[name], base[1][name]) for name in base[1]), "initial decoder"
        assert torch.equal(index, base[2]), "data order"
        for field in ("top", "left", "height", "width", "flip"):
            assert torch.equal(getattr(boxes, field), getattr(base[3], field)), "crop boxes"
        if strategy != "zoom-in-mask":  # it shows the centre of the same box
            assert torch.equal(clean, base[4])


def test_another_seed_shares_nothing(tmp_path: Path) -> None:
    one, two = (ready(tiny_config(tmp_path, seed=seed)) for seed in (0, 1))
    weight = "vit.blocks.0.attn.qkv.weight"
    assert not torch.equal(one[2].head.encoder.state_dict()[weight], two[2].head.encoder.state_dict()[weight])
    index = torch.arange(32)
    pictures = [
        make_crops(planned.config, planned.strategy, splits, splits.train.take(index), index, 0).images
        for planned, splits, _ in (one, two)
    ]
    assert not torch.equal(*pictures)


def test_a_mask_in_training_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    planned, splits, state = ready(tiny_config(tmp_path))

    def hidden(index: Tensor) -> Tensor:
        batch = make_crops(planned.config, planned.strategy, splits, splits.train.take(index), index, 3)
        view = make_view(planned.strategy, batch, make_context(planned.config, planned.strategy, state, batch, 3, 0.5))
        assert view.hidden is not None
        return view.hidden

    together = hidden(torch.arange(64))
    for few in (torch.tensor([7]), torch.tensor([50, 7, 11])):
        assert torch.equal(hidden(few), together[few])


IBOT = "ibot:prototypes=32:hidden=32:bottleneck=16:local_crops=1:local_size=0.5"


@pytest.mark.parametrize(
    ("strategy", "objective"),
    [
        ("random", "mae"),
        ("attmask-high", "mae"),
        ("curriculum", "mae"),
        ("attmask-high", IBOT),
        ("none", "barlow:width=32"),
    ],
)
@pytest.mark.parametrize("stop", [3, 4, 6])
def test_a_restored_state_goes_on_as_if_never_left(tmp_path: Path, strategy: str, objective: str, stop: int) -> None:
    dropping = {"embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2}
    config = tiny_config(tmp_path, strategy, objective=objective, model__kwargs=dropping)
    planned, splits, state = ready(config)
    train(config, planned, splits, state)
    assert state.step == 8

    class Left(Exception):
        pass

    def leave(state: TrainState, _: float | None) -> None:
        if state.step == stop:
            raise Left

    _, _, interrupted = ready(config)
    with pytest.raises(Left):
        train(config, planned, splits, interrupted, leave)
    stored = tmp_path / "state.pt"
    torch.save(interrupted.state_dict(), stored)

    _, _, resumed = ready(config)
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    train(config, planned, splits, resumed)
    expected, got = weights(state), weights(resumed)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert torch.equal(state.ratio_sums, resumed.ratio_sums)
    free_of_clock = [[{k: v for k, v in row.items() if "cost/" not in k} for row in s.curve] for s in (state, resumed)]
    assert free_of_clock[0] == free_of_clock[1]


def test_training_uses_no_global_randomness(tmp_path: Path) -> None:
    results = []
    for disturbance in (1, 2):
        torch.manual_seed(disturbance)
        config = tiny_config(tmp_path)
        planned, splits, state = ready(config)
        train(config, planned, splits, state)
        results.append(weights(state))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_loss_falls(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, train__epochs=8)
    planned, splits, state = ready(config)
    train(config, planned, splits, state)
    losses = [row["loss"] for row in state.curve]
    assert losses[-1] < 0.9 * losses[0]
    assert [row["epoch"] for row in state.curve] == list(range(1, 9))


def test_divergence_stops_with_the_step(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    planned, splits, state = ready(config)

    def poison(state: TrainState, _: float | None) -> None:
        if state.step == 5:
            with torch.no_grad():
                state.head.encoder.vit.norm.weight.fill_(math.nan)

    with pytest.raises(Diverged, match="the loss is nan at step 6; lower the learning rate"):
        train(config, planned, splits, state, poison)


def test_teacher_exists_only_for_strategies_that_ask(tmp_path: Path) -> None:
    assert ready(tiny_config(tmp_path, "random"))[2].teacher is None
    config = tiny_config(tmp_path, "attmask-high", train__teacher_momentum=0.9)
    planned, splits, state = ready(config)
    first = state.head.encoder.vit.norm.weight.detach().clone()
    average = [first]

    def follow(state: TrainState, _: float | None) -> None:
        average[0] = 0.9 * average[0] + 0.1 * state.head.encoder.vit.norm.weight.detach()

    train(config, planned, splits, state, follow)
    assert state.teacher is not None
    torch.testing.assert_close(state.teacher.encoder.vit.norm.weight, average[0])
    assert not any(parameter.requires_grad for parameter in state.teacher.parameters())


def test_weight_decay_spares_vectors_tokens_and_positions(tmp_path: Path) -> None:
    _, _, state = ready(tiny_config(tmp_path))
    decayed, spared = weight_decay_groups(state.head, 0.05)
    names = {id(parameter): name for name, parameter in state.head.named_parameters()}
    spared_names = {names[id(parameter)] for parameter in spared["params"]}
    assert {"encoder.vit.cls_token", "encoder.vit.pos_embed", "encoder.mask_token", "mask_token"} <= spared_names
    assert all(parameter.ndim >= 2 for parameter in decayed["params"])
    assert "encoder.vit.patch_embed.proj.weight" not in spared_names
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    module = REGISTRY.create("curriculum").build(torch.zeros(1, 3, 16, 16), Grid(4, 4, 4), 8)
    assert module is not None
    assert any(module.pos_embed is each for each in weight_decay_groups(module, 0.05)[1]["params"])


def test_phases_account_for_the_time(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, train__epochs=4)
    planned, splits, state = ready(config)
    watch = train(config, planned, splits, state)
    assert watch.steps == 4 * steps_per_epoch(config, 300) - 5, "warm-up is not timed"
    assert set(watch.phases_s) == {"data", "augment", "mask", "teacher", "forward", "backward", "optimizer"}
    assert 0.5 * watch.total_s < sum(watch.phases_s.values()) <= watch.total_s
