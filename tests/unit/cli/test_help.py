"""Every command and every option says what it does, in a sentence."""

from collections.abc import Iterator

import click
import pytest

from relay.cli import root


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Walk down from a command."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, name
            yield from commands(below, f"{path} {name}")


ALL = dict(commands(root, "relay"))


@pytest.mark.parametrize("path", ALL)
def test_a_command_and_its_options_are_explained(path: str) -> None:
    command = ALL[path]
    assert command.help, path
    assert command.help[0].isupper()
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, option.opts
            assert option.help[0].isupper(), option.help
            assert option.help.endswith("."), option.help
            assert len(option.help.split()) > 1, option.help
