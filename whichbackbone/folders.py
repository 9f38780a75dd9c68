"""Where things stand: the repository, its data, and the folder for what can be computed again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY / "data"


def cache_folder() -> Path:
    """Folder for what can be computed again.

    $WHICHBACKBONE_CACHE if set; data/cache in a checkout of the repository; the user's cache directory otherwise.
    """
    if given := os.environ.get("WHICHBACKBONE_CACHE"):
        return Path(given)
    if (REPOSITORY / "pyproject.toml").exists():
        return DATA / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "which-backbone"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a folder for this run: two at once would spoil each other's timings and files.

    Raises ``OSError`` when the folder cannot be written, ``RuntimeError`` when another run holds it.
    """
    import fcntl  # Unix only, as run_all.sh is; the rest of the package is not

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(f"another run writes to {folder}: wait for it, or use another --output") from None
        yield
