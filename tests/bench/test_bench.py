"""What `bench` says: the names that others read, and numbers that fit each other."""

import json
from pathlib import Path

import pytest

from maskbench.strategy import REGISTRY, Strategy
from tests.helpers.command_line import Done, maskbench

TINY = ("--set", "model.kwargs={embed_dim: 32, depth: 2, num_heads: 2}", "--img-size", "16", "--device", "cpu")
NAMED = {"model_only_images_per_s", "end_to_end_images_per_s", "mask_ms", "flops_per_image", "peak_memory_mib",
         "encoder_parameters", "decoder_parameters"}  # fmt: skip
PHASES = {f"{name}_ms" for name in ("data", "augment", "mask", "teacher", "forward", "backward", "optimizer")}


def learns(name: str) -> bool:
    """Whether the strategy has a network of its own."""
    return type(REGISTRY.create(name)).build is not Strategy.build


def bench(*words: str) -> Done:
    return maskbench("bench", *words, cwd=Path())


def test_a_step_and_its_phases() -> None:
    done = bench("step", *TINY, "--strategy", "gmml:align=pixel", "--batch-size", "32", "--rounds", "2", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found.keys() >= NAMED | PHASES
    assert found["strategy"] == "gmml" and found["batch_size"] == 32
    assert found["end_to_end_images_per_s"] == pytest.approx(32_000 / found["step_ms"])
    assert sum(found[name] for name in PHASES) > 0
    done_per_s = found["flops_per_image"] * found["end_to_end_images_per_s"] / 1e9
    assert found["mfu"] == pytest.approx(done_per_s / found["matmul_peak_gflops"]) and 0 < found["mfu"] < 1
    # Embedding, 2 blocks of 12 * 32^2 weights, norms, positions of 17 tokens: by hand.
    blocks = 2 * (12 * 32**2 + 13 * 32)
    assert found["encoder_parameters"] == 48 * 32 + 32 + 17 * 32 + 32 + blocks + 2 * 32


def test_flops_of_a_step_by_hand() -> None:
    """Every product of activations with weights costs 2 forward and 4 backward for each weight and token."""
    kwargs = "model.kwargs={embed_dim: 64, depth: 3, num_heads: 1}"
    small = (
        "--set",
        "objective.parameters.decoder_depth=1",
        "--device",
        "cpu",
        "--img-size",
        "16",
        "--batch-size",
        "32",
    )
    shown = bench("step", "--set", kwargs, *small, "--rounds", "1", "--json")
    found = json.loads(shown.out)
    kept, tokens, width, decoder = 4 + 1, 16 + 1, 64, 96
    encoder = 3 * (12 * width**2 * kept + 2 * kept**2 * width)
    light = 12 * decoder**2 * tokens + 2 * tokens**2 * decoder
    around = 16 * 48 * width + width * decoder * kept + decoder * 48 * tokens
    # Less the images' own gradient; crops are products as well.
    assert found["flops_per_image"] == pytest.approx(6 * (encoder + light + around), rel=0.1)


def test_phases_are_shown_to_a_reader() -> None:
    done = bench("step", *TINY, "--batch-size", "32", "--rounds", "1")
    assert "| forward" in done.out and "images/s" in done.out and "of the model alone" in done.out


@pytest.mark.parametrize("name", [name for name in REGISTRY.names() if learns(name)])
def test_a_strategy_that_learns_can_be_timed(name: str) -> None:
    """The model alone is stepped on the same views again, whose own graph one backward pass uses up."""
    done = bench("step", *TINY, "--strategy", name, "--batch-size", "32", "--rounds", "1", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["model_only_images_per_s"] > 0


def test_probes_are_timed() -> None:
    done = bench("probes", *TINY, "--images", "100", "--probes", "knn,dense:images=50", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert [row["probe"] for row in found["rows"]] == ["knn", "dense"] and found["images"] == 120
    assert all(row["seconds"] > 0 for row in found["rows"]) and found["features"]["images_per_s"] > 0


def test_mistakes_are_one_line() -> None:
    done = bench("stepp")
    assert done.code == 2 and "strategies" in done.err
    done = bench("step", "--strategy", "randm")
    assert done.code == 2 and "Did you mean random" in done.err
    done = bench("step", "--objective", "random-init", "--strategy", "none")
    assert done.code == 2 and "trains nothing" in done.err
