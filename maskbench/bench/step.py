"""Where a training step's time goes, and how far it is from what the machine could do."""

import statistics
import time
from typing import Any

import torch
from tabulate import tabulate

from maskbench.bench.machine import described, matmul_peak, wait
from maskbench.config.schema import RunConfig
from maskbench.data.splits import Images, Splits, assemble
from maskbench.errors import UsageError
from maskbench.objective import Examples
from maskbench.runs.plan import Plan, build, load_splits, plan, preflight
from maskbench.runtime.hardware import autocast, peak_memory_mib, reset_peak_memory, settle
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.strategy import Strategy
from maskbench.training.flops import training_gflops_per_image
from maskbench.training.loop import outcome_of, update
from maskbench.training.microbatches import Part
from maskbench.training.schedules import steps_per_epoch
from maskbench.training.train_state import State, followed
from maskbench.training.views import shown_of

CLASSES = 10
PROGRESS = 0.5
BATCHES = 2  # of generated images
LONGEST_S = 0.5  # a round lasts about this long, or one step


def time_step(config: RunConfig, rounds: int, generated: bool) -> dict[str, Any]:
    """One flat object: images a second end to end and of the model alone, milliseconds of every phase, FLOPs, memory.

    Model alone: the same views again and again, so no data, crops or masks. Medians of `rounds`, in which both are
    timed one after the other. generated: noise instead of the configuration's data, in its shape. first_step_s: of the
    very first step, compilation included. mfu: FLOPs done a second end to end, as a share of `matmul_peak_gflops`.
    """
    planned = plan(config)
    if not planned.objective.trains:
        raise UsageError(f"objective {planned.objective.name} trains nothing; there is no step to time")
    settle(planned.config.system)
    if generated:
        splits = noisy(planned, BATCHES * planned.config.train.batch_size)
    else:
        planned, splits = load_splits(planned)
    device = splits.train.labels.device
    reset_peak_memory(device)
    state = build(planned, splits)
    preflight(planned, splits, state)
    config, batch = planned.config, planned.config.train.batch_size
    bench = StepBench(planned, splits, state)
    first = _timed(bench.whole, 1, device)
    bench.prepare()
    steps = {"whole": 1, "model": 1}
    for name in steps:
        _timed(getattr(bench, name), 2, device)
        steps[name] = max(1, round(LONGEST_S / _timed(getattr(bench, name), 2, device)))
    times: dict[str, list[float]] = {name: [] for name in steps}
    bench.watch = Stopwatch(device)
    for _ in range(rounds):
        bench.watch.resume()
        times["whole"].append(_timed(bench.whole, steps["whole"], device))
        bench.watch.pause()
        times["model"].append(_timed(bench.model, steps["model"], device))
    phases = {f"{name}_ms": 1000 * seconds / bench.watch.steps for name, seconds in bench.watch.phases_s.items()}
    flops = 1e9 * training_gflops_per_image(config, splits, planned.strategy, state)
    dtype = torch.bfloat16 if config.system.precision == "bf16" else torch.float32
    peak, whole = matmul_peak(device, dtype), statistics.median(times["whole"])
    encoder = sum(parameter.numel() for parameter in state.head.encoder.vit.parameters())
    trained = sum(parameter.numel() for parameter in state.head.parameters() if parameter.requires_grad)
    return {
        "strategy": planned.strategy.name,
        "objective": planned.objective.name,
        "model": config.model.name,
        "img_size": "x".join(map(str, config.data.img_size)),
        "patch_size": config.model.patch_size,
        "batch_size": batch,
        **{name: getattr(config.system, name) for name in ("device", "precision", "attention", "compile")},
        "model_only_images_per_s": batch / statistics.median(times["model"]),
        "end_to_end_images_per_s": batch / whole,
        "end_to_end_lowest": batch / max(times["whole"]),
        "end_to_end_highest": batch / min(times["whole"]),
        "end_to_end_share": statistics.median(
            model / both for model, both in zip(times["model"], times["whole"], strict=True)
        ),
        "step_ms": 1000 * whole,
        **{name: phases.get(name, 0.0) for name in ("data_ms", "augment_ms", "mask_ms", "teacher_ms")},
        **{name: phases.get(name, 0.0) for name in ("forward_ms", "backward_ms", "optimizer_ms")},
        "first_step_s": first,
        "flops_per_image": flops,
        "matmul_peak_gflops": peak / 1e9,
        "mfu": flops * batch / whole / peak,
        "peak_memory_mib": peak_memory_mib(device),
        "encoder_parameters": encoder,
        "decoder_parameters": trained - encoder,
        **described(device),
    }


class StepBench:
    """A training step, whole or of the model alone, to be done again and again."""

    def __init__(self, planned: Plan, splits: Splits, state: State) -> None:
        self.planned, self.splits, self.state = planned, splits, state
        self.watch = Stopwatch(splits.train.labels.device)
        self.index = torch.arange(planned.config.train.batch_size, device=splits.train.labels.device)
        self.given: Examples | None = None
        state.head.train()

    def prepare(self) -> None:
        """Keep what a step gives the model: without the graph of a strategy that learns, which backward uses up."""
        part = Part(self.index, 0, len(self.index))
        with torch.no_grad():
            self.given = shown_of(*self._what(), part, 0, PROGRESS, self.watch).given

    def whole(self) -> None:
        """Everything that a step of a run does."""
        self._finish(self._loss())
        self.watch.steps += 1

    def model(self) -> None:
        """Forward, backward and update on what `prepare` kept."""
        assert self.given is not None, "prepared"
        head, watch = self.state.head, self.watch
        self.watch = Stopwatch(watch.device)  # these phases do not count
        with autocast(self.planned.config.system):
            head.prepare(self.given.clean, PROGRESS)
            loss = head(self.given).loss
        self._finish(loss)
        self.watch = watch

    def _loss(self) -> torch.Tensor:
        _, outcome = outcome_of(*self._what(), self.index, 0, PROGRESS, self.watch)
        return outcome.loss

    def _what(self) -> tuple[RunConfig, Splits, Strategy, State]:
        return self.planned.config, self.splits, self.planned.strategy, self.state

    def _finish(self, loss: torch.Tensor) -> None:
        state, config = self.state, self.planned.config
        with self.watch.phase("backward"):
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        with self.watch.phase("optimizer"):
            update(config, state, steps_per_epoch(config, len(self.splits.train)))
            state.head.after_step(PROGRESS)
        if state.teacher is not None:
            with self.watch.phase("mask"):
                state.teacher.update(followed(state.head, self.planned.strategy))


def _timed(step: Any, count: int, device: torch.device) -> float:
    """Seconds a step, of `count` in a row."""
    wait(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    wait(device)
    return (time.perf_counter() - start) / count


def noisy(planned: Plan, count: int) -> Splits:
    """`count` images of noise, of the configuration's size and on its device."""
    config = planned.config
    shape = (count, config.data.in_chans, *config.data.img_size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.arange(count) % CLASSES, torch.ones(count))
    names = tuple(map(str, range(CLASSES)))
    splits = assemble(
        "noise", images, images.take(torch.arange(min(count, CLASSES))), classes=names, fingerprint="noise"
    )
    return splits.to(torch.device(config.system.device))


def print_step(found: dict[str, Any]) -> None:
    """On stdout: phases, then what they make together."""
    names = ("data", "augment", "mask", "teacher", "forward", "backward", "optimizer")
    known = {name: found[f"{name}_ms"] for name in names if found[f"{name}_ms"]}
    rows = [[name, f"{value:.2f}", f"{100 * value / found['step_ms']:.1f} %"] for name, value in known.items()]
    print(tabulate(rows, headers=["phase", "ms", "share"], tablefmt="github", disable_numparse=True))
    where = found["gpu"] or f"{found['cpu']}, {found['threads']} threads"
    print(
        f"\n{found['strategy']} + {found['objective']}, {found['model']}, {found['img_size']} px in patches of "
        f"{found['patch_size']}, batch {found['batch_size']}, {found['precision']}, {found['attention']} attention"
        f"{', compiled' if found['compile'] else ''}; {where}; torch {found['torch']}\n"
        f"end to end {found['end_to_end_images_per_s']:,.0f} images/s ({found['end_to_end_lowest']:,.0f} to "
        f"{found['end_to_end_highest']:,.0f}), {100 * found['end_to_end_share']:.1f} % of the model alone "
        f"({found['model_only_images_per_s']:,.0f})\n"
        f"{found['flops_per_image'] / 1e9:.3f} GFLOPs an image; {100 * found['mfu']:.1f} % of the "
        f"{found['matmul_peak_gflops']:,.0f} GFLOP/s that this machine's matrix products reach\n"
        f"{found['peak_memory_mib']:,.0f} MiB at most; first step {found['first_step_s']:.1f} s"
    )
