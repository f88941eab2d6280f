"""Where a training step's time goes, and how far it is from what the machine can do."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from tabulate import tabulate

from maskbench.bench.machine import describe_machine, measure_matmul_peak, seconds_per_call
from maskbench.config.settings import RunConfig
from maskbench.data.splits import Images, Splits, build_splits
from maskbench.errors import UsageError
from maskbench.objective import Examples
from maskbench.runs.plan import Plan, build_state, check_before_start, load_data, make_plan
from maskbench.runtime.hardware import autocast, configure_torch, peak_memory_mib, reset_peak_memory
from maskbench.runtime.standard_streams import print_data
from maskbench.runtime.stopwatch import Stopwatch
from maskbench.training.flops import training_gflops_per_image
from maskbench.training.microbatches import MicroBatch
from maskbench.training.step import Trainer
from maskbench.training.train_state import TrainState

CLASSES = 10
PROGRESS = 0.5
BATCHES = 2  # of generated images
ROUND_S = 0.5  # a round lasts about this long, or one step
PHASES = ("data", "augment", "mask", "teacher", "forward", "backward", "optimizer")


@dataclass(frozen=True)
class StepBenchmark:
    """What a training step costs; `maskbench bench step --json` prints the fields.

    Rates and times are medians over rounds.

    Attributes:
        strategy: Name.
        objective: Name.
        model: timm's name.
        img_size: Rows x columns in pixels.
        patch_size: Side of a patch in pixels.
        batch_size: Images a step.
        device: "cpu" or "cuda".
        precision: "bf16" or "fp32".
        attention: "fused" or "plain".
        compile: Whether the model is compiled.
        model_only_images_per_s: Forward, backward and update on the same views again and again, without data, crops
            and masks.
        end_to_end_images_per_s: Of whole steps.
        end_to_end_lowest: Of the rounds, images a second.
        end_to_end_highest: Of the rounds, images a second.
        end_to_end_share: Whole steps against the model alone, each round's ratio.
        step_ms: Of a whole step.
        data_ms: Of the phase, as all that follow.
        augment_ms: Crops, flips and colours.
        mask_ms: The strategy.
        teacher_ms: Forward pass of the EMA teacher.
        forward_ms: Of the model, with the loss.
        backward_ms: Of the model.
        optimizer_ms: Update of the weights.
        first_step_s: Of the very first step, compilation included.
        flops_per_image: Of training.
        matmul_peak_gflops: GFLOP/s of the machine's matrix products in this precision.
        mfu: FLOPs done a second end to end, as a share of `matmul_peak_gflops`.
        peak_memory_mib: Most memory.
        encoder_parameters: Number.
        decoder_parameters: Number of trained parameters outside the encoder.
        cpu: Name of the processor.
        gpu: Name of the GPU; None on the CPU.
        threads: Of torch.
        torch: Its version.
    """

    strategy: str
    objective: str
    model: str
    img_size: str
    patch_size: int
    batch_size: int
    device: str
    precision: str
    attention: str
    compile: bool
    model_only_images_per_s: float
    end_to_end_images_per_s: float
    end_to_end_lowest: float
    end_to_end_highest: float
    end_to_end_share: float
    step_ms: float
    data_ms: float
    augment_ms: float
    mask_ms: float
    teacher_ms: float
    forward_ms: float
    backward_ms: float
    optimizer_ms: float
    first_step_s: float
    flops_per_image: float
    matmul_peak_gflops: float
    mfu: float
    peak_memory_mib: float
    encoder_parameters: int
    decoder_parameters: int
    cpu: str
    gpu: str | None
    threads: int
    torch: str

    def phase_ms(self, phase: str) -> float:
        """Milliseconds of one of PHASES."""
        milliseconds: float = getattr(self, f"{phase}_ms")
        return milliseconds


@dataclass(frozen=True)
class _Timings:
    """Seconds of a step in each round, and milliseconds of each phase."""

    first_s: float
    whole_s: list[float]
    model_s: list[float]
    phases_ms: dict[str, float]


def time_step(config: RunConfig, rounds: int, generated: bool) -> StepBenchmark:
    """Time training steps, whole and of the model alone.

    Args:
        config: The run.
        rounds: In each, both are timed one after the other.
        generated: Use noise in the shape of the configuration's data.

    Raises:
        UsageError: The objective trains nothing.
    """
    plan, splits = _load(make_plan(config), generated)
    device = splits.train.labels.device
    reset_peak_memory(device)
    state = build_state(plan, splits)
    check_before_start(plan, splits, state)
    timings = _time_rounds(StepBench(plan, splits, state), rounds)
    return _summarise(plan, splits, state, timings)


def _load(plan: Plan, generated: bool) -> tuple[Plan, Splits]:
    if not plan.objective.trains:
        raise UsageError(f"objective {plan.objective.name} trains nothing; there is no step to time")
    configure_torch(plan.config.system)
    if generated:
        return plan, noise_splits(plan, BATCHES * plan.config.train.batch_size)
    return load_data(plan)


def _time_rounds(bench: "StepBench", rounds: int) -> _Timings:
    device = bench.index.device
    first_s = seconds_per_call(bench.run_step, 1, device)
    bench.keep_examples()
    whole = _timer(bench.run_step, device)
    model = _timer(bench.run_model, device)
    whole_s, model_s = [], []
    watch = bench.trainer.watch = Stopwatch(device)
    for _ in range(rounds):
        watch.resume()
        whole_s.append(whole())
        watch.pause()
        model_s.append(model())
    phases_ms = {name: 1000 * seconds / watch.steps for name, seconds in watch.phases_s.items()}
    return _Timings(first_s, whole_s, model_s, phases_ms)


def _timer(function: Callable[[], None], device: torch.device) -> Callable[[], float]:
    """A function that returns the seconds of a call, from as many in a row as take ROUND_S; after a warm-up."""
    seconds_per_call(function, 2, device)
    count = max(1, round(ROUND_S / seconds_per_call(function, 2, device)))
    return partial(seconds_per_call, function, count, device)


def _summarise(plan: Plan, splits: Splits, state: TrainState, timings: _Timings) -> StepBenchmark:
    config, batch = plan.config, plan.config.train.batch_size
    device = splits.train.labels.device
    flops = 1e9 * training_gflops_per_image(config, splits, plan.strategy, state)
    peak = measure_matmul_peak(device, torch.bfloat16 if config.system.precision == "bf16" else torch.float32)
    step_s = statistics.median(timings.whole_s)
    shares = [model / whole for model, whole in zip(timings.model_s, timings.whole_s, strict=True)]
    encoder = sum(parameter.numel() for parameter in state.head.encoder.vit.parameters())
    trained = sum(parameter.numel() for parameter in state.head.parameters() if parameter.requires_grad)
    phases_ms: dict[str, Any] = {f"{name}_ms": timings.phases_ms.get(name, 0.0) for name in PHASES}
    return StepBenchmark(
        strategy=plan.strategy.name,
        objective=plan.objective.name,
        model=config.model.name,
        img_size="x".join(map(str, config.data.img_size)),
        patch_size=config.model.patch_size,
        batch_size=batch,
        **{name: getattr(config.system, name) for name in ("device", "precision", "attention", "compile")},
        model_only_images_per_s=batch / statistics.median(timings.model_s),
        end_to_end_images_per_s=batch / step_s,
        end_to_end_lowest=batch / max(timings.whole_s),
        end_to_end_highest=batch / min(timings.whole_s),
        end_to_end_share=statistics.median(shares),
        step_ms=1000 * step_s,
        **phases_ms,
        first_step_s=timings.first_s,
        flops_per_image=flops,
        matmul_peak_gflops=peak / 1e9,
        mfu=flops * batch / step_s / peak,
        peak_memory_mib=peak_memory_mib(device),
        encoder_parameters=encoder,
        decoder_parameters=trained - encoder,
        **vars(describe_machine(device)),
    )


class StepBench:
    """A training step, whole or of the model alone, that can be repeated."""

    def __init__(self, plan: Plan, splits: Splits, state: TrainState) -> None:
        device = splits.train.labels.device
        self.trainer = Trainer(plan.config, splits, plan.strategy, state, Stopwatch(device))
        self.index = torch.arange(plan.config.train.batch_size, device=device)
        self.examples: Examples | None = None
        state.head.train()

    def keep_examples(self) -> None:
        """Keep what a step gives the model, without the graph of a strategy that learns, which backward uses up."""
        micro_batch = MicroBatch(self.index, 0, len(self.index))
        with torch.no_grad():
            self.examples = self.trainer.prepare_input(micro_batch, 0, PROGRESS).examples

    def run_step(self) -> None:
        """Do everything that a step of a run does."""
        self.trainer.step(self.index, 0, PROGRESS, PROGRESS)
        self.trainer.watch.steps += 1

    def run_model(self) -> None:
        """Forward, backward and update on what `keep_examples` kept."""
        assert self.examples is not None, "kept"
        state, watch = self.trainer.state, self.trainer.watch
        self.trainer.watch = Stopwatch(watch.device)  # these phases do not count
        with autocast(self.trainer.config.system):
            state.head.prepare(self.examples.clean, PROGRESS)
            loss = state.head(self.examples).loss
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.trainer.update(PROGRESS)
        self.trainer.watch = watch


def noise_splits(plan: Plan, count: int) -> Splits:
    """`count` images of noise, of the configuration's size and on its device."""
    config = plan.config
    shape = (count, config.data.in_chans, *config.data.img_size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.arange(count) % CLASSES, torch.ones(count))
    names = tuple(map(str, range(CLASSES)))
    splits = build_splits(
        "noise", images, images.take(torch.arange(min(count, CLASSES))), classes=names, fingerprint="noise"
    )
    return splits.to(torch.device(config.system.device))


def print_step(found: StepBenchmark) -> None:
    """On stdout: the phases, then the sums."""
    phases = {name: found.phase_ms(name) for name in PHASES if found.phase_ms(name)}
    rows = [[name, f"{value:.2f}", f"{100 * value / found.step_ms:.1f} %"] for name, value in phases.items()]
    print_data(tabulate(rows, headers=["phase", "ms", "share"], tablefmt="github", disable_numparse=True))
    where = found.gpu or f"{found.cpu}, {found.threads} threads"
    print_data(
        f"\n{found.strategy} + {found.objective}, {found.model}, {found.img_size} px in patches of "
        f"{found.patch_size}, batch {found.batch_size}, {found.precision}, {found.attention} attention"
        f"{', compiled' if found.compile else ''}; {where}; torch {found.torch}\n"
        f"end to end {found.end_to_end_images_per_s:,.0f} images/s ({found.end_to_end_lowest:,.0f} to "
        f"{found.end_to_end_highest:,.0f}), {100 * found.end_to_end_share:.1f} % of the model alone "
        f"({found.model_only_images_per_s:,.0f})\n"
        f"{found.flops_per_image / 1e9:.3f} GFLOPs an image; {100 * found.mfu:.1f} % of the "
        f"{found.matmul_peak_gflops:,.0f} GFLOP/s that this machine's matrix products reach\n"
        f"{found.peak_memory_mib:,.0f} MiB at most; first step {found.first_step_s:.1f} s"
    )
