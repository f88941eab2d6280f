"""Plugins with one mistake each, which `maskbench check` must find."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """A plugin with one mistake. at: what the line of the mistake contains. remedy: what the message contains."""

    name: str
    check: str
    at: str
    remedy: str
    text: str


STRATEGY = '''
import random
import numpy as np
import torch
from torch import nn
from typing import ClassVar
from maskbench.strategy import *

MEMORY = []

@register("planted")
@dataclass(frozen=True, kw_only=True)
class Planted(Strategy):
    """Hides random patches."""

    ratio: Ratio = 0.75
{members}
    def __call__(self, images: Tensor, context: Context) -> View:
        grid, count = context.grid, context.grid.count(self.ratio)
        hidden = hide(context.uniform(grid.size), count)
{lines}
        return View(images, hidden, length=grid.size - count)
'''


def a_strategy(name: str, check: str, at: str, remedy: str, lines: str = "", members: str = "") -> Planted:
    def indent(text: str, spaces: int) -> str:
        return "\n".join(" " * spaces + line for line in text.strip("\n").splitlines())

    text = STRATEGY.format(lines=indent(lines, 8), members=indent(members, 4))
    return Planted(f"strategy {name}", check, at, remedy, text)


def edited(planted: Planted, old: str, new: str) -> Planted:
    assert old in planted.text
    return Planted(planted.name, planted.check, planted.at, planted.remedy, planted.text.replace(old, new, 1))


NETWORK = "def build(self, sample, grid, dim):\n    return nn.Linear(1, 1)"
FOG = """
weight = context.module(torch.ones(1, 1, device=images.device)).sigmoid().to(images.dtype)
images = images * weight
context.kept["weight"] = weight
"""

STRATEGIES = [
    edited(
        a_strategy("without a docstring", "documentation", "@register", "say what is hidden"),
        '    """Hides random patches."""\n',
        "",
    ),
    a_strategy(
        "an unknown signal", "documentation", "needs:", "there are ['attention'",
        members="needs: ClassVar[frozenset[str]] = frozenset({'depth'})",
    ),
    a_strategy("needs as text", "documentation", "needs =", "write needs = frozenset", members="needs = 'attention'"),
    a_strategy("an unbounded parameter", "parameters", "strength:", "bound it", members="strength: float = 1.0"),
    a_strategy(
        "matched without return", "matched", "def matched", "return self.replace(...)",
        members="def matched(self, ratio):\n    self.replace(ratio=ratio)",
    ),
    a_strategy(
        "matched with a misspelt parameter", "matched", "rato=", "Did you mean ratio",
        members="def matched(self, ratio):\n    return self.replace(rato=ratio)",
    ),
    a_strategy("a forgotten signal", "shapes", "context.attention", "add it to `needs`",
        "hidden &= context.attention > 0"),
    a_strategy("a forgotten source", "shapes", "context.source", "set `source_scale`",
        "images = context.source[:, :, :8]"),
    a_strategy("a float mask", "shapes", "return View", "hide(scores, count)", "hidden = hidden.float()"),
    a_strategy("a mask of pixels", "shapes", "return View", "must be (8, 64) bool", "hidden = grid.pixels(hidden)"),
    a_strategy("a numpy mask", "shapes", "return View", "return a (8, 64) bool tensor", "hidden = hidden.numpy()"),
    edited(a_strategy("no return", "shapes", "def __call__", "return a View"), "        return View", "        View"),
    edited(a_strategy("a bare tensor", "shapes", "return hidden", "return a View"),
        "return View(images, hidden, length=grid.size - count)", "return hidden"),
    a_strategy("images in double precision", "shapes", "return View", ".to(images.dtype)", "images = images.double()"),
    a_strategy("images of another size", "shapes", "return View", "must be (8, 1, 32, 32)",
        "images = images[:, :, 1:]"),
    edited(
        a_strategy("one term, no tuple", "shapes", "return View", "with the comma"),
        "length=grid.size - count", "terms=Term()",
    ),
    a_strategy("a wrong length", "shapes", "def __call__", "leave it out or count", "count += 1"),
    a_strategy("square grids only", "shapes", "def __call__", "rows and columns may differ",
               "if grid.rows != grid.cols:\n    raise ValueError('square grids only')"),
    a_strategy("a crash on small grids", "shapes", "[3]", "IndexError", "torch.zeros(grid.size)[3]"),
    a_strategy("a typo", "shapes", "grid.cells", "AttributeError", "grid.cells"),
    a_strategy("nan", "shapes", "def __call__", "avoid divisions by 0", "images = images / 0 * 0"),
    edited(
        a_strategy("thrown tokens that are seen", "shapes", "def __call__", "add them to hidden"),
        "length=grid.size - count", "thrown=~hidden",
    ),
    a_strategy("images clamped in place", "inputs unchanged", "clamp_", "images.clone()", "images.clamp_(-1, 1)"),
    a_strategy("a part of the images blanked", "inputs unchanged", ":8] = 0", "images.clone()", "images[:, :, :8] = 0"),
    a_strategy(
        "a signal sorted in place", "inputs unchanged", "copy_", "features.clone()",
        "context.features.copy_(context.features.sort(1).values)", "needs = frozenset({'features'})",
    ),
    a_strategy("torch's generator", "global generators", "torch.rand", "context.uniform", "torch.rand(1)"),
    a_strategy(
        "numpy's generator", "global generators", "np.random", "context.uniform",
            "images = images + 0 * np.random.rand()"
    ),
    a_strategy("Python's generator", "global generators", "random.random()", "context.uniform", "random.random()"),
    a_strategy(
        "nan at the start of training", "schedule", "def __call__", "progress 0.0",
        "images = images / (1 if context.progress else torch.zeros(()))",
    ),
    a_strategy(
        "a kernel in float32 only", "precision", "@ torch.eye", ".to(images.dtype)",
        "images = images @ torch.eye(images.shape[3], device=images.device)",
    ),
    a_strategy("a flipped mask", "ratio", "def __call__", "grid.count(ratio)",
        "hidden, count = ~hidden, grid.size - count"),
    a_strategy(
        "a schedule of the ratio", "ratio", "def __call__", "override `matched`",
        "count = max(1, int(count * context.progress))\nhidden = hide(context.uniform(grid.size), count)",
    ),
    edited(
        edited(
            a_strategy("a ratio of another name", "ratio", "def __call__", "override `matched`"),
            "    ratio: Ratio = 0.75", "    share: Ratio = 0.5",
        ),
        "self.ratio", "self.share",
    ),
    edited(
        a_strategy("weight on what is seen", "loss weights", "def __call__", "give it weight 0"),
        "length=grid.size - count", "terms=(Term(weight=images.new_ones(hidden.shape)),)",
    ),
    a_strategy(
        "state from call to call", "repeatability", "def __call__", "keep no state",
        "MEMORY.append(1)\nimages = images + len(MEMORY)",
    ),
    a_strategy(
        "statistics of the batch", "row independence", "def __call__", "own image",
        "hidden = hide(context.uniform(grid.size) + grid.patchify(images - images.mean(0)).mean(-1), count)",
    ),
    a_strategy(
        "one draw for all images", "distinct draws", "def __call__", "scope='batch'",
        "hidden = hide(context.uniform(grid.size, scope='batch').contiguous(), count)",
    ),
    a_strategy(
        "a patch that is never hidden", "coverage", "def __call__", "covers_all",
        "scores = context.uniform(grid.size).clone()\nscores[:, -1] = -1\nhidden = hide(scores, count)",
    ),
    a_strategy(
        "a loop over images", "batching", "def __call__", "at once",
        "hidden = torch.stack([row.clone() for row in hidden])",
    ),
    a_strategy("waiting for a value", "device", ".item()", "", "if images.sum().item() > 1e30:\n    count = 0"),
    a_strategy("tensors on the CPU", "device", "torch.zeros", "",
        "images = images + torch.zeros(1, 32, dtype=images.dtype, device='cpu')[:, :1]"),
    a_strategy(
        "build returns a tensor", "build", "def build", "return an nn.Module",
        members="def build(self, sample, grid, dim):\n    return torch.zeros(dim)",
    ),
    a_strategy(
        "build draws from numpy", "build", "def build", "by torch alone",
        FOG, "def build(self, sample, grid, dim):\n    net = nn.Linear(1, 1)\n"
        "    nn.init.constant_(net.weight, np.random.rand())\n    return net",
    ),
    a_strategy(
        "build normalises its sample in place", "build", "def build", "sample.clone()",
        members="def build(self, sample, grid, dim):\n    sample -= sample.mean()",
    ),
    a_strategy(
        "a typo in loss", "loss", "outputs", "NameError",
        FOG, f"{NETWORK}\ndef loss(self, view, output, context):\n    return outputs.loss",
    ),
    a_strategy(
        "a loss for each image", "loss", "def loss", "by .mean()",
        FOG, f"{NETWORK}\ndef loss(self, view, output, context):\n    return view.images.mean((1, 2, 3))",
    ),
    a_strategy(
        "a loss as a number", "loss", "def loss", "() tensor or None",
        FOG, f"{NETWORK}\ndef loss(self, view, output, context):\n    return 0.5",
    ),
    a_strategy(
        "an undeclared patch loss", "loss", "def loss", "learns_from_patch_loss = True",
        FOG, f"{NETWORK}\ndef loss(self, view, output, context):\n    return output.patch_loss.mean()",
    ),
    a_strategy(
        "what was never kept", "loss", "context.kept", "KeyError",
        FOG, f"{NETWORK}\ndef loss(self, view, output, context):\n    return context.kept['wieght'].mean()",
    ),
    a_strategy(
        "kept outside of the context", "loss", "def loss", "context.kept",
        FOG + "MEMORY[:] = [images.mean()]\n",
        f"{NETWORK}\ndef loss(self, view, output, context):\n    return MEMORY[0]",
    ),
    a_strategy("a module without gradients", "loss", "def __call__", "detach not all",
               FOG.replace(".sigmoid()", ".sigmoid().detach()"), NETWORK),
]  # fmt: skip

OBJECTIVE = '''
import numpy as np
import torch
from dataclasses import dataclass
from typing import ClassVar
from torch import nn
from maskbench.objective import Examples, Head, Objective, Recipe, StepOutput, register

@register("planted-objective")
@dataclass(frozen=True, kw_only=True)
class Planted(Objective):
    """Predicts the mean colour."""

    predicts_pixels: ClassVar[bool] = False

    def build(self, encoder, grid, channels, classes, *, plain_attention):
        return PlantedHead(encoder, channels)


class PlantedHead(Head):
    def __init__(self, encoder, channels):
        super().__init__()
        self.encoder = encoder
        self.predict = nn.Linear(encoder.width, channels)

    def forward(self, examples):
        view = examples.view
        tokens = self.encoder(view.images, view.present, view.replaced, view.length)
        pooled = self.encoder.pool(tokens)["mean"]
        error = (self.predict(pooled) - examples.clean[0].mean((2, 3))).square()
        loss = error.mean()
        return StepOutput(loss, logs={"loss/colour": loss.detach()})
'''


def an_objective(name: str, check: str, at: str, remedy: str, old: str, new: str) -> Planted:
    return edited(Planted(f"objective {name}", check, at, remedy, OBJECTIVE), old, new)


OBJECTIVES = [
    an_objective("without a docstring", "documentation", "@register", "say what",
        '    """Predicts the mean colour."""\n', ""),
    an_objective("of an unknown kind", "documentation", "learns_from", "tokens, pixels, crops",
                 "    predicts_pixels", "    learns_from = 'images'\n    predicts_pixels"),
    an_objective("an unbounded parameter", "parameters", "scale:", "bound it",
                 "    predicts_pixels", "    scale: float = 1.0\n    predicts_pixels"),
    an_objective("build without return", "build", "def build", "return a Head", "return PlantedHead", "PlantedHead"),
    an_objective("another encoder", "build", "def build", "self.encoder = encoder", "self.encoder = encoder",
                 "import copy; self.encoder = copy.deepcopy(encoder)"),
    an_objective("labels undeclared", "labels", "def forward", "needs_labels = True",
                 "loss = error.mean()", "loss = error.mean() + examples.labels.float().mean()"),
    an_objective("a loss for each image", "step", "def forward", "by .mean()", "loss = error.mean()",
                 "loss = error.mean(1)"),
    an_objective("a patch loss that is promised", "step", "def forward", "predicts_pixels = False",
                 "predicts_pixels: ClassVar[bool] = False", "predicts_pixels: ClassVar[bool] = True"),
    an_objective("logs with a graph", "step", "def forward", ".detach()", "loss.detach()", "loss"),
    an_objective("forward without return", "step", "def forward", "return StepOutput", "return StepOutput",
        "StepOutput"),
    an_objective("a typo in forward", "step", "views.length", "NameError", "view.length", "views.length"),
    an_objective("clean images in place", "inputs unchanged", "def forward", "on a clone", "view = examples.view",
                 "view = examples.view; examples.clean[0].clamp_(-9, 9)"),
    an_objective("numpy's generator", "global generators", "def forward", "use torch", "loss = error.mean()",
                 "loss = error.mean() * np.random.rand()"),
    an_objective("detached tokens", "gradients", "def forward", "do not detach", 'pool(tokens)["mean"]',
                 'pool(tokens)["mean"].detach()'),
    an_objective("images compared", "micro batches", "def forward", "compares_images = True", "loss = error.mean()",
                 "loss = error.mean() + pooled.var(0).mean()"),
]  # fmt: skip

PROBE = '''
import numpy as np
import torch
from dataclasses import dataclass
from maskbench.probe import FeatureProbe, ProbeResult, accuracy, register

MEMORY = []

@register("planted-probe")
@dataclass(frozen=True, kw_only=True)
class Planted(FeatureProbe):
    """The nearest class mean."""

    def ask(self, features):
        result = ProbeResult()
        for pooling, data in features.items():
            train = data.train
            means = torch.stack([train[data.train_labels == number].mean(0) for number in range(data.classes)])
            predicted = torch.cdist(data.test, means).argmin(1)
            key = f"planted-probe/top1/{pooling}"
            result.metrics[key] = accuracy(predicted, data.test_labels)
            result.predictions[f"planted-probe/{pooling}"] = predicted
        return result
'''


def a_probe(name: str, check: str, at: str, remedy: str, old: str, new: str) -> Planted:
    return edited(Planted(f"probe {name}", check, at, remedy, PROBE), old, new)


TUNED = (
    "key = f'planted-probe/top1/{pooling}'; result.chosen['sign'] = float(accuracy(predicted, data.test_labels) > 0.5)"
)
PROBES = [
    a_probe("without a docstring", "documentation", "@register", "say what is measured",
        '    """The nearest class mean."""\n', ""),
    a_probe("an unbounded parameter", "parameters", "k:", "bound it", "    def ask", "    k: int = 3\n\n    def ask"),
    a_probe("no return", "result", "def ask", "return a ProbeResult", "        return result", "        result"),
    a_probe("a tensor as a number", "result", "def ask", "add .item()", "accuracy(predicted, data.test_labels)",
            "(predicted == data.test_labels).float().mean()"),
    a_probe("percent", "result", "def ask", "shares in [0, 1]", "= accuracy(", "= 1.5 + 100 * accuracy("),
    a_probe("another name in the key", "result", "def ask", "start it with planted-probe/",
        'f"planted-probe/top1', 'f"top1'),
    a_probe("distances as predictions", "result", "def ask", "as argmax", "] = predicted",
        "] = torch.cdist(data.test, means)"),
    a_probe("a typo", "result", "data.tset", "AttributeError", "data.test, means", "data.tset, means"),
    a_probe("features in place", "result", "train.sub_", "on a clone", "train = data.train\n",
            "train = data.train.sub_(1)\n"),
    a_probe("labels in place", "features unchanged", "def ask", "on a clone", "train = data.train\n",
            "train = data.train; data.train_labels.clamp_(0, 1)\n"),
    a_probe("numpy's generator", "global generators", "def ask", "subject.seed", "train = data.train\n",
            "train = data.train; np.random.rand()\n"),
    a_probe("state from call to call", "repeatability", "def ask", "of your own", "] = accuracy(",
            "] = MEMORY.append(1) or 0 * len(MEMORY) + 1 / len(MEMORY) * accuracy("),
    a_probe("a choice on test labels", "test labels", "def ask", "choose on validation",
            'key = f"planted-probe/top1/{pooling}"',
            'key = f"planted-probe/top1/{pooling}"; result.chosen["first"] = int(data.test_labels[0])'),
    edited(edited(a_probe("training the encoder", "encoder unchanged", "def __call__", "copy.deepcopy",
            "FeatureProbe", "Probe"), "FeatureProbe", "Probe"), "    def ask(self, features):\n",
            "    def __call__(self, subject):\n        subject.encoder.mask_token.data += 1\n"
            "        features = subject.features()\n"),
]  # fmt: skip
