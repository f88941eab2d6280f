"""Training by one process and by several, to compare.

    python -m tests.helpers.multi_process_training FOLDER COUNTS EPOCHS CASE...

This process imports everything and computes nothing, so that forking it is safe and costs no time.
"""

import os
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import torch
from torch import Tensor

from maskbench.config.settings import RunConfig
from maskbench.data.augment import Boxes
from maskbench.probe import Subject
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.runtime import collectives
from maskbench.runtime.launcher import Launch
from maskbench.runtime.process_group import join_process_group
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training import crops, loop, step
from tests.helpers.tiny_run import tiny_config

IBOT = "ibot:prototypes=48:hidden=32:bottleneck=16:frozen=0.2"
DINO = "dino:prototypes=48:hidden=32:bottleneck=16:local_crops=1:local_size=0.5"
CASES: dict[str, dict[str, Any]] = {
    "random": {},
    "block": {"strategy": "block"},  # the number hidden varies
    "block-dinov2": {"strategy": "block-dinov2"},  # and depends on an image's place in the batch
    "gmml": {"strategy": "gmml"},  # pixels of other images, weighted
    "mix": {"strategy": "mix"},
    "zoom-in-mask": {"strategy": "zoom-in-mask"},  # terms that warp
    "attmask-high": {"strategy": "attmask-high"},  # a teacher, one draw for the batch
    "hard-patches": {"strategy": "hard-patches"},  # a teacher's losses
    "hard-patches-predicted": {"strategy": "hard-patches-predicted"},
    "adios": {"strategy": "adios"},  # an adversary whose gradients pass through the weights
    "curriculum": {"strategy": "curriculum"},  # one whose loss compares images
    "clipped": {"train__clip_grad": 0.05},
    "local-crops": {"strategy": "attmask-high", "objective": IBOT + ":local_crops=1"},
    "simmim": {"strategy": "block", "objective": "simmim"},
    "gmml-gmml": {"strategy": "gmml", "objective": "gmml:crops=2"},
    "ibot": {"strategy": "block-ibot", "objective": IBOT},
    "dino": {"strategy": "attmask-hint", "objective": DINO},
    "barlow": {"strategy": "none", "objective": "barlow:width=48:scale=0.1"},
    "supervised": {"strategy": "none", "objective": "supervised"},
}


def config_of(case: str, **changes: Any) -> RunConfig:
    """Two steps an epoch of 128 images."""
    settings = {"train__batch_size": 128, "train__lr": 1e-3, "train__warmup_epochs": 1.0}
    settings |= {"train__online_every": 100, **CASES[case], **changes}
    strategy = settings.pop("strategy", "random")
    return tiny_config(Path("results"), strategy, **settings)


def train_case(config: RunConfig, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """Trains a run in `dtype`; returns everything that was drawn, the losses and the weights."""
    planned, splits = load_data(make_plan(config))
    state = build_state(planned, splits)
    for part in (state.head, state.module, state.teacher):
        if part is not None:
            part.to(dtype)
    state.loss_sum = state.loss_sum.to(dtype)
    found: dict[str, Any] = {"hidden": [], "boxes": [], "losses": []}
    make_random_boxes, make_full_crops, make_local_crops = (
        crops.random_boxes, step.make_full_crops, step.make_local_crops,
    )  # fmt: skip

    def random_boxes(*arguments: Any, **options: Any) -> Boxes:
        boxes = make_random_boxes(*arguments, **options)
        found["boxes"].append(torch.stack([part.long() for part in vars(boxes).values()], 1))
        return boxes

    def full_crops(*arguments: Any) -> list[crops.Crops]:
        def cast(images: Tensor | None) -> Any:
            return None if images is None else images.to(dtype)

        made = make_full_crops(*arguments)
        return [replace(each, images=cast(each.images), source=cast(each.source)) for each in made]

    def local_crops(*arguments: Any) -> tuple[Tensor, ...]:
        return tuple(images.to(dtype) for images in make_local_crops(*arguments))

    class Recorded(step.Trainer):
        """Keeps the masks of every step."""

        def backpropagate(self, inputs: Sequence[step.StepInput]) -> Any:
            views = [each.examples.views[0] for each in inputs]
            masks = [view.images[:, 0, 0] if view.hidden is None else view.hidden for view in views]
            found["hidden"].append(torch.cat(masks))
            return super().backpropagate(inputs)

    crops.random_boxes, step.make_full_crops, step.make_local_crops = random_boxes, full_crops, local_crops
    try:
        loop.pretrain(
            Recorded(config, splits, planned.strategy, state, Stopwatch(torch.device("cpu"))),
            online=dict, on_step=lambda _, loss: found["losses"].append(loss), on_epoch=lambda _: None,
        )  # fmt: skip
    finally:
        crops.random_boxes = make_random_boxes
        step.make_full_crops, step.make_local_crops = make_full_crops, make_local_crops
    parts = {"head": state.head, "module": state.module, "teacher": state.teacher}
    weights = {name: part.state_dict() for name, part in parts.items() if part is not None}
    return {**found, "weights": weights, "curve": state.curve, "ratios": state.ratio_sums}


def run_probes(config: RunConfig) -> dict[str, Any]:
    """Features of an untrained encoder, and the metrics of probes."""
    planned, splits = load_data(make_plan(config))
    state = build_state(planned, splits)
    subject = Subject(state.head.encoder, splits, planned.config.system)
    features = {pooling: (each.train, each.test) for pooling, each in subject.features().items()}
    return {"features": features, "metrics": [probe(subject).metrics for probe in planned.probes]}


def train_cases(cases: list[str], epochs: int) -> dict[str, Any]:
    """CASE trains in float64, CASE/fp32 in float32, CASE/K with K micro-batches in one process; probes/PROBE probes."""
    found: dict[str, Any] = {}
    for named in cases:
        case, _, how = named.partition("/")
        if case == "probes":
            found[named] = run_probes(config_of("random", probes=f"knn,{how}".strip(","), data__limit=5000))
        elif how.isdigit() and collectives.process_count() > 1:
            continue
        elif how == "fp32":
            found[named] = train_case(config_of(case, train__epochs=epochs), torch.float32)
        else:
            found[named] = train_case(config_of(case, train__epochs=epochs, train__accumulate=int(how or 1)))
    return found


def run_forked(count: int, work: Callable[[], Any], stem: str) -> None:
    """Does `work` in `count` processes of one run; what rank R returns is written to `stem`-R.pt."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        code = 1
        try:
            with join_process_group("cpu", Launch(rank, count, rank, count, port=port)):
                found = work()
            torch.save(found, f"{stem}-{rank}.pt")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        sys.exit(f"{count} processes left with {codes}")


def main(folder: Path, counts: list[int], epochs: int, cases: list[str]) -> None:
    for count in counts:
        run_forked(count, lambda: train_cases(cases, epochs), str(folder / str(count)))


if __name__ == "__main__":
    assert collectives.process_count() == 1
    main(Path(sys.argv[1]), [int(count) for count in sys.argv[2].split(",")], int(sys.argv[3]), sys.argv[4:])
