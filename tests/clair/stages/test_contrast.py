"""How far apart the two answers of a pair are."""

from clair_apo.clair import measure_contrast
from clair_apo.clair.stages.pair import token_set


def test_contrast_is_shared_tokens_over_all_tokens_and_characters_to_change():
    contrast = measure_contrast(chosen="The new dog, then.", rejected="The old dog, then.")
    # the, dog, comma, then, stop are shared; old and new are not
    assert token_set("The new dog, then.") == {"the", "new", "dog", ",", "then", "."}
    assert contrast.jaccard == 5 / 7
    assert contrast.levenshtein == 3
    assert (contrast.chosen_characters, contrast.rejected_characters) == (18, 18)


def test_contrast_of_equal_empty_and_foreign_texts():
    assert measure_contrast(chosen="", rejected="").jaccard == 1.0
    assert measure_contrast(chosen="a", rejected="").jaccard == 0.0
    assert measure_contrast(chosen="", rejected="abc").levenshtein == 3
    assert measure_contrast(chosen="Größe!", rejected="größe!").jaccard == 1.0
    assert measure_contrast(chosen="猫", rejected="犬").levenshtein == 1
