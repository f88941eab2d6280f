"""Help in sections: commands by what they are for, options by what they set."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

ARGUMENTS, OTHER = "Arguments", "Options"


class SectionedCommand(TyperCommand):
    """A command whose help lists its options under the headings that they name (`rich_help_panel`)."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            row = parameter.get_help_record(ctx)
            if row is not None:
                usual = ARGUMENTS if parameter.param_type_name == "argument" else OTHER
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(row)
        _write_sections(formatter, sections)


class SectionedGroup(TyperGroup):
    """A group whose help lists its commands under the headings that they name (`rich_help_panel`)."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = [(name, command) for name in self.list_commands(ctx) if (command := self.get_command(ctx, name))]
        limit = formatter.width - 6 - max(len(name) for name, _ in commands)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in commands:
            heading = getattr(command, "rich_help_panel", None) or OTHER
            sections.setdefault(heading, []).append((name, command.get_short_help_str(limit)))
        _write_sections(formatter, sections)


def _write_sections(formatter: Any, sections: dict[str, list[tuple[str, str]]]) -> None:
    order = {ARGUMENTS: -1, OTHER: 1}
    for heading, rows in sorted(sections.items(), key=lambda section: order.get(section[0], 0)):
        with formatter.section(heading):
            formatter.write_dl(rows)
