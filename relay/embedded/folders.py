"""Where the embedded servers keep their files: caches, lasting folders, folders for one run.

Invariant: a folder for one run is never left behind: it goes with its owner, with the owner's
guards if the owner is killed, and at the latest with the next run.
"""

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from relay.embedded.errors import FolderError, NoDiskSpaceError

# Measured: a new PostgreSQL and a new broker take 120 MB; the rest is room for a demo's data.
NEEDED_BYTES = 400_000_000

_RUN_PREFIX = "outbox-relay-"
_OWNER = "owner.lock"
_YOUNG_SECONDS = 60.0


def server_account() -> tuple[int, int] | None:
    """Return whom PostgreSQL runs as: None is this user; it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise FolderError(
            "PostgreSQL does not run as root, and there is no user `nobody` to run it as: "
            "start it as another user"
        ) from error
    return nobody.pw_uid, nobody.pw_gid


def cache_folder() -> Path:
    """Return the user's cache folder for this project, made if needed."""
    return _writable(_xdg("XDG_CACHE_HOME", ".cache"))


def shared_cache_folder() -> Path:
    """Return a cache folder that the account PostgreSQL runs as can reach, too."""
    return _reachable([_xdg("XDG_CACHE_HOME", ".cache"), Path("/var/cache/outbox-relay")])


def lasting_folder() -> Path:
    """Return where `relay embedded up` keeps its servers unless told otherwise."""
    candidates = [_xdg("XDG_STATE_HOME", ".local/state"), Path("/var/lib/outbox-relay")]
    return _reachable(candidates) / "embedded"


def _xdg(variable: str, fallback: str) -> Path:
    chosen = os.environ.get(variable, "")
    # The specification says that a relative path is to be ignored.
    parent = Path(chosen) if chosen.startswith("/") else Path.home() / fallback
    return parent / "outbox-relay"


def _reachable(candidates: list[Path]) -> Path:
    if server_account() is None:
        return _writable(candidates[0])
    for folder in candidates:
        if can_be_reached(folder.parent):
            _writable(folder).chmod(0o755)  # whatever the umask
            return folder
    raise FolderError(f"none of these can be reached by every user: {candidates}")


def can_be_reached(folder: Path) -> bool:
    """Return whether an account with no special rights can pass through every parent."""
    existing = [parent for parent in (folder, *folder.parents) if parent.exists()]
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in existing)


def _writable(folder: Path) -> Path:
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder


def prepare(folder: Path) -> Path:
    """Make a folder that PostgreSQL's account can reach, with room for a server's data.

    Raises:
        FolderError: it cannot be made, written to, or reached.
        NoDiskSpaceError: its disk has less room than a server needs.
    """
    folder = _writable(folder.absolute())
    require_own(folder)
    if server_account() is not None:
        if not can_be_reached(folder.parent):
            raise FolderError(
                f"{folder} cannot be reached by the user `nobody`, as whom PostgreSQL must run "
                "when root starts it: choose a folder outside of root's home"
            )
        folder.chmod(0o711)
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise NoDiskSpaceError(
            f"{folder}: {free / 1e6:.0f} MB free, {NEEDED_BYTES / 1e6:.0f} MB needed; "
            "make room or choose another folder"
        )
    return folder


def require_own(folder: Path) -> None:
    """Refuse a folder in which somebody else could have put files for us to obey or to write over.

    Raises:
        FolderError: it belongs to another user, or everybody may write to it.
    """
    with disk_errors(folder):
        status = folder.stat()
    if status.st_uid != os.geteuid():
        raise FolderError(f"{folder} belongs to another user: choose a folder of your own")
    if status.st_mode & stat.S_IWOTH:
        raise FolderError(
            f"{folder} can be written to by every user: `chmod o-w` it, or choose another"
        )


def open_own(path: Path, *, create: bool = False) -> IO[str]:
    """Open a file of ours to read and write, as it is: no link is followed, nothing is cut off.

    Raises:
        FileNotFoundError: it is not there, and is not to be made.
        FolderError: it is a link, no plain file, or another user's.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        held = os.open(path, flags | (os.O_CREAT if create else 0), 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.EISDIR, errno.ENXIO):
            raise FolderError(f"{path} is a link, or no plain file: it is not ours") from error
        raise
    status = os.fstat(held)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(held)
        raise FolderError(f"{path} belongs to another user, or is no plain file")
    return os.fdopen(held, "r+", encoding="utf-8")


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what the operating system says of a folder into errors that say what to do.

    Raises:
        NoDiskSpaceError: the disk or the quota is used up.
        FolderError: anything else.
    """
    try:
        yield
    except OSError as error:
        raise folder_error(error, folder) from error


def folder_error(error: OSError, folder: Path) -> FolderError | NoDiskSpaceError:
    """Return the typed error for what the operating system said of a folder."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoDiskSpaceError(f"{folder}: {error.strerror}; make room there")
    return FolderError(
        f"{folder}: {error.strerror or error}; choose a folder that this user can write to"
    )


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """Give a folder for one run; it is removed at the end, and by the next run if this one dies."""
    parent = _temporary_parent()
    _remove_abandoned(parent)
    with disk_errors(parent):
        folder = Path(tempfile.mkdtemp(prefix=_RUN_PREFIX, dir=parent))
        if server_account() is not None:
            folder.chmod(0o711)  # others pass through it and cannot list it
    try:
        with (folder / _OWNER).open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _temporary_parent() -> Path:
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108
    if server_account() is None:
        return candidates[0]
    return next((folder for folder in candidates if can_be_reached(folder)), candidates[0])


def _remove_abandoned(parent: Path) -> None:
    """Remove folders of runs that were killed. A live run holds the lock in its folder."""
    for folder in parent.glob(f"{_RUN_PREFIX}*"):
        with contextlib.suppress(OSError):
            status = folder.lstat()
            young = time.time() - status.st_mtime < _YOUNG_SECONDS
            if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode) or young:
                continue
            with (folder / _OWNER).open("r") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[IO[str]]:
    """Hold an inter-process lock; the kernel releases it however this process ends."""
    with disk_errors(path.parent):
        held = open_own(path, create=True)
    with held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield held
