"""The number reader on the spellings that models use."""

from fractions import Fraction

import pytest

from clair_apo.evaluation.suites.numbers import read_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("16 - 3 - 4 = 9\n#### 18", 18),
        ("#### 18 eggs in 3 days", 18),
        ("#### wrong\n#### 5", 5),
        ("It takes 3 days.\nA: 2,125", 2125),
        (r"so \boxed{42} it is, for 3 people", 42),
        (r"\boxed{12{,}500}", 12500),
        (r"\boxed{\frac{3}{4}}", Fraction(3, 4)),
        (r"it is \$1,800.00.", 1800),
        ("She makes $26 a day.", 26),
        ("That is 25%", 25),
        ("That is 25 %.", 25),
        ("The loss is -$18", -18),
        ("The loss is $-18", -18),
        ("x = \u22127", -7),
        ("He has 10-5", 5),
        ("from 2010-2015", 2015),
        ("1/5", Fraction(1, 5)),
        ("It is 2 1/2 hours", Fraction(5, 2)),
        ("It is 0.75", Fraction(3, 4)),
        ("It is .5", Fraction(1, 2)),
        ("1,2,3", 3),
        ("1234567", 1234567),
        ("3.", 3),
        ("5/0", None),
        ("no number", None),
        ("", None),
        ("1" * 500, None),
    ],
)
def test_the_number_that_a_solution_ends_with_is_read(text, number):
    assert read_number(text) == number


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["1 ", "\\boxed{", "1,", "1/"])
def test_a_long_text_of_digits_and_blanks_is_read_at_once(piece):
    found = read_number(piece * 20_000)
    assert (found is None) == ("1" not in piece)
