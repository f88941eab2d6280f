"""The door through which files come in as data: regular ones, bounded, with nothing in them but plain values."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskbench.config.claims import read_claims
from maskbench.config.plain_files import NotPlain, ensure_plain, parse_json, parse_yaml, read_regular_file
from maskbench.config.resolve import parse_config, read_yaml
from maskbench.config.suite import read_suite
from maskbench.errors import UsageError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"b{number}: &b{number} {{<<: [{', '.join(['*a' if not number else f'*b{number - 1}'] * 30)}]}}\n"
    for number in range(6)
)
BAD_YAML = {
    "brackets": ("[" * 100_000, "brackets lie more than 32 deep"),
    "dashes": ("- " * 60_000, "lie more than 32 deep"),
    "aliases": (LAUGHS, "more than 20,000 values, aliases counted"),
    "merges": (MERGES, "more than 20,000 values, aliases counted"),
    "itself": ("a: &a [*a]", "lie more than 32 deep"),
    "twice": ("train: {epochs: 1}\ntrain: {epochs: 2}", "'train' twice"),
    "infinite": ("train: {lr: .inf}", "train.lr is inf"),
    "no number": ("train: {lr: .nan}", "train.lr is nan"),
    "large": ("a: " + "9" * 3000, "a is an integer of more than 64 bits"),
    "larger": ("a: " + "9" * 9000, "not YAML"),
    "key": ("1: 2", "a name in it is 1, no text; quote it"),
    "escape": ('"\\e[31mred": 1', "control characters"),
    "long name": (f"? {'k' * 1000}\n: 1", "1,000 characters"),
    "code": ("a: !!python/name:os.system", "not YAML"),
    "tag": ("a: !!int ''", "not YAML"),
    "other tag": ("a: !!bool perhaps", "not YAML"),
    "set": ("a: !!set {b, c}", "of type set"),
    "bytes": ("a: !!binary aGk=", "of type bytes"),
    "two documents": ("a: 1\n---\na: 2", "not YAML"),
    "latin": (b"a: \xe9", "not UTF-8"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_yaml_that_is_more_than_settings_is_refused(name: str, tmp_path: Path) -> None:
    text, reason = BAD_YAML[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "claims.yaml").symlink_to(path)
    for read in (read_yaml, lambda path: read_suite(str(path)), lambda path: read_claims(path.parent)):
        with pytest.raises(UsageError, match=reason) as refused:
            read(path)
        assert len(str(refused.value)) < 500 and "\n" not in str(refused.value)


def test_yaml_that_people_write_is_read() -> None:
    text = "a: &a [1, 2]\nb: *a\nc: {<<: {x: 1}, y: 2}\nd: 2026-11-29\ne: '[[['\n"
    expected = {"a": [1, 2], "b": [1, 2], "c": {"x": 1, "y": 2}, "d": "2026-11-29", "e": "[[["}
    assert parse_yaml(text) == parse_yaml(b"\xef\xbb\xbf" + text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 200_000, "more than 32 deep"),
        ("[" * 100 + "]" * 100, "more than 32 deep"),
        ('{"a": {"b": [1, NaN]}}', "a.b.1 is nan"),
        ('{"a": 1e999}', "a is inf"),
        ('{"a": ' + "9" * 100 + "}", "more than 64 bits"),
        ('{"a": "\\ud800"}', "a is no Unicode text"),
        ('{"a\\u001b[2J": 1}', "control characters"),
        ('{"a": "' + "x" * 200_000 + '"}', "a has 200,000 characters"),
        ("{", "it is not JSON"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_json_that_is_more_than_values_is_refused(text: str | bytes, reason: str) -> None:
    with pytest.raises(NotPlain, match=reason):
        parse_json(text)


def test_what_python_reads_back_is_plain() -> None:
    value = {"a": [1, 2.5, None, True, {"b": "text with \x1b in it"}], "c": -(2**63) + 1}
    ensure_plain(value)
    assert parse_json(json.dumps(value)) == value


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_large(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**30)


KINDS: list[tuple[Callable[[Path], Any], str]] = [
    (make_pipe, "it is a pipe"),
    (Path.mkdir, "it is a folder"),
    (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    (make_large, "it has 1,024 MiB; at most 128 KiB are read"),
    (make_loop, "Too many levels"),
    (lambda path: path.symlink_to("nowhere"), "No such file"),
]


@pytest.mark.parametrize(("make", "reason"), KINDS)
def test_only_regular_files_up_to_a_size_are_opened(make: Callable[[Path], Any], reason: str, tmp_path: Path) -> None:
    make(tmp_path / "mine.yaml")
    with pytest.raises(UsageError, match=f"cannot read config .*mine.yaml: {reason}"):
        read_yaml(tmp_path / "mine.yaml")


def test_a_link_is_followed_unless_it_must_not(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("text")
    (tmp_path / "link").symlink_to("real")
    assert read_regular_file(tmp_path / "link", 10) == b"text"
    with pytest.raises(NotPlain, match="it is a link"):
        read_regular_file(tmp_path / "link", 10, follow_link=False)


@pytest.mark.parametrize("setting", ["data.dataset", "data.probe_dataset", "data.data_dir", "output"])
@pytest.mark.parametrize("name", ["./a\nb", "./\x1b[2J", "./\udcff", "./" + "a" * 5000])
def test_a_name_that_no_record_could_have_is_refused_before_the_run(setting: str, name: str) -> None:
    section, _, key = setting.rpartition(".")
    with pytest.raises(UsageError, match=f"{setting} has |output=.* should be the name of a folder"):
        parse_config({section: {key: name}} if section else {key: name})
