"""Commands to copy: an id is never an option and never an incident."""

import shlex

import click
import pytest
from click.testing import CliRunner

from relay.runtime.command_line import command, incident_number


@pytest.mark.parametrize(
    ("template", "order", "expected"),
    [
        ("relay diagnose {order}", "a", "relay diagnose a"),
        ("relay diagnose {order}", "--help", "relay diagnose -- --help"),
        (
            "relay diagnose {order} --scan-seconds 600",
            "-x",
            "relay diagnose --scan-seconds 600 -- -x",
        ),
        ("relay replay --order {order} --again", "--help", "relay replay --order=--help --again"),
        ("relay replay --order {order} --again", "a b", "relay replay --order 'a b' --again"),
        ("relay trace {order}", "$(reboot); {twin}", "relay trace '$(reboot); {twin}'"),
        ("relay close {order} --reason R", "I-1", "relay close --order I-1 --reason R"),
        ("relay close {order} --reason R", "17", "relay close 17 --reason R"),
        ("relay incidents", "a", "relay incidents"),
    ],
)
def test_an_id_is_put_in_as_one_word(template: str, order: str, expected: str) -> None:
    assert command(template, order=order, twin="t") == expected


@pytest.mark.parametrize("order", ["--help", "-", "--", "-x y", "--order=z", "'", "I-7", "a'b"])
@pytest.mark.parametrize("words", ["{order} --much", "--order {order} --much"])
def test_a_shell_and_the_parser_read_back_the_same_id(words: str, order: str) -> None:
    @click.command()
    @click.argument("orders", nargs=-1)
    @click.option("--order", multiple=True)
    @click.option("--much", is_flag=True)
    def seek(orders: tuple[str, ...], order: tuple[str, ...], much: bool) -> None:
        click.echo(repr((orders + order, much)))

    given = shlex.split(command(f"relay seek {words}", order=order))[2:]
    assert CliRunner().invoke(seek, given).output == repr(((order,), True)) + "\n"


def test_what_is_written_like_an_incident() -> None:
    assert [incident_number(text) for text in ("I-17", "i-3", "17", "I-", "I-x")] == [
        17, 3, None, None, None,
    ]  # fmt: skip
