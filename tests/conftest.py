"""Order of the tests, and the fixtures that several files share."""

import os
import sys
from pathlib import Path

import pytest
from project import ROOT, Project

sys.path.insert(0, str(ROOT / "tools"))

# What fails fast runs first. Files not named here hold unit tests and run before these.
LAST = ("test_readme", "test_repository", "test_house", "test_notebooks", "test_families", "test_commands", "test_lab")


def pytest_configure() -> None:
    """Give each worker cores of its own: two that share all cores, with threads on each, take longer than one after
    the other."""
    number = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if number and hasattr(os, "sched_setaffinity"):
        mine = sorted(os.sched_getaffinity(0))[int(number) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
        if mine:
            os.sched_setaffinity(0, mine)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All notebooks, which takes as long as the rest, beside unit tests, committed files, parity, commands."""

    def place(item: pytest.Item) -> tuple[bool, int]:
        name = item.path.stem
        return name != "test_smoke", LAST.index(name) if name in LAST else -1

    items.sort(key=place)


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """A project as it is after ``git clone``: without an environment."""
    return Project(tmp_path / "project")


@pytest.fixture
def project(bare: Project) -> Project:
    """A project whose environment is ready."""
    return bare.make_ready()
