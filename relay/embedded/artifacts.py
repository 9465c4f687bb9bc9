"""Kafka's own files: the broker's jars from a Maven repository, kept in the user's cache.

Invariant: a folder of jars that has its final name is whole: every file has the size and SHA-256
that `kafka.lock` names, checked before a rename gives the folder that name, and again by each
process that uses it (0.3 s): files that were changed since are fetched anew. An interrupted
download leaves nothing that a later run would use; two runs at once fetch once.

jgo does the downloading, without Maven. It does not resolve here: `kafka.lock` is its resolution,
made by `make lock` and committed, so that everybody runs the same files.
"""

import functools
import hashlib
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from relay.embedded.errors import (
    EmbeddedError,
    NotInstalledError,
    RegistryUnreachableError,
    WrongArtifactError,
)
from relay.embedded.folders import cache_folder, disk_errors, folder_error, one_at_a_time
from relay.embedded.server import Report, silent

_LOCK = Path(__file__).with_name("kafka.lock")
_DOWNLOADS_AT_ONCE = 8
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of `kafka.lock`: a Maven coordinate and what its file must be."""

    group: str
    artifact: str
    version: str
    sha256: str
    size_bytes: int

    @property
    def filename(self) -> str:
        """Return the file's name in a Maven repository and in our folder."""
        return f"{self.artifact}-{self.version}.jar"


def locked_jars(lock: str) -> list[Jar]:
    """Return the jars that the text of a lock file names."""
    jars = []
    for line in lock.splitlines():
        if line and not line.startswith("#"):
            coordinate, sha256, size_bytes = line.split()
            group, artifact, version = coordinate.split(":")
            jars.append(Jar(group, artifact, version, sha256, int(size_bytes)))
    return jars


def kafka_jars(report: Report = silent, lock_file: Path | None = None) -> Path:
    """Return the folder with the broker's jars, fetching them first if they are not cached.

    Args:
        report: told when files are fetched.
        lock_file: another release's lock; by default `kafka.lock`.

    Raises:
        RegistryUnreachableError: they are not cached and no Maven repository answers.
        WrongArtifactError: a repository sent a file that is not the locked one.
        NoDiskSpaceError: the cache's disk is full.
        FolderError: the cache cannot be written to.
        NotInstalledError: the extra `demo` is not installed.
    """
    return locked_files(lock_file or _LOCK, "kafka", report)


def locked_files(lock_file: Path, name: str, report: Report = silent) -> Path:
    """Return the folder with the files of a lock, fetching them first if they are not cached.

    Args:
        lock_file: lines of `group:artifact:version SHA-256 size`.
        name: what they are; the folder's name begins with it.
        report: told when files are fetched.

    Raises:
        EmbeddedError: see `kafka_jars`.
    """
    lock = lock_file.read_text(encoding="ascii")
    jars = locked_jars(lock)
    cache = cache_folder()
    folder = cache / f"{name}-{hashlib.sha256(lock.encode()).hexdigest()[:12]}"
    if _is_whole(folder, jars):
        return folder
    with one_at_a_time(cache / f"{name}-jars.lock"):
        if not _is_whole(folder, jars):
            _fetch(jars, folder, name, report)
    return folder


def _is_whole(folder: Path, jars: Iterable[Jar]) -> bool:
    """Return whether every jar is there as it was locked, and nothing beside them is."""
    wanted = {jar.filename: jar for jar in jars}
    try:
        if {path.name for path in folder.iterdir()} != wanted.keys():
            return False
        return all(
            (status := (folder / name).stat()).st_size == jar.size_bytes
            and _sha256(folder / name, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            == jar.sha256
            for name, jar in wanted.items()
        )
    except OSError:
        return False


@functools.cache
def _sha256(path: Path, _size: int, _modified: int, _changed: int) -> str:
    """Return a file's digest, read once for as long as its times say that it is the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(jars: list[Jar], folder: Path, name: str, report: Report) -> None:
    total = sum(jar.size_bytes for jar in jars) / 1e6
    report(f"fetching {name} ({len(jars)} files, {total:.0f} MB, once)")
    unfinished = folder.with_name(f"{name}.unfinished")
    with disk_errors(folder.parent):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
    try:
        _download(jars, unfinished)
        with disk_errors(folder.parent):
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _download(jars: list[Jar], target: Path) -> None:
    try:
        from jgo.config import GlobalSettings  # noqa: PLC0415 - an extra, and slow to import
        from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415
        from jgo.maven import MavenContext  # noqa: PLC0415
    except ImportError as error:
        raise NotInstalledError(
            "jgo is not installed: pip install 'outbox-relay[demo]', "
            "or set KAFKA_BOOTSTRAP_SERVERS to a broker of your own"
        ) from error
    repository = target / "repository"
    # The user's own repositories first: a mirror is there because the public one is not reachable.
    addresses = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    context = MavenContext(repo_cache=repository, remote_repos=addresses, timeout=_TIMEOUT_SECONDS)

    def fetch(jar: Jar) -> None:
        component = context.project(jar.group, jar.artifact).at_version(jar.version)
        _keep_if_right(Path(component.artifact().resolve()), jar, target)

    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        try:
            list(pool.map(fetch, jars))
        except (OSError, RuntimeError) as error:
            pool.shutdown(cancel_futures=True)
            raise _explained(error, target) from error
    shutil.rmtree(repository)


def _keep_if_right(downloaded: Path, jar: Jar, target: Path) -> None:
    content = downloaded.read_bytes()
    if hashlib.sha256(content).hexdigest() != jar.sha256:
        raise WrongArtifactError(
            f"{jar.group}:{jar.artifact}:{jar.version} from the Maven repository is not the file "
            "that was locked: check the mirror, then try again"
        )
    downloaded.rename(target / jar.filename)


def _explained(error: OSError | RuntimeError, target: Path) -> EmbeddedError:
    """Return what a failed download means. Errors of requests are OSErrors without a number."""
    if isinstance(error, OSError) and error.errno is not None:
        return folder_error(error, target.parent)
    return RegistryUnreachableError(
        f"Kafka is not in the cache yet and cannot be fetched: {error}. "
        "Try again with the network, name a mirror under [repositories] in jgo.conf, "
        "or set KAFKA_BOOTSTRAP_SERVERS to a broker of your own"
    )
