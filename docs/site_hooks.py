"""What MkDocs makes of the code when it builds the site: two reference pages, and files that lie outside docs/.

`settings_page` and `command_line_page` are pure functions of maskbench's schema and commands.
"""

import html
import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

ROOT = Path(__file__).parents[1]
SEARCH_WORKER = "https://unpkg.com/iframe-worker/shim"
OUTSIDE = re.compile(r"\]\(((?:\.\./)+)((?:results|benchmarks|examples|strategies|tests|maskbench)/[^)#\s]+)\)")


# MkDocs' events


def on_config(config: Any) -> Any:
    """List the strategies' pages in the navigation."""
    for entry in config.nav:
        if entry.get("Strategies") == "strategies/":
            names = {path.stem for path in (ROOT / "docs/strategies").glob("*.md")} - {"index"}
            entry["Strategies"] = [f"strategies/{name}.md" for name in ["index", *sorted(names)]]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages, and the files outside docs/ to which pages link."""
    from mkdocs.structure.files import File

    pages = {"reference/settings.md": settings_page(), "reference/command-line.md": command_line_page()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    linked = {match[2] for path in (ROOT / "docs").rglob("*.md") for match in OUTSIDE.finditer(path.read_text())}
    for path in sorted(linked):
        files.append(File.generated(config, f"files/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ to the copies in the site."""
    up = "../" * page.file.src_uri.count("/")
    return OUTSIDE.sub(lambda match: f"]({up}files/{match[2]})", markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Take the search worker from the site instead of the network."""
    return output.replace(SEARCH_WORKER, "../" * page.file.src_uri.count("/") + "assets/iframe-worker.js")


def on_post_template(output: str, **_: Any) -> str:
    """The same for pages without a source, such as 404.html."""
    return output.replace(SEARCH_WORKER, "assets/iframe-worker.js")


# Settings


def settings_page() -> str:
    """Every setting of a run: its dotted name, type, default and meaning."""
    from maskbench.config.settings import RunConfig

    head = (
        "# Settings\n\n"
        "Every setting of a run. A preset, or a YAML file for `--config`, holds them nested, one section per table.\n"
        "`--set a.b=c` sets any of them by its dotted name; some have an option of their own, too.\n"
        "`maskbench run --print-config` prints all of them with the values that a run would use.\n"
    )
    return "\n".join([head, *_sections(RunConfig, "")])


def _sections(model: Any, prefix: str) -> Iterator[str]:
    inner = []
    rows = ["| setting | meaning | type | default |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        section = _section_in(field.annotation)
        if section is not None:
            inner.append((section, f"{prefix}{name}."))
            continue
        option = (field.json_schema_extra or {}).get("flag")
        meaning = _cell(str(field.description)) + (f" Option: `{option}`." if option else "")
        rows.append(f"| `{prefix}{name}` | {meaning} | `{_type(field)}` | `{_default(field)}` |")
    title = f"`{prefix.rstrip('.')}`" if prefix else "The run"
    yield f"## {title}\n\n{(model.__doc__ or '').strip()}\n\n" + "\n".join(rows) + "\n"
    for section, path in inner:
        yield from _sections(section, path)


def _section_in(annotation: Any) -> Any:
    """The configuration section that a field holds, or None."""
    from pydantic import BaseModel

    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel) and candidate.__name__ != "Spec":
            return candidate
    return None


def _type(field: Any) -> str:
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if getattr(rule, name, None) is not None
    ]
    return ", ".join([type_text(field.annotation), *bounds])


def type_text(annotation: Any) -> str:
    """A type as a reader would write it: `int | auto`, `[float, float]`, `map`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " | ".join(dict.fromkeys(type_text(argument) for argument in arguments))
    if origin is tuple:
        return f"[{', '.join(type_text(argument) for argument in arguments)}]"
    if origin is list:
        return f"list of {type_text(arguments[0])}"
    if origin is dict:
        return "map"
    if hasattr(annotation, "__metadata__"):
        return type_text(arguments[0])
    return {"Spec": "NAME[:key=value...]"}.get(annotation.__name__, annotation.__name__)


def _default(field: Any) -> str:
    from pydantic_core import to_jsonable_python

    if field.is_required():
        return "required"
    return json.dumps(_short(to_jsonable_python(field.get_default(call_default_factory=True))))


def _short(value: Any) -> Any:
    """A component without parameters is written as its name."""
    if isinstance(value, list):
        return [_short(each) for each in value]
    return value["name"] if isinstance(value, dict) and value.keys() == {"name", "parameters"} else value


# Command line


def command_line_page() -> str:
    """Every command with every option, as typer knows them."""
    import typer

    from maskbench.cli.main import app

    group: Any = typer.main.get_command(app)
    context = group.make_context("maskbench", ["--version"], resilient_parsing=True)
    commands = {name: group.get_command(context, name) for name in group.list_commands(context)}
    overview = ["| command | does | group |", "|---|---|---|"]
    for name, command in commands.items():
        panel = _word(getattr(command, "rich_help_panel", None))
        overview.append(f"| [`{name}`](#{name}) | {_cell(command.get_short_help_str(200))} | {panel} |")
    head = (
        "# Command line\n\n"
        "Results go to stdout, logs and progress to stderr. Exit codes: 0; 1 for a failed run or check; 2 for a\n"
        "mistake in the command; 130 for Ctrl-C; 143 for SIGTERM. [Recipes](../recipes.md) has examples.\n"
    )
    return "\n".join([head, *overview, "", *(_command(name, command, context) for name, command in commands.items())])


def _command(name: str, command: Any, parent: Any) -> str:
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    usage = " ".join(["maskbench", name, *command.collect_usage_pieces(context)])
    lines = [f"## {name}", "", *(line.strip() for line in (command.help or "").split("\n")), "", f"    {usage}", ""]
    for heading, rows in _panels(command, context).items():
        lines += [f"**{heading}**", "", "| option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _panels(command: Any, context: Any) -> dict[str, list[str]]:
    """Table rows of a command's parameters under their headings: arguments first, options without a heading last."""
    arguments: dict[str, list[str]] = {}
    named: dict[str, list[str]] = {}
    options: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or "--help" in parameter.opts:
            continue
        panel = _word(getattr(parameter, "rich_help_panel", None))
        argument = parameter.param_type_name == "argument"
        place, heading = (named, panel) if panel else (arguments, "Arguments") if argument else (options, "Options")
        place.setdefault(heading, []).append(f"| `{record[0]}` | {_cell(record[1])} |")
    return arguments | named | options


def _cell(text: str) -> str:
    """Text in a table's cell. Code, in backticks, needs no escapes."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _word(panel: Any) -> str:
    return panel if isinstance(panel, str) else ""
