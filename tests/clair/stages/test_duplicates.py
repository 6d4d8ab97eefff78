"""Which prompts stood in the data before."""

import pytest

from clair_apo.clair import PromptsConfig, generate, load_prompts
from clair_apo.llm import ModelSpec
from clair_apo.records import Dropped, DropReason, Prompt, Stage
from tests.helpers.clair_runs import Replying, edit_reply, make_config, write_rows

FIRST = "How do I boil an egg?"


def load(folder, *prompts):
    path = write_rows(folder / "p.jsonl", [{"prompt": prompt} for prompt in prompts])
    return list(load_prompts(PromptsConfig(path=str(path))))


@pytest.mark.parametrize(
    "again",
    ["how do I boil an egg", "How  do I boil\tan EGG?\n", "How do I boil an egg ...", FIRST],
)
def test_a_prompt_that_differs_only_in_how_it_is_typed_is_dropped_and_names_the_first(
    tmp_path, again
):
    first, between, dropped = load(tmp_path, FIRST, "Something else", again)
    assert isinstance(first, Prompt) and isinstance(between, Prompt)
    assert isinstance(dropped, Dropped)
    assert (dropped.stage, dropped.reason) == (Stage.LOAD, DropReason.DUPLICATE)
    assert dropped.raw == again
    how = (
        "the same prompt stood there before"
        if again == FIRST
        else f"prompt {first.id} stood there before, and differs only in how it is typed"
    )
    assert dropped.detail == f"p.jsonl:3: {how}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3+4?", "What is 3-4?"),
        ("What is x\u00b2?", "What is x2?"),
        ("What is 5!?", "What is 5?"),
        ("Sort a, b", "Sort ab"),
        ("It's mine", "Its mine"),
    ],
)
def test_prompts_that_say_something_else_are_both_kept(tmp_path, one, other):
    assert all(isinstance(row, Prompt) for row in load(tmp_path, one, other))


def test_the_same_text_in_another_role_is_another_prompt(tmp_path):
    system = [{"role": "system", "content": "Hi"}, {"role": "user", "content": "Go on"}]
    user = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Go on"}]
    assert all(isinstance(row, Prompt) for row in load(tmp_path, system, user))


def test_a_dropped_prompt_does_not_need_the_target_model(tmp_path):
    rows = [{"prompt": FIRST, "answer": "the old answer"}, {"prompt": FIRST.lower(), "answer": "x"}]
    data = write_rows(tmp_path / "p.jsonl", rows)
    config = make_config(tmp_path, data, target=ModelSpec(model="./no/such/model"))
    reviser = Replying([("", edit_reply(("old", "new")))])
    assert generate(config, reviser_model=reviser).dropped == {"duplicate": 1}
