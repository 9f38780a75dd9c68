"""The question bank: one file of ``data/questions/`` a notebook, from which the notebook's interview corner is made.

A file is a list of questions, in the order of the corner::

    - id: bottleneck                # a name that no other question of any file has
      level: 2                      # 1 easy, 2 medium, 3 hard
      topic: residual connections   # one of TOPICS
      kind: explain                 # one of KINDS
      question: |-
        Why a bottleneck, and why only from 50 layers on?
      answer: |-
        Two 3x3 on 256 channels would cost 17 times the bottleneck's three convolutions. ...
      evidence: 02#Build it         # an id of data/claims.yaml, a figure (02_cost), or notebook#heading
      numbers:                      # what a test computes: each number that the answer (or the question) states
        - text: 17 times            # as it stands there; a number is read from it, and holds to the digits printed
          expression: 2 * conv(256, 256).params / bottleneck

``value`` states a number that the text says in words (``a third``: 0.333), ``tolerance`` how far off it may be. An
expression that is true or false needs neither: it must be true. ``tests/answer_numbers.py`` says what it may
use, and computes it.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from whichbackbone import yaml_lines
from whichbackbone.folders import DATA, REPOSITORY

QUESTIONS = DATA / "questions"
LEVELS = (1, 2, 3)
KINDS = ("numeric", "choice", "explain", "bug", "design")
TOPICS = (
    "MAC arithmetic", "receptive field", "output size", "convolution algorithms", "pooling and equivariance",
    "lineage", "residual connections", "separable convolutions", "attention", "transformers", "batch norm", "scaling",
    "design spaces", "architecture search", "training recipe", "transfer", "dense tasks", "preprocessing",
    "compression", "memory", "benchmarking", "latency-driven choice", "experiments",
)  # fmt: skip
FIELDS = ("id", "level", "topic", "kind", "question", "answer", "evidence")
NUMBER_FIELDS = ("text", "expression")
INTRODUCTION = "Say your answer aloud before you follow the link; the answers stand at the end."


class QuestionsError(ValueError):
    """Something in the question bank is wrong; the message names file and line."""


@dataclass(frozen=True)
class Number:
    """A number that an answer states, and how to compute it; ``tolerance`` is absolute.

    ``value`` is None where the text holds no digit and the expression is a statement that must be true.
    """

    text: str
    expression: str
    value: float | None
    tolerance: float
    line: int


@dataclass(frozen=True)
class Question:
    """One question with its answer in Markdown, as it stands in the file; ``place`` is its file and line."""

    id: str
    level: int
    topic: str
    kind: str
    question: str
    answer: str
    evidence: str
    numbers: tuple[Number, ...]
    notebook: str
    place: str


def corner(number: str, folder: Path = QUESTIONS) -> str:
    """Write the questions of a notebook as a numbered list in Markdown, each with a link to its answer.

    Args:
        number: of the notebook, such as ``"02"``.
        folder: where the files of the bank are.

    Raises:
        QuestionsError: as :func:`load`.
    """
    lines = [INTRODUCTION, ""]
    for place, one in enumerate(load(number, folder), start=1):
        gap = "\n\n" if one.question.endswith("```") else " "  # nothing may follow the end of a listing on its line
        lines.append(f"{place}. " + _indented(f"{one.question}{gap}[→](#answer-{place})", 3))
    return "\n".join(lines)


def answers(number: str, folder: Path = QUESTIONS) -> str:
    """Write the answers of a notebook in Markdown, each with the anchor that its question links to.

    Arguments and errors as in :func:`corner`.
    """
    return "\n\n".join(
        f'<a id="answer-{place}"></a>**{place}.** {one.answer}'
        for place, one in enumerate(load(number, folder), start=1)
    )


def load(number: str, folder: Path = QUESTIONS) -> list[Question]:
    """Read the questions of one notebook, in the order of the file.

    Args:
        number: of the notebook, such as ``"02"``.
        folder: where the files of the bank are.

    Raises:
        QuestionsError: when there is no such file, or a question lacks a field, has one that nothing reads, an unknown
            level, kind or topic, the id of another one in the file, or a number that does not stand in its text.
    """
    path = folder / f"{number}.yaml"
    if not path.exists():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise QuestionsError(f"{path.name}: no questions for notebook {number!r}: there are {there or 'none'}")
    entries = yaml_lines.load(path, QuestionsError)
    if not isinstance(entries, list) or not entries:
        raise QuestionsError(f"{path.name}, line 1: not a list of questions")
    found = [_question(path, entry) for entry in entries]
    _unlike(found)
    return found


def load_all(folder: Path = QUESTIONS) -> list[Question]:
    """Read the whole bank, file by file, and check what concerns more than one file.

    Args:
        folder: where the files of the bank are.

    Raises:
        QuestionsError: as :func:`load`, and for an id that stands in two files, or evidence that does not exist.
    """
    found = [question for file in sorted(folder.glob("*.yaml")) for question in load(file.stem, folder)]
    _unlike(found)
    _check_evidence(found)
    return found


def _question(path: Path, entry: object) -> Question:
    """Make a question of one entry of a file, or say what is wrong with it."""
    if not isinstance(entry, yaml_lines.Located):
        raise QuestionsError(f"{path.name}: not a question, but {entry!r}")

    def fault(text: str, key: str = "") -> QuestionsError:
        return QuestionsError(f"{path.name}, line {entry.line_of(key)}: question {entry.get('id', '?')!r} {text}")

    if missing := [name for name in FIELDS if entry.get(name) in (None, "")]:
        raise fault(f"lacks {', '.join(missing)}: every question needs {', '.join(FIELDS)}")
    if unknown := [key for key in entry if key not in (*FIELDS, "numbers")]:
        raise fault(f"has {', '.join(map(str, unknown))}, which nothing reads", unknown[0])
    for name in FIELDS:
        if name != "level" and not isinstance(entry[name], str):
            raise fault(f"has {entry[name]!r} as its {name}, which is no text", name)
    if not re.fullmatch(r"[a-z0-9_]+", entry["id"]):
        raise fault("is not named by small letters, digits and _", "id")
    for name, known in (("level", LEVELS), ("kind", KINDS), ("topic", TOPICS)):
        if entry[name] not in known:
            raise fault(f"has the unknown {name} {entry[name]!r}: choose one of {', '.join(map(str, known))}", name)
    numbers = entry.get("numbers", [])
    if not isinstance(numbers, list) or not all(isinstance(number, yaml_lines.Located) for number in numbers):
        raise fault("has numbers that are no list of text and expression", "numbers")
    if entry["kind"] == "numeric" and not numbers:
        raise fault("is numeric and has no numbers that a test can compute")
    return Question(
        **{name: entry[name] for name in FIELDS}, notebook=path.stem, place=f"{path.name}, line {entry.line}",
        numbers=tuple(_number(number, entry, path) for number in numbers),
    )  # fmt: skip


def _number(given: yaml_lines.Located, entry: yaml_lines.Located, path: Path) -> Number:
    """Make a number of one entry of ``numbers``, its value and tolerance read from its text where they can be."""

    def wrong(text: str) -> QuestionsError:
        return QuestionsError(f"{path.name}, line {given.line}: question {entry['id']!r} {text}")

    if missing := [name for name in NUMBER_FIELDS if given.get(name) in (None, "")]:
        raise wrong(f"has a number without {' and '.join(missing)}")
    if bare := [name for name in NUMBER_FIELDS if not isinstance(given[name], str)]:
        raise wrong(f"has {given[bare[0]]!r} as the {bare[0]} of a number: put it in quotes")
    if unknown := set(given) - {*NUMBER_FIELDS, "value", "tolerance"}:
        raise wrong(f"has a number with {', '.join(sorted(unknown))}, which nothing reads")
    if given["text"] not in entry["answer"] and given["text"] not in entry["question"]:
        raise wrong(f"says {given['text']!r} neither in its answer nor in the question")
    for name in ("value", "tolerance"):
        if not isinstance(given.get(name, 0), int | float):
            raise wrong(f"has {given[name]!r} as a {name}, which is no number")
    printed, half = read_number(given["text"])
    if "value" in given:
        if printed is not None:
            raise wrong(f"states the value of {given['text']!r} twice: leave out value")
        printed = float(given["value"])
        if "tolerance" not in given:
            raise wrong(f"needs a tolerance for {given['text']!r}: words have no digits")
    return Number(given["text"], given["expression"], printed, float(given.get("tolerance", half)), given.line)


def read_number(text: str) -> tuple[float | None, float]:
    """Read the first number in a text, and half a unit of its last digit: how far off the truth may be.

    Args:
        text: such as ``"231 million"`` (231, 0.5), ``"73{,}728"`` (LaTeX), ``"1e-3"``; without a digit: (None, 0).
    """
    found = re.search(r"(-?(?:\d{1,3}(?:,\d{3})+|\d+))(\.\d+)?(e-?\d+)?", text.replace("{,}", ","))
    if not found:
        return None, 0.0
    whole, digits, power = (part or "" for part in found.groups())
    scale = float(f"1{power}") if power else 1.0
    return float(whole.replace(",", "") + digits) * scale, 0.5 * 10.0 ** -max(len(digits) - 1, 0) * scale


def _unlike(found: Iterable[Question]) -> None:
    """Raise for the first id that stands twice."""
    seen: dict[str, Question] = {}
    for one in found:
        if one.id in seen:
            raise QuestionsError(f"{one.place}: question {one.id!r} stands twice, also in {seen[one.id].place}")
        seen[one.id] = one


def _check_evidence(found: Iterable[Question]) -> None:
    """Raise for the first question whose evidence is no claim, figure or heading that exists."""
    claims = {claim["id"] for claim in yaml_lines.load(DATA / "claims.yaml", QuestionsError)}
    figures = {file.stem for file in (REPOSITORY / "figures").glob("*.png")}
    headings: dict[str, set[str]] = {}
    for one in found:
        notebook, mark, heading = one.evidence.partition("#")
        if mark:
            if notebook not in headings:
                headings[notebook] = _headings(notebook)
            if heading not in headings[notebook]:
                raise QuestionsError(f"{one.place}: question {one.id!r} rests on a section {heading!r} that notebook "
                                     f"{notebook} does not have")  # fmt: skip
        elif one.evidence not in claims | figures:
            raise QuestionsError(f"{one.place}: question {one.id!r} rests on {one.evidence!r}, which is no claim of "
                                 "claims.yaml, no figure, and no notebook#heading")  # fmt: skip


def _headings(notebook: str) -> set[str]:
    """Collect the headings of a notebook, given by its number; none where there is no such notebook."""
    found = set()
    for file in (REPOSITORY / "notebooks").glob(f"{notebook}_*.ipynb"):
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "markdown":
                found |= set(re.findall(r"^#+ +(.+?) *$", "".join(cell["source"]), re.MULTILINE))
    return found


def _indented(text: str, by: int) -> str:
    """Indent all lines but the first, so that they belong to an item of a list."""
    return text.replace("\n", "\n" + " " * by).replace(" " * by + "\n", "\n")
