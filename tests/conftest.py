"""Order of the tests, and the fixtures that several files share."""

import sys
from pathlib import Path

import pytest
from project import ROOT, Project

sys.path.insert(0, str(ROOT / "tools"))

# What fails fast runs first. Files not named here hold unit tests and run before these.
LAST = ("test_readme", "test_repository", "test_house", "test_notebooks", "test_parity", "test_commands", "test_lab",
        "test_smoke")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests, then checks of committed files, then parity, then commands, then JupyterLab, then all notebooks."""
    items.sort(key=lambda item: LAST.index(item.path.stem) if item.path.stem in LAST else -1)


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """A project as it is after ``git clone``: without an environment."""
    return Project(tmp_path / "project")


@pytest.fixture
def project(bare: Project) -> Project:
    """A project whose environment is ready."""
    return bare.make_ready()
