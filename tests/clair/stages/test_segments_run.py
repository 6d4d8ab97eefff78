"""Runs with `revision.format: segments`, from the prompts to the report, with scripted models."""

import pytest

from clair_apo.records import DropReason
from clair_apo.report import write_report
from tests.helpers.clair_runs import (
    Replying,
    make_config,
    rows_of,
    run,
    segment_reply,
    write_rows,
)

ANSWER = "The bridge is 30 feet long. It is old.\n\n- It was built in 1900.\n- It is **red**."
ANSWERS = [(f"Question {n}?", ANSWER.replace("30", f"3{n}")) for n in range(5)]


@pytest.fixture
def prompts(tmp_path):
    turns = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "Question 4?"},
    ]
    rows = [{"prompt": f"Question {n}?"} for n in range(4)] + [{"messages": turns}]
    return write_rows(tmp_path / "prompts.jsonl", rows)


def _reviser():
    repaired = "Please send the whole reply once more"
    return Replying(
        [
            ("names segment 9", segment_reply((1, "The bridge is 31 metres long."))),
            (repaired, "It is fine."),
            ("30 feet", segment_reply((1, "The bridge is 30 metres long."), (3, ""))),
            ("31 feet", segment_reply((9, "Metres."))),
            ("32 feet", "<segments><segment n=1>The bridge"),
            ("33 feet", "<segments></segments>"),
            ("34 feet", segment_reply(("2", "It is new. It is blue."), reasoning="the age")),
        ]
    )


def test_a_run_in_segments_makes_pairs_that_differ_where_a_segment_was_named(tmp_path, prompts):
    reviser = _reviser()
    config = make_config(tmp_path, prompts, revision={"format": "segments"})
    result = run(config, Replying(ANSWERS), reviser)
    assert result.pairs == 3
    assert result.dropped == {DropReason.NO_OP: 1, DropReason.UNPARSED: 1}
    texts = [row["chosen"][0]["content"] for row in rows_of(tmp_path, "pairs.jsonl")]
    old = [answer for _, answer in ANSWERS]
    assert texts == [
        old[0].replace("feet", "metres").replace("- It was built in 1900.\n", ""),
        old[1].replace("feet", "metres"),
        old[4].replace("It is old.", "It is new. It is blue."),
    ]
    first, repaired, turns = rows_of(tmp_path, "pairs.jsonl")
    assert first["provenance"]["format"] == "segments"
    assert first["provenance"]["chosen"]["kind"] == "revision"
    assert len(repaired["provenance"]["chosen"]["request_keys"]) == 2
    assert turns["rationale"] == "the age"
    asked = reviser.requests[0].messages[0].content
    assert '<segment n="1">The bridge is 30 feet long.</segment> <segment n="2">It' in asked
    assert '</segment>\n\n<segment n="3">- It was built' in asked


def test_a_reply_that_names_no_segment_is_sent_back_with_what_to_do(tmp_path, prompts):
    reviser = _reviser()
    run(make_config(tmp_path, prompts, revision={"format": "segments"}), Replying(ANSWERS), reviser)
    (message,) = [
        request.messages[-1].content
        for request in reviser.requests
        if "names segment 9" in request.messages[-1].content
    ]
    assert "the answer has segments 1 to 4" in message
    assert "<segments> with one <segment> for each segment that changes" in message
    assert "Name segments by the numbers that they have" in message


def test_a_run_in_segments_worsens_as_well(tmp_path, prompts):
    reviser = Replying([("", segment_reply((2, "It is new.")))])
    config = make_config(
        tmp_path, prompts, recipe="worsen", revision={"format": "segments", "keep_length": True}
    )
    assert run(config, Replying(ANSWERS), reviser).pairs == 5
    row = rows_of(tmp_path, "pairs.jsonl")[0]
    assert row["chosen"][0]["content"] == ANSWERS[0][1]
    assert row["rejected"][0]["content"] == ANSWERS[0][1].replace("old", "new")
    assert "Make the answer worse" in reviser.requests[0].messages[0].content


def test_a_run_in_segments_is_reported_with_its_format(tmp_path, prompts):
    config = make_config(tmp_path, prompts, revision={"format": "segments"})
    run(config, Replying(ANSWERS), _reviser())
    write_report(config.run_dir)
    page = (config.run_dir / "report.html").read_text("utf-8")
    assert "metres" in page
    card = (config.run_dir / "dataset" / "README.md").read_text("utf-8")
    assert "format segments" in card


def test_answers_of_the_data_are_shown_in_segments(tmp_path):
    data = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "Q?", "response": "One. Two."}])
    config = make_config(tmp_path, data, revision={"format": "segments"})
    run(config, Replying([]), Replying([("", segment_reply((2, "2.")))]))
    assert rows_of(tmp_path, "pairs.jsonl")[0]["chosen"][0]["content"] == "One. 2."
