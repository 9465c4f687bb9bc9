"""Setup: `relay completion bash|zsh|fish`: makes the shell complete our commands."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    r"""Print the completion script for a shell.

    \b
    bash: eval "$(relay completion bash)" in ~/.bashrc
    zsh:  eval "$(relay completion zsh)" in ~/.zshrc
    fish: relay completion fish > ~/.config/fish/completions/relay.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(ctx.find_root().command, {}, "relay", "_RELAY_COMPLETE").source())
