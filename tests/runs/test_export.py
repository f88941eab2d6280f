"""An exported encoder: timm alone loads it, to the same features, and the card says what it is."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

import maskbench as library
from maskbench.core.grid import Grid
from maskbench.errors import UsageError
from maskbench.models.encoder_sources import read_encoder
from maskbench.record import RunRecord
from maskbench.runs import export as exporting
from maskbench.runs.export import export
from maskbench.runs.plan import make_plan
from maskbench.runs.run import run
from tests.helpers.command_line import maskbench
from tests.helpers.tiny_run import tiny_config

LOADED = """
import sys
import timm, torch
from safetensors.torch import load_file
images = torch.load(sys.argv[2])
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
assert model.state_dict().keys() == load_file(sys.argv[1] + "/model.safetensors").keys()
with torch.no_grad():
    torch.save({"found": model(images), "tokens": model.forward_features(images)}, sys.argv[3])
assert "maskbench" not in sys.modules
"""


def finished(folder: Path, strategy: str = "gmml", /, **changes: Any) -> tuple[RunRecord, Path]:
    config = tiny_config(folder, strategy, **{"train__epochs": 1, "data__limit": 100, "probes": "knn", **changes})
    return run(config), make_plan(config).folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    return finished(tmp_path_factory.mktemp("results"), probes="knn,linear")


def alone(code: str, *arguments: object, cwd: Path) -> None:
    """Run Python code in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    left = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert left.returncode == 0, left.stderr


def test_timm_alone_gives_the_same_features(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    _, folder = done
    written = export(folder, tmp_path / "export")
    assert written == tmp_path / "export"
    assert sorted(path.name for path in written.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    images = torch.randn(4, 3, 16, 16)
    torch.save(images, tmp_path / "images.pt")
    alone(LOADED, written, tmp_path / "images.pt", tmp_path / "found.pt", cwd=tmp_path)
    found, encoder = torch.load(tmp_path / "found.pt"), library.load_encoder(folder)
    with torch.no_grad():
        torch.testing.assert_close(found["found"], encoder(images), atol=1e-6, rtol=0)
        torch.testing.assert_close(found["tokens"], encoder.forward_features(images), atol=1e-6, rtol=0)


def test_what_the_card_says_to_type_works_as_printed(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    written = export(done[1], tmp_path / "export")
    first, second = re.findall(r"```python\n(.*?)```", (written / "README.md").read_text(), re.DOTALL)
    told = re.search(r"# \((\d+), (\d+) \+ (\d+), (\d+)\)", first)
    assert told is not None
    batch, prefix, patches, width = map(int, told.groups())
    shapes = f"assert tokens.shape == ({batch}, {prefix + patches}, {width}), tokens.shape\n"
    shapes += f"assert features.shape == ({batch}, {width}), features.shape\n"
    same = "assert torch.equal(features, model.eval()((images - mean) / std))\nimport sys\n"
    alone(first + shapes + second + same + 'assert "maskbench" not in sys.modules', cwd=written)


def test_the_card_says_what_it_is(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    record, folder = done
    card = (export(folder, tmp_path / "export") / "README.md").read_text()
    assert "\n# gmml-" in card and card.startswith("---\nlibrary_name: timm\n")
    for name, value in record.metrics.items():
        if not name.startswith("cost/"):
            probe = name.split("/")[0]
            assert re.search(rf"\| {name} +\| {value:.4g} +\| {probe} v{record.protocols[probe]} ", card), name
    for name in ("cost/images_per_s", "cost/wall_s", "cost/peak_memory_mib"):
        assert name not in card, "depends on the machine"
    assert f"(cost/gflops_per_image): {record.metrics['cost/gflops_per_image']:.4g}" in card
    assert (
        f"- strategy: gmml, version {record.strategy['version']}: `{json.dumps(record.strategy['parameters'])}`" in card
    )
    assert f"- objective: mae, version {record.objective['version']}: `{{" in card
    assert f"- data set: shapes, fingerprint {record.dataset['fingerprint']}\n- training images: 100\n" in card
    assert "- epochs: 1\n- batch size: 64\n- seed: 0\n" in card
    assert f"- made with: maskbench {library.__version__}\n- run: {record.run_id}\n" in card
    assert "no more than 100 different images" in card and "which are about 10 classes" in card
    assert "no general-purpose" in card and "None is given here" in card
    assert "images seen: 64" in card
    assert str(folder) not in card and "\n\n\n" not in card


def test_the_card_of_a_hostile_record_is_text(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    """Names and settings bring no Markdown, YAML or Python of their own."""
    record, folder = done
    odd = "x\n---\n<script>alert(1)</script> `| [a](b)"
    strategy = {"name": odd, "version": 1, "parameters": {"fill": "```\n" + odd}}
    arguments = {**record.model["arguments"], "global_pool": '"); import os; os.abort(#', "a=b": 1}
    changes = {"strategy": strategy, "warnings": [odd], "dataset": {**record.dataset, "name": odd}}
    hostile = record.model_copy(update={**changes, "model": {**record.model, "arguments": arguments}})
    card = exporting.model_card(hostile, read_encoder(str(folder)).state, None)
    front, text = card.split("\n---\n", 1)
    assert yaml.safe_load(front.removeprefix("---\n"))["tags"] == ["timm", "maskbench", odd]
    without_code = re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", text.replace("\\`", ""), flags=re.DOTALL)
    assert "\n---\n" not in text and not re.search(r"<[A-Za-z/!?]|\]\(", without_code)
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2 == text.count("```python")
    calls = [node for node in ast.walk(ast.parse(blocks[1])) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "timm.create_model"]
    given = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
    (others,) = [ast.literal_eval(word.value) for word in call.keywords if word.arg is None]
    assert given | others == arguments
    assert {ast.unparse(call.func) for call in calls} == {"timm.create_model", "model.load_state_dict", "load_file"}


def test_the_config_is_what_the_probes_saw(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    record, folder = done
    model = timm.create_model(f"local-dir:{export(folder, tmp_path / 'export')}", pretrained=True)
    assert model.num_classes == 0
    seen = timm.data.resolve_model_data_config(model)
    assert list(seen["mean"]) == record.dataset["mean"] and list(seen["std"]) == record.dataset["std"]
    assert list(seen["input_size"]) == [3, 16, 16]
    assert (seen["interpolation"], seen["crop_pct"], seen["crop_mode"]) == ("bilinear", 1.0, "center")


@pytest.mark.parametrize(
    "changes",
    [
        {"data__in_chans": 1, "data__img_size": "16x24"},
        {"data__in_chans": 4},
        {"model__kwargs": {"embed_dim": 32, "depth": 1, "num_heads": 2, "class_token": False, "global_pool": "avg"}},
        {"model__kwargs": {"embed_dim": 32, "depth": 1, "num_heads": 2, "reg_tokens": 2, "init_values": 0.1}},
        {"strategy": "none", "objective": "random-init"},
        {"strategy": "none", "objective": "supervised"},
    ],
    ids=str,
)
def test_any_encoder_comes_back(changes: dict[str, Any], tmp_path: Path) -> None:
    record, folder = finished(tmp_path, changes.pop("strategy", "random"), **changes)
    written = export(folder)
    assert written == folder / "export"
    weights = library.load_encoder(folder).state_dict()
    model = timm.create_model(f"local-dir:{written}", pretrained=True)
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    foreign, same = read_encoder(str(written / "model.safetensors")), read_encoder(str(folder))
    height, width = record.model["arguments"]["img_size"]
    assert foreign.grid == Grid(height // 4, width // 4, 4) and foreign.digest == same.digest
    assert foreign.mean is not None and foreign.mean.tolist() == pytest.approx(record.dataset["mean"])
    card = (written / "README.md").read_text()
    assert ("It is a control" in card) == (record.objective["name"] in ("random-init", "supervised"))
    assert ("It has seen no images:" in card) == (record.objective["name"] == "random-init")


def test_an_export_is_replaced_but_nothing_else(
    done: tuple[RunRecord, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, folder = done
    output = tmp_path / "export"
    write = exporting.write_atomically

    def broken(path: Path, content: str | bytes) -> None:
        if path.name != "config.json":
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "write_atomically", broken)
        with pytest.raises(OSError, match="No space"):
            export(folder, output)
    assert [path.name for path in output.iterdir()] == ["config.json"], "what is there is whole"
    card = (export(folder, output) / "README.md").read_text()
    (output / "README.md").write_text("of an earlier version")
    assert (export(folder, output) / "README.md").read_text() == card
    others = {"README.md": "mine", "config.json": "{", "weights.bin": ""}
    for name, content in others.items():
        mine = tmp_path / name.replace(".", "-")
        mine.mkdir()
        (mine / name).write_text(content)
        with pytest.raises(UsageError, match=f"{mine} holds something else than an export of {record.run_id}"):
            export(folder, mine)
        assert (mine / name).read_text() == content and len(list(mine.iterdir())) == 1
    config = json.loads((output / "config.json").read_text())
    (output / "config.json").write_text(json.dumps({**config, "maskbench": {"run_id": "another"}}))
    with pytest.raises(UsageError, match="holds something else"):
        export(folder, output)


def test_the_command(done: tuple[RunRecord, Path], tmp_path: Path) -> None:
    record, folder = done
    shown = maskbench("export", str(folder), "--output", "mine", cwd=tmp_path)
    assert (shown.code, shown.out, shown.err) == (0, "mine\n", "")
    assert record.run_id in (tmp_path / "mine" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is not the folder of a finished run"),
        (["RUN", "--output", "/dev/null/x"], "cannot write to /dev/null/x"),
        (["RUN", "--output", "/dev/null"], "/dev/null holds something else than an export"),
        ([], "RUN"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], message: str, done: tuple[RunRecord, Path], tmp_path: Path
) -> None:
    given = [str(done[1]) if argument == "RUN" else argument for argument in arguments]
    shown = maskbench("export", *given, cwd=tmp_path)
    assert shown.code == 2 and message in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    assert list(tmp_path.iterdir()) == []
