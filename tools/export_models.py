"""Write the model code of the family notebooks to whichbackbone/models/.

The notebooks are the single source: all cells that begin with ``#| export`` go, in order, into the module of their
family. With ``--check`` nothing is written, and each module that differs from its notebook is named (exit code 1).
"""

import argparse
import sys
import warnings
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # nbdev's dependencies warn of each other
    from nbdev.export import nb_export, nb_mdoc
    from nbdev.maker import ModuleMaker

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("02_resnet", "03_mobilenet", "04_mnasnet", "05_efficientnet", "06_regnet", "07_resnest")


def render(notebook: Path) -> str:
    """Source of the module that ``notebook`` exports. ValueError if it cannot be read or marks no cell."""
    parts: list[str] = []

    class Maker(ModuleMaker):
        # nbdev's own text holds cell ids and relative paths, which change with every rebuild of a notebook.
        def __init__(self, **_):
            pass

        def make(self, cells, *_, **__):
            parts.extend(cell.source.strip() for cell in cells if cell.cell_type == "code")

    try:
        nb_export(str(notebook), lib_path=".", name=notebook.stem, mod_maker=Maker)
        summary = str(nb_mdoc(str(notebook))).strip()
    except (OSError, ValueError, KeyError, AttributeError) as problem:
        raise ValueError(f"{notebook} is not a readable notebook: {problem}") from None
    if not parts:
        raise ValueError(f"{notebook} exports nothing: begin a code cell with '#| export'")
    header = f"{summary}\n# Written by export from notebooks/{notebook.name}, do not edit.\n\n"
    return header + "\n\n\n".join(parts) + "\n"


def modules(root: Path) -> dict[Path, str]:
    """Path and source of each module, for the family notebooks that exist in this checkout."""
    notebooks = (root / "notebooks" / f"{name}.ipynb" for name in FAMILIES)
    target = root / "whichbackbone" / "models"
    return {target / f"{book.stem[3:]}.py": render(book) for book in notebooks if book.exists()}


def outdated(root: Path) -> list[str]:
    """One line for each module on disk that is not what its notebook would write."""
    return [
        f"{path.relative_to(root)} differs from its notebook: run tools/export_models.py"
        for path, source in modules(root).items()
        if not path.exists() or path.read_text(encoding="utf-8") != source
    ]


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Export, or with --check compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a module is out of date")
    try:
        if parser.parse_args(arguments).check:
            print(*(problems := outdated(root)), sep="\n", end="\n" if problems else "", file=sys.stderr)
            return int(bool(problems))
        for path, source in modules(root).items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
            print(f"wrote {path.relative_to(root)}")
    except ValueError as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
