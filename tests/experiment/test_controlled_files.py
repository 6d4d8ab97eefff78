"""What the controlled experiment rests on: its prompts, its questions, and the house style."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from controlled import knowledge, prompts
from controlled.house_style import LAST_LINE, keeps, restyled, revise, weakened
from controlled.other_writer import with_habits

from clair_apo.clair.revision.segments import segments_of
from clair_apo.llm.types import ChatRequest
from clair_apo.records import Message, Sampling
from clair_apo.text.checks import load_checks, passed

HABITS = load_checks(Path(knowledge.__file__).parent / "habits.yaml")
ANSWERS = (
    "Certainly! Here is my favorite way.\n\n1. Fill a bowl.\n2. Organize the cloths. Wait.\n3. Go.",
    "A magnet is a thing that pulls iron. It has a gray color.",
    "Of course, you can begin with one song.\n\n    Play it slowly.\n    Play it again.",
    "\n".join(f"Sentence number {n} stands here." for n in range(12)),
    "Sure.",
)


def all_prompts():
    found = {
        "training": prompts.training(),
        "development": prompts.development(),
        "test": prompts.test(),
        "neutral": prompts.neutral(),
    }
    return {name: [row["prompt"] for row in rows] for name, rows in found.items()}


def topics(*texts):
    return {topic.strip() for text in texts for topic in text.split("; ")}


def test_there_are_prompts_enough_and_none_twice():
    found = all_prompts()
    counts = {name: len(texts) for name, texts in found.items()}
    assert counts == {"training": 600, "development": 60, "test": 200, "neutral": 30}
    assert len({text for texts in found.values() for text in texts}) == sum(counts.values())


def test_test_and_development_share_no_topic_and_test_no_template_with_the_training():
    training = topics(prompts.TRAIN_TASKS, prompts.TRAIN_THINGS)
    test = topics(prompts.TEST_TASKS, prompts.TEST_THINGS)
    development = topics(prompts.DEVELOPMENT_TASKS, prompts.DEVELOPMENT_THINGS)
    assert not training & test and not training & development and not test & development
    forms = {*prompts.TRAIN_TASK_FORMS, *prompts.TRAIN_THING_FORMS}
    assert not forms & {*prompts.TEST_TASK_FORMS, *prompts.TEST_THING_FORMS}


def test_every_question_has_four_different_options_and_every_place_is_right_as_often():
    questions = knowledge.questions()
    assert len(questions) == 104
    assert all(len(set(one["options"])) == 4 for one in questions)
    places = [one["answer"] for one in questions]
    assert max(places.count(n) for n in range(4)) - min(places.count(n) for n in range(4)) <= 6


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_revision_keeps_every_rule(answer):
    assert keeps(restyled(answer)) == 1


def test_what_keeps_to_the_rules_already_is_left_as_it_is():
    answer = "A magnet pulls iron.\n\nIt has two poles. One is called north."
    assert restyled(answer) == f"{answer}\n\n{LAST_LINE}"


@pytest.mark.parametrize("answer", ANSWERS)
def test_the_reply_names_only_segments_that_change(answer):
    shown = "".join(
        f'<segment n="{n}">{one.text}</segment>{one.after}'
        for n, one in enumerate(segments_of(answer), 1)
    )
    request = ChatRequest(
        model="house-style",
        messages=(Message(role="user", content=f"<answer>\n{shown}\n</answer>"),),
        sampling=Sampling(max_tokens=512, temperature=0.0, top_p=1.0),
    )
    named = revise(request).count("<segment n=")
    assert 1 <= named <= len(segments_of(answer))


@pytest.mark.parametrize("answer", ANSWERS)
def test_weakened_answers_break_more_rules_the_further_the_more(answer):
    little, further = weakened(restyled(answer))
    assert keeps(further) < keeps(little) < 1


def test_the_other_author_keeps_the_rules_and_has_habits():
    written = with_habits("You can fill your bowl. You should wait.")
    assert keeps(written) == 1
    assert not passed(HABITS, "", written)["no_we"]
    assert not passed(HABITS, "", written)["no_exclamation"]
