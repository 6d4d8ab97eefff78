"""How far apart the two answers of a pair are: token sets and characters."""

import re

from clair_apo.alignment import edit_distance
from clair_apo.records import Contrast

TOKENIZER = "lower-cased words and punctuation marks"
"""What counts as a token in every Jaccard similarity; stands beside each table."""

_TOKEN = re.compile(r"\w+|[^\w\s]")


def token_set(text: str) -> frozenset[str]:
    """The distinct lower-cased words and punctuation marks of a text."""
    return frozenset(_TOKEN.findall(text.lower()))


def measure_contrast(*, chosen: str, rejected: str) -> Contrast:
    """Measure a pair with the two statistics of the CLAIR paper (arXiv 2408.06266, section 3).

    Args:
        chosen: the winner's text.
        rejected: the loser's text.

    Returns:
        Jaccard similarity of the token sets (0 to 1, higher is more contrastive; 1 for two empty
        texts) and Levenshtein distance in characters (lower is more contrastive); of
        very long texts it may be too large, see `clair_apo.alignment.edit_distance`.
    """
    winner, loser = token_set(chosen), token_set(rejected)
    union = winner | loser
    return Contrast(
        jaccard=len(winner & loser) / len(union) if union else 1.0,
        levenshtein=edit_distance(rejected, chosen),
        rejected_characters=len(rejected),
        chosen_characters=len(chosen),
    )
