"""Disks that can be filled: a file system in memory for each server, seen by this run alone.

The run starts itself again in a mount namespace of its own: nobody else sees what it mounts, and
all of it is gone with its last process, however that ends. Root may do so; others may where the
kernel lets them have a user namespace.
"""

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# More than a server refuses to start without (`relay.embedded.folders.NEEDED_BYTES`).
SIZE_BYTES = 600_000_000
_INSIDE = "FAULTS_OWN_MOUNTS"
_PIECE_BYTES = 4_194_304


class NoOwnMountsError(Exception):
    """This user may not mount anything here."""


def enter_own_mounts(arguments: Sequence[str]) -> None:
    """Start `python -m tests.faults ARGUMENTS` again where it may mount; returns if it may already.

    Raises:
        NoOwnMountsError: the kernel does not let this user.
    """
    if os.environ.get(_INSIDE):
        return
    namespace = ["unshare", "--mount"]
    if os.geteuid() != 0:
        namespace += ["--user", "--map-current-user", "--keep-caps"]
    tried = subprocess.run([*namespace, "true"], check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        raise NoOwnMountsError(f"`{' '.join(namespace)}`: {tried.stderr.strip()}")
    command = [*namespace, sys.executable, "-m", "tests.faults", *arguments]
    os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})


@dataclass(frozen=True)
class SmallDisk:
    """A file system that can be filled to the last byte."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            size = _PIECE_BYTES
            while size:
                try:
                    # A write that does not fit is cut short; the next one fails.
                    file.write(bytes(size))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    size //= 2

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mount one at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={SIZE_BYTES},mode=711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield SmallDisk(folder)
    finally:
        # Where a dying server still holds it: with the namespace, at the latest.
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "--lazy", folder], check=True)
