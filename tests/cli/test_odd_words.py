"""Numbers and words that no run can have: one line with what was typed, exit code 2, nothing written."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from maskbench.config.resolve import MAX_SEEDS, merge, parse_config, parse_seeds
from maskbench.config.section import Section
from maskbench.config.settings import RunConfig
from maskbench.config.specs import parse_value
from maskbench.core.component import Component
from maskbench.errors import MAX_QUOTED, UsageError, quoted
from tests.helpers.command_line import maskbench

LONG = "x" * 5_000
FLOATS = [  # every setting that holds floats, with a list or a mapping where it is one
    *("train.lr", "train.blr", "train.min_lr", "train.warmup_epochs", "train.weight_decay", "train.weight_decay_end"),
    *("train.clip_grad", "train.teacher_momentum", "train.betas=[0.9, {}]", "train.budget={{seconds: {}}}"),
    *("train.budget={{gflops: {}}}", "data.flip", "data.crop_scale=[0.2, {}]", "data.mean=[{}, 0.5, 0.5]"),
    *("data.std=[{}, 0.5, 0.5]", "data.memory_gib", "ratio"),
]


def paths_of_floats(section: type[Section], prefix: str = "") -> set[str]:
    """The settings whose type has a float in it."""
    found = set()
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= paths_of_floats(field.annotation, f"{prefix}{name}.")
        elif "float" in str(field.annotation) or "float" in str(field.metadata):
            found.add(prefix + name)
    return found


def test_the_list_has_every_setting_with_floats() -> None:
    assert {name.partition("=")[0] for name in FLOATS} == paths_of_floats(RunConfig)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan"])
@pytest.mark.parametrize("name", FLOATS)
def test_every_number_is_finite(name: str, value: str) -> None:
    text = (name if "=" in name else name + "={}").format(value)
    path, _, number = text.partition("=")
    assert parse_value(number.replace(value, "1")) is not None, "the text is YAML"
    with pytest.raises(UsageError, match=path.replace(".", r"\.")):
        parse_config(merge({}, {path: parse_value(number), "regime": "matched"}))


ODD = [
    (["--lr", "inf"], "train.lr=inf should be a finite number"),
    (["--warmup-epochs", "nan"], "train.warmup_epochs=nan should be a finite number"),
    (["--set", "data.crop_scale=[1.0, 0.2]"], "data.crop_scale=[1.0, 0.2] should be the smallest area first"),
    (["--set", "train.betas=[0.9, 1.5]"], "train.betas.1=1.5 should be less than 1"),
    (["--seeds", "0-1000000000"], f"--seeds '0-1000000000' are more than {MAX_SEEDS:,} seeds"),
    (["--seeds", "9" * 3_000], "the largest seed is 9223372036854775807"),
    (["--strategy", "random:ratio=[0.5"], "'[0.5' is not a YAML value; close its brackets"),
    (["--strategy", "random:ratio=[0.5,gmml"], "is not a YAML value"),
    (["--strategy", "random:ratio=!!python/object:os.system"], "is not a YAML value"),
    (["--strategy", "random:ratio=!!python/name"], "is not a YAML value"),
    (["--strategy", "random:ratio=2020-01-01"], "is no number, word, list or mapping"),
    (["--strategy", "random:ratio=2020-13-45"], "is not a YAML value"),
    (["--strategy", "random:ratio=!!binary aGk="], "is no number, word, list or mapping"),
    (["--objective", "mae:decoder_width=["], "is not a YAML value"),
    (["--probes", "knn:k={"], "is not a YAML value"),
    (["--set", "train.epochs.x=3"], "'epochs.x': epochs is the value "),
    (["--set", "train=3"], "train=3 should be a mapping of settings"),
    (["--set", "train="], "train=None should be a mapping of settings"),
    (["--set", "train.lr=[1"], "--set train.lr: '[1' is not a YAML value"),
    (["--set", "strategy.parameters=3"], "strategy.parameters=3 should be "),
    (["--set", "strategy.name.x=3"], "is the value 'random', with nothing below it"),
    (["--set", "model.kwargs={1: 2}"], "is no number, word, list or mapping"),
    (["--set", "model.kwargs={depth: &a [1], width: *a}"], "is no number, word, list or mapping"),
    (["--set", "train.epochs=" + "9" * 5_000], "is not a YAML value"),
    (["--set", "train.epochs=0x" + "9" * 5_000], "train.epochs=<int> should be less than or equal to 1000000000"),
    (["--set", "=3"], "write SECTION.SETTING=VALUE"),
    (["--set", "train..epochs=3"], "write SECTION.SETTING=VALUE"),
    (["--set", "seed=-1"], "seed=-1 should be greater than or equal to 0"),
    (["--device", "meta"], "device 'meta' is not supported; use cpu, cuda or cuda:N"),
    (["--device", "mps"], "there is no device 'mps'"),
    (["--img-size", "4096", "--patch-size", "1"], "are 16,777,216 tokens each, and at most 65,536 are supported"),
    (["--patch-size", "1000000000"], "model.patch_size=1000000000 should be less than or equal to 4096"),
    (["--output", ""], "output='' should be the name of a folder"),
    (["--output", "a\x1b[31m\nb"], r"output='a\x1b[31m\nb' should be the name of a folder, without control"),
    (["--checkpoint-every", "inf"], "inf is no finite number"),
    (["--memory-per-run", "inf", "--on", "ray"], "inf is no finite number"),
]


@pytest.mark.parametrize(("words", "message"), ODD, ids=[" ".join(words)[:40] for words, _ in ODD])
def test_odd_words_are_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    device = [] if "--device" in words else ["--print-config"]
    strategy = ["--set", "strategy=random"] if "strategy." in words[1] else []
    done = maskbench("run", *strategy, *words, *device, cwd=tmp_path)
    assert done.code == 2 and message in done.err, done.err
    assert done.err.count("\n") == 1 and done.out == "" and len(done.err) < 1_000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1: 2", "a name in it is 1, no text; quote it"),
        ("~: 2", "a name in it is None, no text"),
        ("train: {3: 4}", "a name in it is 3, no text"),
        ("train: 3", "train=3 should be a mapping of settings"),
        ("strategy: {name: random, parameters: 3}", "strategy.parameters=3 should be "),
        ("strategy: 3", "strategy=3 should be "),
        ("strategy: 'random:ratio=['", "'[' is not a YAML value"),
        ("model: {kwargs: {1: 2}}", "a name in it is 1, no text"),
        ("data: {dataset: [a]}", "data.dataset=['a'] should be "),
        (f"data: {{flip: {LONG}}}", "data.flip='xxxx"),
        (f"{LONG[:900]}: 1", "a name in it has 900 characters"),
        (f"{LONG[:200]}: 1", "unknown setting 'xxxx"),
    ],
)
def test_odd_configurations_are_one_line(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(content)
    done = maskbench("run", "--config", "odd.yaml", "--print-config", cwd=tmp_path)
    assert done.code == 2 and message in done.err, done.err
    assert done.err.count("\n") == 1 and len(done.err) < 1_000


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--strategy", LONG],
        ["run", "--strategy", f"random:{LONG}=1"],
        ["run", "--strategy", f"random:ratio={LONG}"],
        ["run", "--set", f"train.lr={LONG}"],
        ["run", "--set", LONG],
        ["run", "--epochs", LONG],
        ["run", f"--{LONG}"],
        ["run", "--preset", LONG],
        ["run", "--seeds", LONG],
        ["run", "--dataset", f"./{LONG}"],
        ["run", "--plugin", f"{LONG}.py"],
        ["run", "--suite", f"{LONG}.yaml"],
        ["run", "--config", f"{LONG}.yaml"],
        ["list", LONG],
        ["new", LONG],
        ["new", f"My {LONG}"],
        ["table", LONG],
        [LONG],
    ],
)
def test_what_was_typed_is_cut(words: list[str], tmp_path: Path) -> None:
    done = maskbench(*words, cwd=tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1
    assert "x" * (MAX_QUOTED + 1) not in done.err and len(done.err) < 1_000


def test_control_characters_are_written_out(tmp_path: Path) -> None:
    for words in (["table", "a\x1b]0;b\x07"], ["list", "\x9b31m"], ["run", "--preset", "a\x00b\u202e"]):
        done = maskbench(*words, cwd=tmp_path)
        assert done.code == 2 and done.err.rstrip("\n").isprintable()


def test_quotes() -> None:
    assert quoted("a" * 80) == repr("a" * 80) and quoted("a" * 81) == f"'{'a' * 77}...'"
    assert quoted("\x1b") == r"'\x1b'" and len(quoted(list(range(1000)))) == MAX_QUOTED + 2


@pytest.mark.parametrize("name", ["class", "none", "true", "view", "strategy", "torch", "numpy", "json", "maskbench"])
def test_new_refuses_words_that_python_or_packages_have(name: str, tmp_path: Path) -> None:
    done = maskbench("new", name, cwd=tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [["probe", "vit_tiny_patch16_224", "--dataset", "shapes"], ["rerun", "x"], ["export", "x"], ["table", "x"]],
)
def test_a_folder_has_a_name(words: list[str], tmp_path: Path) -> None:
    done = maskbench(*words, "--output", "", cwd=tmp_path)
    assert done.code == 2 and "the name of a folder is empty" in done.err and done.err.count("\n") == 1


def test_the_seed_of_a_configuration_counts(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 3\n")
    for words, seed in ([], 3), (["--set", "seed=4"], 4), (["--seeds", "5"], 5):
        shown = maskbench("run", "--config", "mine.yaml", *words, "--print-config", cwd=tmp_path)
        assert f"\nseed: {seed}\n" in shown.out


def test_a_line_of_aliases_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))]
    with pytest.raises(UsageError, match="is no number, word, list or mapping"):
        parse_value("{" + ", ".join(lines) + "}")


def test_seeds_up_to_the_limit() -> None:
    assert parse_seeds(f"0-{MAX_SEEDS - 1}") == list(range(MAX_SEEDS))
    with pytest.raises(UsageError, match="more than"):
        parse_seeds(f"0-{MAX_SEEDS - 1},5")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_parameters_are_finite(value: float) -> None:
    """Also where a parameter has no range."""

    @dataclass(frozen=True, kw_only=True)
    class Unbounded(Component):
        width: float = 1.0

    with pytest.raises(UsageError, match=r"Unbounded: width=(inf|nan) should be a finite number"):
        Unbounded(width=value)
