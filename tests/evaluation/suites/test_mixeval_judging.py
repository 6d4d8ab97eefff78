"""Readers of scores and letters."""

import pytest

from clair_apo.evaluation.suites.mixeval_items import Item
from clair_apo.evaluation.suites.mixeval_judging import letter_by_rule, read_letter, read_score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("It is right. [[1.0]]", 1.0),
        ("[[0.75]] and then [[0.0]]", 0.75),
        ("Score: [0.4]", 0.4),
        ("[0.2], or rather [[ .9 ]]", 0.9),
        ("[[1]]", 1.0),
        ("[[7]]", None),
        ("[[-0.5]]", None),
        ("right", None),
        ("[[right]]", None),
    ],
)
def test_a_score_stands_in_double_brackets_or_else_in_single_ones(reply, score):
    assert read_score(reply) == score


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("[[B]]", "B"),
        ("[[A]] or [[C]]", "A"),
        ("[D]", "D"),
        ("[[None]]", "none"),
        ("[[J]]", "J"),
        ("[[A, B and C]]", None),
        ("[[none of the options]]", None),
        ("option B", None),
    ],
)
def test_a_letter_stands_in_double_brackets_or_else_in_single_ones(reply, letter):
    assert read_letter(reply) == letter


ITEM = Item(
    problem_type="multiple-choice",
    benchmark_name="MMLU",
    prompt="What colour is it?",
    options=("(A)red", "(B)dark red", "(C)blue", "(D)none of these"),
    target=(0,),
)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" b", None),
        ("B.", "B"),
        ("**B**", "B"),
        ("**B.** dark red", "B"),
        ("**B. dark red**", "B"),
        ("(B) dark red", "B"),
        ("B\n\nBecause it is dark.", "B"),
        ("The answer is C.", "C"),
        ("A look at A. red and B. dark red shows that the answer is **D**", "D"),
        ("First the answer is A, or so it seems. No: the answer is (C).", "C"),
        ("Answer: C", "C"),
        (r"So it is $\boxed{\text{C}}$", "C"),
        ("I think it is **C**, as the sky.", "C"),
        ("I think it is (C), as the sky.", "C"),
        ("Let me think.\n\nC\n", "C"),
        ("After all it must be C. blue", "C"),
        ("I would take option C", "C"),
        ("A colour that is blue", "C"),
        ("It is dark red.", "B"),
        ("It is red.", "A"),
        ("It is red or blue.", None),
        ("A hard question; I do not know.", None),
        ("E", None),
        ("", None),
    ],
)
def test_a_rule_reads_the_letter_of_an_answer(answer, letter):
    assert letter_by_rule(ITEM, answer) == letter
