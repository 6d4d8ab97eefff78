"""What a reviser is told about a reply that cannot be used."""

import pytest

from clair_apo.clair import ParseError, read_reply
from clair_apo.clair.stages.revise import REPAIRABLE, repair_message
from clair_apo.records import DropReason
from tests.helpers.clair_runs import edit_reply


def _error(reply, answer="the old, old answer", format="edits"):
    with pytest.raises(ParseError) as caught:
        read_reply(reply, answer, format)
    return caught.value


def test_a_reply_without_the_form_is_told_what_it_lacks():
    message = repair_message(_error("Use metres.", format="full"), "full")
    assert "<revision> ... </revision>" in message
    assert "exactly the form" in message


def test_every_edit_that_does_not_apply_is_named_with_what_is_wrong():
    error = _error(edit_reply(("old", "new"), ("young; very", "x"), ("answer", "reply")))
    message = repair_message(error, "edits")
    assert "- an edit names text that stands there twice: 'old'\n" in message
    assert "- an edit names text that is not in the answer: 'young; very'\n" in message
    assert message.count("\n- ") == 2
    assert "character by character" in message


@pytest.mark.parametrize("reason", sorted(set(DropReason) - REPAIRABLE))
def test_what_asking_again_cannot_mend_is_not_asked_again(reason):
    with pytest.raises(ValueError, match=reason.value):
        repair_message(ParseError(reason, "x"), "edits")
