"""The words of the command line in a dict, for `maskbench.run`: {"dataset": ..., "lr": ...} -> settings by path."""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from maskbench.config.section import Section
from maskbench.config.settings import RunConfig
from maskbench.errors import UsageError, quoted, unknown_name

ELSEWHERE = {
    "seeds": "maskbench.run makes one run; give seed, and call it once for each",
    "suite": "maskbench.run makes one run; `maskbench run --suite` makes those of a suite",
    "config": "pass the settings themselves, e.g. yaml.safe_load(open(FILE))",
    "set": "write its assignments as entries, e.g. {'train.betas': [0.9, 0.95]}",
    "plugin": "import the module that registers the plugin before maskbench.run",
    "download": "download the data once by `maskbench run --download`",
    "force": "remove the run's folder to repeat it",
    **dict.fromkeys(("jobs", "on", "track", "checkpoint_every"), "it belongs to `maskbench run` alone"),
}
"""Options of `maskbench run` that are no settings of a run, and what to do in Python."""


def settings_of_words(words: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted path, or by section as they were given.

    Args:
        words: Names of options (`dataset`, `batch_size` or `batch-size`), dotted paths (`train.lr`), or sections.

    Raises:
        UsageError: A word is unknown (the error says which is meant), or two words mean the same setting.
    """
    flags = dict(_flags(RunConfig))
    settings: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for word, value in words.items():
        path = _path(word, value, flags)
        for leaf in _leaves(path, value):
            if leaf in sources:
                raise UsageError(f"{sources[leaf]!r} and {word!r} are the same setting, {leaf}; give one of them")
            sources[leaf] = word
        settings[path] = _plain(value)
    if settings.get("ratio") is not None:
        settings.setdefault("regime", "matched")  # as on the command line
    return settings


def _path(word: object, value: Any, flags: Mapping[str, str]) -> str:
    if not isinstance(word, str):
        raise UsageError(f"settings are named by text, such as 'epochs', not by {quoted(word)}")
    if "." in word:
        return word
    name = word.lstrip("-").replace("-", "_")
    if name in RunConfig.model_fields and not (name in flags and isinstance(value, str)):
        return name
    if name in flags:
        return flags[name]
    if name in ELSEWHERE:
        raise UsageError(f"{quoted(word)} is no setting of a run: {ELSEWHERE[name]}")
    full = [path for path in _paths(RunConfig) if path.rpartition(".")[2] == name]
    if full:
        raise UsageError(f"unknown setting {quoted(word)}; write {' or '.join(map(repr, full))}")
    raise unknown_name("setting", word, {*RunConfig.model_fields, *flags, "preset"})


def _leaves(path: str, value: Any) -> Iterator[str]:
    """The settings that a value at this path sets: several if it is a section."""
    field = RunConfig.model_fields.get(path)
    if field is not None and _is_section(field.annotation) and isinstance(value, Mapping):
        yield from (f"{path}.{name}" for name in value)
    else:
        yield path


def _flags(section: type[Section], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The name of each setting's option, such as batch_size, and the setting's path."""
    for name, field in section.model_fields.items():
        extra = field.json_schema_extra
        if _is_section(field.annotation):
            yield from _flags(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif isinstance(extra, dict) and extra["flag"]:
            option = str(extra["flag"]).partition("/")[0].removeprefix("--").replace("-", "_")
            yield option, prefix + name


def _paths(section: type[Section], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        if _is_section(field.annotation):
            yield from _paths(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield prefix + name


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, PurePath) else value
