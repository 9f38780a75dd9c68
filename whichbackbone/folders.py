"""Where things stand: the repository, its data, and the folder for what can be computed again."""

import os
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
