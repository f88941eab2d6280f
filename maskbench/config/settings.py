"""A run's configuration: every setting with its type, range, default and meaning, written once.

Command-line options, `--set`, presets and the settings reference all follow from it. Nothing here imports torch, so
that a mistake is answered at once.
"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from maskbench.config.data_paths import spell_dataset
from maskbench.config.section import Section, setting
from maskbench.config.specs import OneSpec, Spec, Specs


def _size(value: Any) -> Any:
    """224, "224" or "160x224" (rows x cols) -> [rows, cols]."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", str(value))
    return [int(match[1]), int(match[2] or match[1])] if match else value


EXTERNAL = "external"  # the objective of encoders from elsewhere
Side = Annotated[int, Field(ge=1, le=4096)]
Auto = Literal["auto"]
Primary = Literal["linear/top1/mean", "linear/top1/cls", "knn/top1/mean", "knn/top1/cls"]
Count = Annotated[int, Field(ge=1, le=10**9)]
MAX_SEED = 2**63 - 1


def _smallest_first(scale: tuple[float, float]) -> tuple[float, float]:
    if scale[0] > scale[1]:
        raise ValueError("the smallest area first, then the largest, such as [0.2, 1.0]")
    return scale


def _folder_name(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("the name of a folder, without control characters")
    return text


AreaShare = Annotated[float, Field(gt=0, le=1)]


class Data(Section):
    """Which images, and how they are cropped and normalised."""

    dataset: str = setting(
        "shapes",
        "Data set: shapes (generated), torch/NAME, hfds/NAME, wds/FOLDER, or a path to Parquet files or image folders.",
        flag="--dataset",
    )
    data_dir: str | None = setting(
        None,
        "Folder of torch/ and hfds/ downloads and of wds/ shards. Not part of a run's identity.",
        flag="--data-dir",
    )
    img_size: Annotated[tuple[Side, Side], BeforeValidator(_size)] = setting(
        (32, 32), "Image size in pixels: 224, or rows x columns such as 160x224.", flag="--img-size"
    )
    in_chans: Annotated[int, Field(ge=1, le=64)] = setting(3, "Image channels.", flag="--in-chans")
    limit: Count | None = setting(
        None, "Use only the first N training images of a fixed, stratified order. Test stays whole.", flag="--limit"
    )
    resample: Literal[True] | None = setting(
        None,
        "The seed also chooses which images --limit keeps and which are held out for validation. Test stays the same.",
        flag="--resample",
    )
    crop_scale: Annotated[tuple[AreaShare, AreaShare], AfterValidator(_smallest_first)] = setting(
        (0.2, 1.0), "Smallest and largest area of a random crop, as shares of the image."
    )
    flip: Annotated[float, Field(ge=0, le=1)] = setting(0.5, "Probability of a horizontal flip.")
    mean: list[float] | None = setting(
        None, "Mean of each channel, for pixels in [0, 1]. Default: that of the training images."
    )
    std: list[Annotated[float, Field(gt=0)]] | None = setting(
        None, "Standard deviation of each channel, for pixels in [0, 1]. Default: that of the training images."
    )
    probe_dataset: str | None = setting(
        None,
        "Probe on this data set instead of --dataset, which then needs no labels.",
        flag="--probe-dataset",
    )
    label_column: str | None = setting(
        None,
        "Label column of the Parquet files, hfds/ data or --labels. Default: label, labels or fine_label.",
        flag="--label-column",
    )
    labels: str | None = setting(
        None,
        "CSV file with labels, splits and groups of the image files below --dataset: columns file, label, split and "
        "group, or others by the flags below.",
        flag="--labels",
        metavar="FILE.csv",
    )
    file_column: str | None = setting(
        None, "Column of --labels with file names, relative to --dataset. Default: file.", flag="--file-column"
    )
    split_column: str | None = setting(
        None, "Column of --labels with train, validation or test. Default: split.", flag="--split-column"
    )
    group_column: str | None = setting(
        None,
        "Column of --labels with groups, such as patients, which no two splits share. Default: group, if there is one.",
        flag="--group-column",
    )
    memory_gib: Annotated[float, Field(ge=0)] = setting(
        4.0, "Data sets larger than this many GiB are streamed from disk. Changes no result."
    )

    @model_validator(mode="before")
    @classmethod
    def _spell_paths(cls, values: Any) -> Any:
        """One spelling for each path: run ids and checkpoints know data sets by it."""
        if not isinstance(values, Mapping):
            return values
        names = {name: values[name] for name in ("dataset", "probe_dataset") if isinstance(values.get(name), str)}
        return {**values, **{name: spell_dataset(value, values.get("data_dir")) for name, value in names.items()}}


class Init(Section):
    """Weights that training starts from."""

    source: str = setting(..., "A run's folder, a file of weights or a timm name.")
    digest: str = setting(..., "sha256 of the weights, by which a run is known wherever they are stored.")
    label: str = setting("", "Its name in tables.")
    part: str = setting("", "Which of the state dicts in the file; empty where there is only one.")


class Model(Section):
    """The vision transformer."""

    name: str = setting(
        "vit_tiny_patch16_224", "A timm VisionTransformer with absolute positions, by name.", flag="--model"
    )
    patch_size: Side = setting(16, "Side of a patch in pixels.", flag="--patch-size")
    kwargs: dict[str, Any] = setting(
        {}, "Further arguments of the architecture, such as embed_dim or depth; timm's VisionTransformer has them."
    )
    init: Init | None = setting(None, "Weights to start from, as --init finds them. Default: random ones.")


Beta = Annotated[float, Field(ge=0, lt=1)]
Budget = Annotated[dict[Literal["seconds", "gflops"], Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=1)]


class Train(Section):
    """The optimizer, its schedule, and how long training lasts. Every batch size is global: the sum over processes."""

    optimizer: Literal["adamw", "muon"] = setting(
        "adamw",
        "adamw, or muon: Muon for the matrices of transformer blocks, AdamW for the rest (torch 2.9 or newer).",
    )
    epochs: Count = setting(100, "Passes over the training images.", flag="--epochs")
    batch_size: Annotated[int, Field(ge=2, le=10**9)] = setting(
        256, "Images per step, over all processes.", flag="--batch-size"
    )
    blr: Annotated[float, Field(gt=0)] | None = setting(
        1.5e-4, "Peak learning rate per 256 images: the rate is blr * batch_size / 256.", flag="--blr"
    )
    lr: Annotated[float, Field(gt=0)] | None = setting(
        None, "Peak learning rate, independent of the batch size. Replaces blr.", flag="--lr"
    )
    min_lr: Annotated[float, Field(ge=0)] = setting(0.0, "Learning rate at the last step of the cosine schedule.")
    warmup_epochs: Annotated[float, Field(ge=0)] = setting(
        5, "Epochs of linear warm-up from 0 to the peak learning rate.", flag="--warmup-epochs"
    )
    weight_decay: Annotated[float, Field(ge=0)] = setting(
        0.05, "Weight decay of matrices. Biases, norms, tokens and positions have none.", flag="--weight-decay"
    )
    weight_decay_end: Annotated[float, Field(ge=0)] | None = setting(
        None, "Weight decay at the last step, reached by a half cosine. Default: it stays constant."
    )
    betas: tuple[Beta, Beta] = setting((0.9, 0.95), "AdamW's coefficients of the two running averages.")
    accumulate: Count = setting(
        1, "Micro-batches per step (gradient accumulation), to save memory. Not part of a run's identity."
    )
    clip_grad: Annotated[float, Field(gt=0)] | None = setting(
        None, "Largest norm of the gradient. Default: no clipping."
    )
    teacher_momentum: Annotated[float, Field(ge=0, le=1)] = setting(
        0.996, "Momentum of the EMA teacher that strategies such as attmask-high look through."
    )
    online_every: Count = setting(10, "Epochs between two k-NN readings of the learning curve, on validation images.")
    budget: Budget | None = setting(
        None, "Choose the epochs by {seconds: S} or {gflops: G} of training instead, measured before the run."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_rate(cls, settings: Any) -> Any:
        """Of `lr` and `blr` one is given; the default of blr gives way."""
        if isinstance(settings, Mapping):
            given = [rate for rate in ("lr", "blr") if settings.get(rate) is not None]
            if len(given) == 2:
                raise ValueError("given as lr and as blr (per 256 images); drop one")
            if given == ["lr"]:
                return {**settings, "blr": None}
            if "blr" in settings and not given:
                raise ValueError("without lr or blr (per 256 images); give one")
        return settings


class System(Section):
    """Where and how the run is computed. `auto` is resolved from the hardware, and the record keeps what it became."""

    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ... Not part of a run's identity.", flag="--device")
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "Floating-point format of the forward pass. auto: bf16 where the hardware is fast at it.",
        flag="--precision",
    )
    attention: Literal["auto", "plain", "fused"] = setting(
        "auto", "Attention kernel: torch's fused one or plain matrix products."
    )
    compile: bool | Auto = setting("auto", "Use torch.compile. auto: off.", flag="--compile/--no-compile")
    workers: Annotated[int, Field(ge=0, le=10_000)] | Auto = setting(
        "auto",
        "Processes that decode streamed data. auto: one per core. 0: none. Changes no result.",
        flag="--workers",
        metavar="N|auto",
    )
    deterministic: Literal[True] | None = setting(
        None,
        "Use only algorithms that give the same digits every time. Slower on a GPU.",
        flag="--deterministic",
    )


class Tuning(Section):
    """Where some settings of a run come from: a search with the same number of trials for every strategy."""

    row: str = setting(..., "Row of the table: the strategy, and what else is crossed with it.")
    settings: dict[str, Any] = setting(..., "The settings of this run: dotted path -> value.")
    trials: Count = setting(..., "Number of combinations tried for this row.")
    seeds: list[int] = setting(..., "Seeds of the trials.")
    trial: bool = setting(False, "True for a trial, which is probed on validation and never on test.")


# Settings that came after runs were recorded, with the value that those runs had. With that value a setting is no part
# of a run's identity.
LATER_SETTINGS: dict[str, Any] = {
    "train.optimizer": "adamw",
    "objective.parameters.norm_last_layer": True,
    "strategy.parameters.masked": None,
    "strategy.parameters.scope": None,
}


class RunConfig(Section):
    """One run, completely. `maskbench run --print-config` shows it."""

    strategy: OneSpec = setting(Spec(name="random"), "Masking strategy: NAME[:key=value...].")
    regime: Literal["paper", "matched"] = setting(
        "paper",
        "paper: published defaults of each strategy. matched: one ratio for all, exact counts.",
        flag="--regime",
    )
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = setting(
        None, "Share of every image to hide in the matched regime. --ratio implies --regime matched.", flag="--ratio"
    )
    objective: OneSpec = setting(Spec(name="mae"), "Pre-training objective: NAME[:key=value...].", flag="--objective")
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    probes: Specs = setting(
        [Spec(name="knn"), Spec(name="linear")],
        "Probes of the frozen encoder: NAME[:key=value...],...",
        flag="--probes",
    )
    primary: Primary = setting(
        "linear/top1/mean",
        "The metric that decides: differences, p values and bold refer to it. Not part of a run's identity.",
        flag="--primary",
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = setting(
        0, "Seed of initialisation, data order, augmentation, masks and probes, each with a stream of its own."
    )
    system: System = System()
    tuning: Tuning | None = None
    output: Annotated[str, AfterValidator(_folder_name)] = setting(
        "results/quick", "Results folder. Default: results/<preset or suite>.", flag="--output", metavar="DIR"
    )

    @property
    def lr(self) -> float:
        """The peak learning rate: `lr`, or `blr` * batch / 256."""
        train = self.train
        if train.lr is not None:
            return train.lr
        assert train.blr is not None, "checked by Train"
        return train.blr * train.batch_size / 256

    def identity(self, strategy_version: int, objective_version: int = 1) -> str:
        """hash8: what makes two runs the same but for seed, machine and place. Settings that are None, and an
        objective's first version, stay out, so that what is new leaves the names of finished runs as they are."""
        content = self.model_dump(mode="json", exclude={"seed", "output", "primary"}, exclude_none=True)
        del content["system"]["device"], content["system"]["workers"]
        del content["data"]["memory_gib"], content["train"]["accumulate"]
        for path, usual in LATER_SETTINGS.items():
            *sections, name = path.split(".")
            section = functools.reduce(dict.__getitem__, sections, content)
            if name in section and section[name] == usual:
                del section[name]
        if self.objective.name == EXTERNAL:  # known by its weights
            content["objective"]["parameters"] = {"digest": self.objective.parameters.get("digest")}
        if self.model.init is not None:
            content["model"]["init"] = self.model.init.digest
        content["data"].pop("data_dir", None)
        if self.tuning is not None:  # more combinations or seeds leave the trials that there are as they are
            content["tuning"] = {"row": self.tuning.row, "trial": self.tuning.trial}
        content["strategy_version"] = strategy_version
        if objective_version > 1:
            content["objective_version"] = objective_version
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
