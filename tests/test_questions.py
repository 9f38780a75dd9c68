"""The question bank: every file loads, every number is computed, every evidence exists; planted faults are named."""

import re
import subprocess
import sys

import answer_numbers as numbers
import pytest
from project import ROOT

from whichbackbone.teach import questions
from whichbackbone.teach.questions import QuestionsError

NOTEBOOKS = sorted(file.stem for file in questions.QUESTIONS.glob("*.yaml"))
BANK = [one for notebook in NOTEBOOKS for one in questions.load(notebook)]
GOOD = """\
- id: bottleneck
  level: 2
  topic: residual connections
  kind: numeric
  question: |-
    Why a bottleneck?
  answer: |-
    Two 3x3 would cost 17 times as much.
    It has a third of the layers.
  evidence: 02_cost
  numbers:
    - text: 17 times
      expression: 2 * 9 * 256**2 / (2 * 256 * 64 + 9 * 64**2)
    - text: a third
      expression: 1 / 3
      value: 0.333
      tolerance: 0.001
    - text: more layers
      expression: 3 > 2
- id: other
  level: 1
  topic: lineage
  kind: design
  question: "More?"
  answer: "No, and more layers."
  evidence: skips_let_nets_go_deep
""".replace("It has", "It has more layers, and")


@pytest.fixture
def bank(tmp_path):
    """Write a bank of two files, one of them with a text replaced."""

    def write(old: str = "", new: str = ""):
        assert old in GOOD
        (tmp_path / "02.yaml").write_text(GOOD.replace(old, new, 1) if old else GOOD, encoding="utf-8")
        return tmp_path

    return write


# ------------------------------------------------------------------------------------------------------- the real bank


def test_the_bank_holds_what_the_notebooks_asked():
    assert len(BANK) >= 112 and NOTEBOOKS[:9] == [f"{n:02}" for n in range(1, 10)] and "14" in NOTEBOOKS
    counts = {n: sum(one.notebook == n for one in BANK) for n in NOTEBOOKS}
    assert all(count >= 8 for count in counts.values()), counts
    assert len({one.id for one in BANK}) == len(BANK)
    assert len({one.question for one in BANK}) == len(BANK)


def test_every_evidence_exists_and_no_id_stands_twice():
    assert questions.load_all() == BANK


def test_many_questions_state_a_number_that_is_computed():
    assert sum(bool(one.numbers) for one in BANK) >= 45


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_number_is_what_its_expression_gives(notebook):
    for one in BANK:
        if one.notebook == notebook:
            numbers.check(one)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_question_links_to_its_own_answer(notebook):
    asked, answered = questions.corner(notebook), questions.answers(notebook)
    own = [one for one in BANK if one.notebook == notebook]
    links = re.findall(r"^(\d+)\. .*?\[→\]\(#answer-(\d+)\)$", asked, re.MULTILINE | re.DOTALL)
    anchors = re.findall(r'^<a id="answer-(\d+)"></a>\*\*(\d+)\.\*\* ', answered, re.MULTILINE)
    assert links == anchors == [(str(n), str(n)) for n in range(1, len(own) + 1)]
    for one in own:
        assert one.question.splitlines()[0] in asked and one.answer in answered


def test_the_questions_do_not_hold_their_answers():
    assert not any(one.answer in questions.corner(one.notebook) for one in BANK)


def test_an_undecided_experiment_is_not_called_unimportant():
    (answer,) = [one.answer for one in BANK if one.id == "show_that_it_scales"]
    assert "do not tell" in answer and "does not matter" not in answer


def test_reading_needs_no_torch_and_no_plotting():
    code = ("import sys; from whichbackbone.teach import questions; questions.corner('02'); "
            "print(*{'torch', 'timm', 'matplotlib', 'pandas'} & set(sys.modules))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


# -------------------------------------------------------------------------------------------------------------- loading


def test_a_good_file_is_read_as_it_stands(bank):
    first, second = questions.load_all(bank())
    assert (first.id, first.level, first.kind, first.notebook) == ("bottleneck", 2, "numeric", "02")
    assert first.answer == "Two 3x3 would cost 17 times as much.\nIt has more layers, and a third of the layers."
    assert first.place == "02.yaml, line 1" and second.place == "02.yaml, line 20" and second.numbers == ()
    assert [(n.text, n.value, n.tolerance, n.line) for n in first.numbers] == [
        ("17 times", 17, 0.5, 12), ("a third", 0.333, 0.001, 14), ("more layers", None, 0, 18)]  # fmt: skip
    numbers.check(first)


@pytest.mark.parametrize(
    ("text", "number", "half"),
    [
        ("231 million", 231, 0.5),
        ("73{,}728 weights", 73728, 0.5),
        ("1,234,567.5", 1234567.5, 0.05),
        ("is 5.76 at", 5.76, 0.005),
        ("(1e-3)", 0.001, 0.0005),
        ("-0.07", -0.07, 0.005),
        ("x4, and 5", 4, 0.5),
        ("in 2020, 3 nets", 2020, 0.5),
        ("about half", None, 0),
    ],
)
def test_numbers_are_read_with_their_digits(text, number, half):
    assert questions.read_number(text) == (number, pytest.approx(half))


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("  level: 2\n", "", 1, "question 'bottleneck' lacks level: every question needs id, level"),
        ("- id: bottleneck\n  level", "- level", 1, r"question '\?' lacks id"),
        ('  answer: "No, and more layers."\n', '  answer: ""\n', 20, "question 'other' lacks answer"),
        ("level: 2", "level: 4", 2, "has the unknown level 4: choose one of 1, 2, 3"),
        ("kind: design", "kind: essay", 23, "has the unknown kind 'essay': choose one of numeric, choice, explain"),
        ("lineage", "linage", 22, "has the unknown topic 'linage': choose one of MAC arithmetic, receptive field"),
        ("id: other", "id: bottleneck", 20, "'bottleneck' stands twice, also in 02.yaml, line 1"),
        ("id: other", "id: An other", 20, "is not named by small letters, digits and _"),
        ('question: "More?"', "question: 2020", 24, "has 2020 as its question, which is no text"),
        ("  evidence: 02_cost", "  evidnce: 02_cost", 1, "lacks evidence"),
        ("  evidence: 02_cost", "  evidence: 02_cost\n  points: 3", 11, "has points, which nothing reads"),
        ("  kind: design", "  kind: numeric", 20, "is numeric and has no numbers that a test can compute"),
        ("text: 17 times", "text: 18 times", 12, "says '18 times' neither in its answer nor in the question"),
        ("      expression: 1 / 3\n", "", 14, "has a number without expression"),
        ("value: 0.333", "value: a third", 14, "has 'a third' as a value, which is no number"),
        ("      tolerance: 0.001\n", "", 14, "needs a tolerance for 'a third'"),
        ("text: a third", "text: 17 times", 14, "states the value of '17 times' twice"),
        ("tolerance: 0.001", "tolerence: 0.001", 14, "has a number with tolerence, which nothing reads"),
        ("  level: 2", "  level: 2\n  level: 2", 3, "not YAML: 'level' stands twice"),
        ("text: 17 times", "text: 17", 12, "has 17 as the text of a number: put it in quotes"),
        ("topic: lineage", "topic: [lineage", 23, "not YAML"),
    ],
)
def test_a_fault_is_named_with_file_and_line(bank, old, new, line, said):
    with pytest.raises(QuestionsError, match=f"^02.yaml, line {line}: .*{said}") as caught:
        questions.load("02", bank(old, new))
    assert "\n" not in str(caught.value)


def test_an_id_that_stands_in_two_files(bank):
    folder = bank()
    (folder / "03.yaml").write_text(GOOD.replace("id: other", "id: another"), encoding="utf-8")
    said = "^03.yaml, line 1: question 'bottleneck' stands twice, also in 02.yaml, line 1$"
    with pytest.raises(QuestionsError, match=said):
        questions.load_all(folder)


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ("02_costs", "rests on '02_costs', which is no claim of claims.yaml, no figure, and no notebook#heading"),
        ("no_such_claim", "rests on 'no_such_claim', which is no claim"),
        ("02#Built it", "rests on a section 'Built it' that notebook 02 does not have"),
        ("99#Build it", "rests on a section 'Build it' that notebook 99 does not have"),
    ],
)
def test_evidence_that_does_not_exist(bank, evidence, said):
    with pytest.raises(QuestionsError, match=f"^02.yaml, line 1: question 'bottleneck' {said}"):
        questions.load_all(bank("evidence: 02_cost", f"evidence: {evidence}"))


def test_files_that_are_no_bank(tmp_path):
    with pytest.raises(QuestionsError, match="11.yaml: no questions for notebook '11': there are none"):
        questions.corner("11", tmp_path)
    with pytest.raises(QuestionsError, match="no questions for notebook '11': there are 01, 02, 03"):
        questions.answers("11")
    for text, said in (("", "01.yaml, line 1: not a list"), ("a: 1", "01.yaml, line 1: not a list"), ("- a", "'a'")):
        (tmp_path / "01.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(QuestionsError, match=said):
            questions.load("01", tmp_path)


# -------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("17 times", "19 times", 12, "says '19 times', and 2 .* is 16.9412"),
        ("1 / 3", "1 / 4", 14, "says 'a third', and 1 / 4 is 0.25"),
        ("3 > 2", "2 > 3", 18, "says 'more layers', and 2 > 3 is not true"),
        ("3 > 2", "2 + 1", 18, "says 'more layers', which has no digit: give it a value and a tolerance"),
        ("1 / 3", "1 / 0", 14, "1 / 0: ZeroDivisionError: division by zero"),
        ("1 / 3", "params('resnet5')", 14, "RuntimeError: Unknown model"),
        ("1 / 3", "float('nan')", 14, "is nan"),
        ("1 / 3", "1 /", 14, "SyntaxError"),
    ],
)
def test_a_wrong_number_is_named_with_file_and_line(bank, old, new, line, said):
    folder = bank(old, new)
    if old == "17 times":  # the answer says so, and so does the number
        folder.joinpath("02.yaml").write_text(GOOD.replace(old, new), encoding="utf-8")
    first, _ = questions.load("02", folder)
    with pytest.raises(QuestionsError, match=f"^02.yaml, line {line}: question 'bottleneck'.*{said}"):
        numbers.check(first)


def test_what_expressions_may_use_is_documented():
    for name in numbers.NAMES:
        assert re.search(rf"``[^`]*\b{name}\b[^`]*``", numbers.__doc__), name


def test_counts_are_those_of_known_layers():
    conv = numbers.conv(64, 128)
    assert (numbers.params(conv), numbers.macs(conv, 56), numbers.activations(conv, 56)) == (73728, 231211008, 401408)
    assert numbers.macs(numbers.separable(32, 48, 5), 14) == 14 * 14 * 32 * (25 + 48)
    assert numbers.macs("resnet50") == pytest.approx(4.089e9, rel=1e-3)
    assert numbers.params("vit_tiny_patch16_224") == 5717416, "a net that is not built here comes from timm"
    assert numbers.receptive_field((7, 2), (3, 2)) == 11
    assert numbers.printed("macs_g", model="plain-18") == 1.8
