"""Detectors that look at one text: refusals, mentions of a revision, and the language.

`is_refusal` and `mention_of_revision` know English only; `language_of` uses `py3langid`.
"""

import re
from functools import cache
from typing import Any

LANGUAGE_BYTES = 60
"""Shorter texts have no language: UTF-8 bytes of letters, 60 in Latin script, 20 in Chinese."""

# what assistants say that they cannot do; people also write "I can't make it on Friday"
_VERBS = (
    "help|assist|aid|provide|comply|fulfil|fulfill|do|answer|create|write|generate|produce|give|"
    "discuss|engage|continue|support|revise|edit|rewrite|complete|participate|access|browse|"
    "respond|advise|perform"
)
_REFUSAL = re.compile(
    rf"""(?ix) ^\W*
    (?: (?: (?: i'm | i\ am ) \s+ (?: very\s+ | really\s+ )? sorry | sorry | i\ apologi[sz]e
          | unfortunately ) \W{{0,3}} )?
    [^.!?:\n]{{0,40}}? \b
    (?: as\s+an\s+ai (?: \s*, | \s+(?: language | model | assistant | chatbot | system | i\b ) )
      | i \s+ (?: can(?:no|')t | can\s+not | won't | will\s+not | am\s+(?:unable|not\s+able)\s+to )
        \s+ (?: \w+\s+ )? (?: {_VERBS} ) \b
    )"""
)

_ANSWER = r"(?:answer|response|solution|reply)"
# words of the reviser's task, which no answer to a user has a reason to use
_MENTION = re.compile(
    rf"""(?ix)
      \b students?(?:'s|')? \s+ (?: original\s+ | initial\s+ )? (?: {_ANSWER} | attempt ) \b
    | \b (?: teacher(?:'s)? | corrected ) [_\s]+ (?: reasoning | student ) (?![a-z])
    | </?\s* (?: reasoning | revision | edits | find | replace ) \s*>
    | \b (?: original | previous | initial | earlier ) \s+ {_ANSWER} \b
    | \b (?: revised | corrected | edited | improved | enhanced | refined | rewritten | updated
           | polished ) \s+ (?: version \s+ of \s+ (?: the | your | this | my ) \s+ )? {_ANSWER} \b
    | \b (?: in | with ) \s+ (?: this | my | the ) \s+ (?: revision | revised\s+version ) \b
    | \b i (?: \s+ have | 've )? \s+ (?: revised | corrected | edited | rewritten | reworded )
      \s+ (?: the | your | this | my | that ) \s+ {_ANSWER} \b
    | \b (?: this | the | my ) \s+ {_ANSWER} \s+ (?: has\s+been | was | is\s+now )
      \s+ (?: revised | corrected | edited | rewritten | improved ) \b
    | \A\W* (?: revised | corrected | edited ) \s* :"""
)
# one of these stands in every mention: looking for them is a hundred times as fast as the search
_STEMS = (
    *("student", "teacher", "corrected", "revis", "edit", "original", "previous", "initial"),
    *("earlier", "improved", "enhanced", "refined", "rewritten", "updated", "polished", "reworded"),
    "<",
)
# openings that are in place where the user asked for such a thing
_OPENING = re.compile(
    r"""(?ix) \A\W* (?: [^\n]{0,60}? [!.:,] \s* )?
    (?: here (?:'s | \s+is) | below\s+is | this\s+is ) \s+ (?: the | an? | my | your ) \s+
    (?: \w+ \s+ ){0,2}?
    (?: revised | revision | corrected | edited | improved | enhanced | refined | rewritten
      | updated | polished | cleaned-up )
    (?: \s+ (?: and \s+ \w+ \s+ )? (?: version | text | draft | paragraph | code | program | essay
              | summary | email | story | list | one ) )? \b"""
)
_ASKED_FOR = re.compile(
    r"""(?ix) \b (?: re[- ]?writ | re[- ]?word | revis | correct | edit | improv | enhanc | refin
    | polish | proof-?read | rephras | paraphras | updat | fix | debug | mistake | error | typo
    | grammar | better )"""
)
_NOT_PROSE = re.compile(
    r"(?s)```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|`[^`\n]*`|\$\$.*?\$\$|https?://\S+|[\w.+-]{1,64}@\S+"
)


def is_refusal(text: str) -> bool:
    """Whether a text begins by declining, as in "I'm sorry, but I can't ..."."""
    return bool(_REFUSAL.match(_plain(text)))


def mention_of_revision(text: str, prompt: str = "") -> str | None:
    """The words in which a text speaks of being a revision; None where it does not.

    Known are the words of the reviser's own task ("the student's solution", "the revised answer",
    a tag that was left over) and openings such as "Here is the corrected version".

    Args:
        text: an answer.
        prompt: what it answers; an opening of that kind is in place where the user asked for
            something to be corrected, rewritten, improved.
    """
    text = _plain(text)
    lowered = text.lower()
    found = _MENTION.search(text) if any(stem in lowered for stem in _STEMS) else None
    if found is None:
        opening = _OPENING.match(text)
        found = opening if opening and not _ASKED_FOR.search(prompt) else None
    return " ".join(found[0].split()) if found else None


def _plain(text: str) -> str:
    return text.replace("\u2019", "'")


def language_of(text: str, confidence: float) -> str | None:
    """The language of a text's prose as an ISO 639 code; None where it is not sure.

    Code, formulas and addresses are left out.

    Args:
        text: any text.
        confidence: probability that the language must have, 0 to 1. With 0.95, of 812
            answers in English by two chat models none was taken for another language, and 31 for
            none.
    """
    prose = _NOT_PROSE.sub(" ", text)
    letters = "".join(character for character in prose if character.isalpha())
    if len(letters.encode(errors="ignore")) < LANGUAGE_BYTES:
        return None
    language, probability = _identifier().classify(prose)
    return str(language) if probability >= confidence else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
