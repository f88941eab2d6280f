"""Training by one process and by several, to compare: `python -m tests.helpers.together FOLDER COUNTS EPOCHS CASE...`.

This process imports everything and computes nothing, so that forking it is safe and costs no time.
"""

import os
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import torch
from torch import Tensor

from maskbench.config.schema import RunConfig
from maskbench.data.augment import Boxes
from maskbench.probe import Subject
from maskbench.runs.plan import build, load_splits, plan
from maskbench.runtime import distributed
from maskbench.runtime.launcher import Launch
from maskbench.runtime.process_group import joined
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training import crops, loop
from maskbench.training.train_state import State
from maskbench.training.views import Shown
from tests.helpers.tiny import tiny

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
    return tiny(Path("results"), strategy, **settings)


def trained(config: RunConfig, dtype: torch.dtype = torch.float64) -> dict[str, Any]:
    """What becomes of a run's training in numbers of `dtype`: all that was drawn, the losses, the weights."""
    planned, splits = load_splits(plan(config))
    state = build(planned, splits)
    for part in (state.head, state.module, state.teacher):
        if part is not None:
            part.to(dtype)
    state.loss_sum = state.loss_sum.to(dtype)
    found: dict[str, Any] = {"hidden": [], "boxes": [], "losses": []}
    kept = (crops.random_boxes, loop.full_crops, loop.local_crops, loop.learn)

    def random_boxes(*given: Any, **options: Any) -> Boxes:
        boxes = kept[0](*given, **options)
        found["boxes"].append(torch.stack([part.long() for part in vars(boxes).values()], 1))
        return boxes

    def full_crops(*given: Any) -> list[crops.Batch]:
        def cast(images: Tensor | None) -> Any:
            return None if images is None else images.to(dtype)

        return [replace(batch, images=cast(batch.images), source=cast(batch.source)) for batch in kept[1](*given)]

    def local_crops(*given: Any) -> tuple[Tensor, ...]:
        return tuple(images.to(dtype) for images in kept[2](*given))

    def learn(config: RunConfig, state: State, learner: Any, shown: list[Shown], watch: Stopwatch) -> Any:
        views = [each.given.views[0] for each in shown]
        masks = [view.images[:, 0, 0] if view.hidden is None else view.hidden for view in views]
        found["hidden"].append(torch.cat(masks))
        return kept[3](config, state, learner, shown, watch)

    crops.random_boxes, loop.full_crops, loop.local_crops = random_boxes, full_crops, local_crops
    loop.learn = learn
    try:
        loop.pretrain(
            config, splits, planned.strategy, state, Stopwatch(torch.device("cpu")),
            online=dict, on_step=lambda _, loss: found["losses"].append(loss), on_epoch=lambda _: None,
        )  # fmt: skip
    finally:
        crops.random_boxes, loop.full_crops, loop.local_crops, loop.learn = kept
    parts = {"head": state.head, "module": state.module, "teacher": state.teacher}
    weights = {name: part.state_dict() for name, part in parts.items() if part is not None}
    return {**found, "weights": weights, "curve": state.curve, "ratios": state.ratio_sums}


def probed(config: RunConfig) -> dict[str, Any]:
    """Features of an untrained encoder, and answers of probes that read them in other ways."""
    planned, splits = load_splits(plan(config))
    state = build(planned, splits)
    subject = Subject(state.head.encoder, splits, planned.config.system)
    features = {pooling: (each.train, each.test) for pooling, each in subject.features().items()}
    return {"features": features, "metrics": [probe(subject).metrics for probe in planned.probes]}


def each_as_told(cases: list[str], epochs: int) -> dict[str, Any]:
    """CASE: in float64. CASE/fp32. CASE/K: in K parts, in one process alone. probes/PROBE."""
    found: dict[str, Any] = {}
    for told in cases:
        case, _, how = told.partition("/")
        if case == "probes":
            found[told] = probed(config_of("random", probes=f"knn,{how}".strip(","), data__limit=5000))
        elif how.isdigit() and distributed.processes() > 1:
            continue
        elif how == "fp32":
            found[told] = trained(config_of(case, train__epochs=epochs), torch.float32)
        else:
            found[told] = trained(config_of(case, train__epochs=epochs, train__accumulate=int(how or 1)))
    return found


def forked(count: int, work: Callable[[], Any], stem: str) -> None:
    """`work` in so many processes that are one run; what it returns in each is left in `stem`-<rank>.pt."""
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
            with joined("cpu", Launch(rank, count, rank, count, port=port)):
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
        forked(count, lambda: each_as_told(cases, epochs), str(folder / str(count)))


if __name__ == "__main__":
    assert distributed.processes() == 1
    main(Path(sys.argv[1]), [int(count) for count in sys.argv[2].split(",")], int(sys.argv[3]), sys.argv[4:])
