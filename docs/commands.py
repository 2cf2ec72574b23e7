"""Print the help of every command as Markdown: python docs/commands.py > docs/commands.md. A test compares the two."""

import click

from cli import main


def commands_markdown() -> str:
    """Return docs/commands.md."""
    names = main.context_settings["help_option_names"]
    with click.Context(main, info_name="amnet", terminal_width=100, help_option_names=names) as context:
        parts = ["# Commands\n\nWritten by `python docs/commands.py`; do not edit.\n", _block("amnet", main, context)]
        for name in main.list_commands(context):
            command = main.commands[name]
            with click.Context(command, parent=context, info_name=name, terminal_width=100) as own:
                parts.append(_block(f"amnet {name}", command, own))
    return "\n".join(parts)


def _block(title: str, command: click.Command, context: click.Context) -> str:
    return f"## {title}\n\n```\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    print(commands_markdown(), end="")
