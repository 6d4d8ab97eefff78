"""Which language a text is in, where that can be told."""

import pytest

from clair_apo.text.detectors import LANGUAGE_BYTES, language_of

TEXTS = {
    "en": "The bridge over the river is thirty metres long and was built a century ago.",
    "de": "Das Haus am Fluss ist sehr alt, und der Garten dahinter ist im Sommer wundersch\u00f6n.",
    "fr": "Le pont sur la rivi\u00e8re mesure trente m\u00e8tres et fut construit il y a cent ans.",
    "es": "El puente sobre el r\u00edo mide treinta metros y fue construido hace un siglo.",
    "ko": "이 다리는 길이가 삼십 미터이고 백 년 전에 지어졌으며 매우 아름답습니다.",
    "ja": "この橋は長さが三十メートルで、百年以上前に建てられました。",
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_sentence_is_known_by_its_language(language):
    assert language_of(TEXTS[language], 0.9) == language


def test_a_text_is_judged_from_a_number_of_bytes_of_letters_on():
    sentence = "Das ist ein Satz in deutscher Sprache und er geht noch ein wenig weiter als andere"
    letters = [n for n, character in enumerate(sentence) if character.isalpha()]
    assert language_of(sentence[: letters[LANGUAGE_BYTES - 1] + 1], 0.9) == "de"
    assert language_of(sentence[: letters[LANGUAGE_BYTES - 1]], 0.9) is None
    assert language_of("1 + 1 = 2. " * 50, 0.9) is None
    assert language_of("", 0.9) is None


def test_code_addresses_and_formulas_are_no_prose():
    code = "```python\n" + "for item in the_list_of_all_things: print(item)\n" * 9 + "```"
    assert language_of(code, 0.51) is None
    assert language_of("https://example.org/the/way/to/the/house " * 9, 0.51) is None
    assert language_of(f"{TEXTS['de']}\n{code}\n`the_thing_of_the_thing`", 0.9) == "de"


@pytest.mark.timeout(30)  # quadratic time would be minutes
def test_a_text_without_blanks_is_judged_in_time():
    assert language_of(TEXTS["de"] + "<>" * 100_000, 0.9) is None


def test_a_text_that_may_be_one_of_several_is_none():
    mixed = "casa mesa libro carta porta banda nota plata data alta media tema problema sistema"
    assert language_of(mixed, 0.999) is None
