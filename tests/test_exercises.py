"""The exercises: right, wrong, not answered, unknown."""

import pytest

from whichbackbone.teach import exercises
from whichbackbone.teach.exercises import EXERCISES, Exercise, check, predict


@pytest.mark.parametrize("name", EXERCISES)
def test_the_computed_answer_is_right(name, capsys):
    check(name, EXERCISES[name].answer())
    assert capsys.readouterr().out == f"{name}: right.\n"


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("wrong", [-1.0, "one", [1], object()])
def test_a_wrong_answer_gets_the_hint(name, wrong, capsys):
    check(name, wrong)
    assert capsys.readouterr().out == f"{name}: not yet. Hint: {EXERCISES[name].hint}.\n"


def test_none_is_no_answer_yet(capsys):
    check("02_stride", None)
    out = capsys.readouterr().out
    assert "no answer yet" in out and "right" not in out and "Hint" not in out


def test_an_unknown_exercise_lists_those_there_are():
    with pytest.raises(ValueError, match="no exercise '02_strid': choose one of .*02_stride"):
        check("02_strid", 1)


def test_known_answers():
    # Xie et al. 2017, Table 2: the widths d that match C = 1, d = 64.
    assert [exercises._group_width(C) for C in (1, 2, 4, 8, 32)] == [64, 40, 24, 14, 4]
    assert EXERCISES["02_stride"].answer() == pytest.approx(4.089 - 3.858, abs=0.001)


def test_numbers_are_right_within_their_tolerance_and_no_further():
    exercise = Exercise(lambda: 200.0, hint="", tolerance=0.01)
    assert exercise.accepts(202) and exercise.accepts(198.0)
    assert not exercise.accepts(202.1) and not exercise.accepts(float("nan"))


def test_text_is_right_whatever_its_case():
    assert Exercise(lambda: "Stem", hint="").accepts(" stem ")
    assert not Exercise(lambda: "Stem", hint="").accepts("head")


@pytest.mark.parametrize(
    ("guess", "said"),
    [
        (None, "How long? measured 4 ms (no guess made)\n"),
        (3, "How long? measured 4 ms, you guessed 3: off by 25%\n"),
    ],
)
def test_a_prediction_is_shown_beside_the_measurement(guess, said, capsys):
    predict("How long?", guess).reveal(4.0, "ms")
    assert capsys.readouterr().out == said


def test_a_guess_is_a_number():
    with pytest.raises(ValueError, match="a guess is a number"):
        predict("How long?", "long")
