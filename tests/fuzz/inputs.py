"""What an input is, the sound folder that it spoils, and what several doors share."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from maskbench.runs.checkpoint import Checkpoints
from tests.helpers.command_line import SMALL
from tests.helpers.image_files import write_folders

Command = tuple[str, ...]
QUICK = (*SMALL, "--probes", "knn")


@dataclass(frozen=True)
class Input:
    """One hostile or unlucky input.

    Attributes:
        name: What is wrong with it.
        place: Puts it into a folder of its own, which holds a copy of the sound folder.
        command: What then meets it, run in that folder.
        codes: Exit codes that are right.
    """

    name: str
    place: Callable[[Path], None]
    command: Command
    codes: tuple[int, ...] = (0, 1, 2)


def write(name: str, content: bytes, folder: Path) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def sound_folder(folder: Path, run: Callable[..., Any]) -> None:
    """What the inputs spoil: images, two runs of two seeds, an interrupted run, an exported encoder, their files."""
    write_folders(folder / "photos", "train", 0, 60)
    write_folders(folder / "photos", "test", 60, 30)
    run("run", "--dataset", "./photos", "--strategy", "random,block", "--seeds", "0-1", "--output", "out", *QUICK,
        cwd=folder)  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:  # a checkpoint stays, as if the run had been killed
        patch.setattr(Checkpoints, "remove", lambda self: None)
        run("run", "--dataset", "./photos", "--strategy", "random", "--output", "again", "--checkpoint-every", "0",
            *QUICK, cwd=folder)  # fmt: skip
    (checkpoint,) = folder.glob("again/runs/random-*/checkpoint.pt")
    (folder / "run_id").write_text(checkpoint.parent.name)
    checkpoint.rename(folder / "checkpoint.pt")
    shutil.rmtree(folder / "again")
    for path in folder.glob("out/runs/*/*"):
        if path.suffix in (".png", ".csv"):
            path.unlink()


def a_run(folder: Path) -> Path:
    return sorted(folder.glob("out/runs/block-*"))[0]


HOSTILE_MODEL: dict[str, Any] = {
    "checkpoint_path": "stolen.pt",
    "pretrained": True,
    "pretrained_cfg": {"url": "http://127.0.0.1:9/x.pt"},
    "pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x.pt"},
    "cache_dir": "elsewhere",
    "depth": 10_000_000,
    "embed_dim": 2**40,
    "num_heads": 0,
    "img_size": 10**6,
    "norm_layer": "os.system",
    "scriptable": True,
    "features_only": True,
    "mlp_ratio": float(10**9),
}


def _fifo(place: str, folder: Path) -> None:
    (folder / place).unlink(missing_ok=True)
    os.mkfifo(folder / place)


def _to(target: str, place: str, folder: Path) -> None:
    (folder / place).unlink(missing_ok=True)
    (folder / place).symlink_to(target)


def _folder(place: str, folder: Path) -> None:
    (folder / place).unlink(missing_ok=True)
    (folder / place).mkdir()


SPECIAL_FILES: dict[str, Callable[[str, Path], None]] = {
    "FIFO": _fifo,
    "endless device": partial(_to, "/dev/zero"),
    "link to itself": lambda place, folder: _to(Path(place).name, place, folder),
    "link to nothing": partial(_to, "nowhere"),
    "folder": _folder,
}
