"""A library that is not installed says what to install, where it is used and not before."""

import sys

import pytest

from whichbackbone.experiments import search, sweep
from whichbackbone.optional import needs


def test_names_the_package_that_pip_installs():
    says = "^some-library is not installed: pip install some-library$"
    with pytest.raises(ModuleNotFoundError, match=says), needs("some-library", "some_library"):
        import some_library.part  # noqa: F401


def test_a_library_that_lacks_a_part_of_its_own_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("import a_missing_part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_missing_part'"), needs("broken_library"):
        import broken_library  # noqa: F401


def double(x: int, seed: int) -> dict[str, int]:
    return dict(y=2 * x)


def test_a_sweep_without_dask_runs_in_this_process(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert sweep.run(double, [dict(x=1)], workers=0, progress=False).y.tolist() == [2]
    with pytest.raises(ModuleNotFoundError, match=r"^dask\[distributed\] is not installed: pip install dask\[distrib"):
        sweep.run(double, [dict(x=1)], workers=1, progress=False)


def test_a_search_without_optuna_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert search.size(dict(a=(1, 2))) == 2
    with pytest.raises(ModuleNotFoundError, match="^optuna is not installed: pip install optuna$"):
        search.run(dict(a=(1, 2)), lambda batch: [0] * len(batch), dict(c=lambda _: 1.0), seeds=[0], generations=1)
