"""Every script in examples/ runs as a user runs it: in a process of its own, in an empty folder.

Those that pre-train several encoders run with the integration tests.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def run_example(folder: Path, name: str, *arguments: str) -> str:
    """What the script prints."""
    return run_python(folder, str(EXAMPLES / name), *arguments)


def run_python(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.integration
def test_own_strategy(tmp_path: Path) -> None:
    printed = run_example(tmp_path, "own_strategy.py")
    accuracies, differences = printed.split("\nseed\n")
    assert {line.split()[0] for line in accuracies.splitlines()} == {
        "label", "random", "random-init", "vertical-bands",
    }  # fmt: skip
    assert [line.split()[0] for line in differences.splitlines()] == ["0", "1", "2"]


@pytest.mark.integration
def test_photographs(tmp_path: Path, clothing: Path) -> None:
    *accuracies, masks = run_example(tmp_path, "photographs.py", str(clothing)).splitlines()
    assert [line.split(":")[0] for line in accuracies] == ["pre-trained", "untrained"]
    assert (tmp_path / masks.split(": ")[1]).stat().st_size > 1000


@pytest.mark.parametrize("strategy", ["random", "gmml"])
def test_plain_loop(tmp_path: Path, strategy: str) -> None:
    losses = [float(line.split()[-1]) for line in run_example(tmp_path, "plain_loop.py", strategy).splitlines()]
    assert len(losses) == 4 and losses[-1] < losses[0]


@pytest.mark.integration
def test_probing_a_checkpoint(tmp_path: Path) -> None:
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
    for seed, name in enumerate(("mine", "theirs")):
        torch.manual_seed(seed)
        torch.save(timm.create_model("vit_tiny_patch16_224", **shape).state_dict(), tmp_path / f"{name}.pt")
    printed = run_example(tmp_path, "probe_timm_checkpoint.py", "shapes", "mine.pt", "theirs.pt")
    assert "mine" in printed and "theirs" in printed and printed.count("%") == 4


def test_custom_plot(tmp_path: Path) -> None:
    printed = run_example(tmp_path, "custom_plot.py", str(ROOT / "results" / "cifar10-small"))
    assert "attmask-high" in printed and (tmp_path / "accuracy.png").stat().st_size > 1000


@pytest.mark.integration
def test_suite(tmp_path: Path) -> None:
    suite = ["--suite", str(EXAMPLES / "suite.yaml"), "--seeds", "0", "--output", "results"]
    printed = run_python(tmp_path, "-m", "maskbench", "run", *suite)
    assert printed.count("ratio=0.5") > 0 and len(list(tmp_path.glob("results/runs/*/record.json"))) == 5


def test_the_readme_lists_every_example() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    missing = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".yaml") and path.name not in listed]
    assert missing == []
