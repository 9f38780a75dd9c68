"""Every notebook runs in the smoke profile, from ``run_all.sh`` to its last figure."""

from pathlib import Path

import notebook_files as files
import pytest
from project import ROOT, call
from test_repository import committed

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, bool]:
    """One run of all notebooks: its folder, what it said, and whether the repository was left as it was."""
    output = tmp_path_factory.mktemp("smoke") / "output"
    before = {path: path.stat().st_mtime_ns for path in committed(ROOT)}
    done = call(ROOT / "run_all.sh", "--profile", "smoke", "--output", output, timeout=3000)
    untouched = before == {path: path.stat().st_mtime_ns for path in committed(ROOT)}
    return output, done.stdout + done.stderr, untouched


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_in_the_smoke_profile(path, smoke):
    output, said, _ = smoke
    state = output / "state" / f"{path.stem}.json"
    assert state.exists(), said
    for name in files.declared_figures(files.read(path)):
        assert (output / "figures" / f"{name}.png").stat().st_size > 1000


def test_the_smoke_profile_leaves_the_repository_alone(smoke):
    _, said, untouched = smoke
    assert untouched, said
