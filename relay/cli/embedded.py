"""Setup: `relay embedded up|down|env`: a PostgreSQL and a Kafka for development, no Docker."""

import asyncio
import json
import shlex
from pathlib import Path

import click

from relay.cli.output import own_settings
from relay.embedded import persistent
from relay.embedded.folders import lasting_folder
from relay.kafka.topic_creation import make_topics
from relay.runtime.flows import every_topic
from relay.runtime.kafka_connection import KafkaConnection

_PARTITIONS = 6

_FOLDER = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where the servers live (default: the user's state folder).",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")


@click.group("embedded", short_help="Embedded PostgreSQL and Kafka: up, down, env.")
def embedded() -> None:
    """Run a real PostgreSQL and a real Kafka in a folder of their own, without Docker.

    For development: they listen on the loopback interface only, and Kafka asks for no password.
    """


@embedded.command("up")
@_FOLDER
@click.option(
    "--postgres-port",
    type=click.IntRange(1, 65535),
    help="Port to listen on (default: a free one).",
)
@click.option(
    "--kafka-port", type=click.IntRange(1, 65535), help="Port to listen on (default: a free one)."
)
@_JSON
@click.pass_context
def up(
    ctx: click.Context,
    folder: Path | None,
    postgres_port: int | None,
    kafka_port: int | None,
    as_json: bool,
) -> None:
    """Start both, wait until they answer, and print their settings; once up, only print.

    The flow's topics are made where they are missing. To use the servers in this shell:
    eval "$(relay embedded up)"
    """
    folder = folder or lasting_folder()
    addresses = persistent.up(
        folder, postgres_port=postgres_port, kafka_port=kafka_port, report=_progress
    )
    flows = own_settings(ctx).every_flow
    topics = [*every_topic(flows), *(flow.returns_topic for flow in flows)]
    kafka = KafkaConnection(addresses.kafka_bootstrap_servers)
    asyncio.run(make_topics(kafka, topics, partitions=_PARTITIONS))
    _progress(f"PostgreSQL and Kafka are up in {folder}; `relay embedded down` stops them")
    _print(addresses, as_json=as_json or bool(ctx.find_root().params.get("as_json")))


@embedded.command("down")
@_FOLDER
@click.option("--delete", is_flag=True, help="Delete their data, too.")
def down(folder: Path | None, delete: bool) -> None:
    """Stop both; their data stays for the next `up` unless --delete is given."""
    folder = folder or lasting_folder()
    was_running = persistent.down(folder, delete=delete)
    _progress(f"stopped in {folder}" if was_running else f"nothing was running in {folder}")
    if delete:
        _progress("data removed")


@embedded.command("env")
@_FOLDER
@_JSON
@click.pass_context
def env(ctx: click.Context, folder: Path | None, as_json: bool) -> None:
    """Print the settings that lead to them, as lines for a shell."""
    addresses = persistent.running(folder or lasting_folder())
    _print(addresses, as_json=as_json or bool(ctx.find_root().params.get("as_json")))


def _print(addresses: persistent.Addresses, *, as_json: bool) -> None:
    environment = addresses.environment()
    if as_json:
        click.echo(json.dumps(environment))
        return
    for name, text in environment.items():
        click.echo(f"export {name}={shlex.quote(text)}")


def _progress(text: str) -> None:
    click.echo(text, err=True)


command = embedded
