"""What a trainer's tokenizer shows: conversations that its template refuses, sides cut to equal."""

from collections.abc import Iterator

from clair_apo.clair.filters.truncation import RowRefusedError, TrainingTokens
from clair_apo.lint.rows import PairRow
from clair_apo.lint.sides import Hit

MAX_LENGTH = 1024
"""Tokens of prompt and answer by default, as in TRL."""


class InTraining:
    """Pairs as a trainer with this tokenizer would see them.

    Args:
        tokenizer: a folder, a hub name or the embedded model.
        max_length: tokens of prompt and answer that the trainer keeps.

    Raises:
        ModelNotFoundError: the tokenizer's name leads nowhere.
        ConfigError: it cannot be loaded.
    """

    def __init__(self, tokenizer: str, max_length: int) -> None:
        self._tokens = TrainingTokens(tokenizer, max_length, asked_by="--tokenizer")
        self._tokens.after_truncation("a", "b", "c")  # before a long file is read

    def look(self, row: PairRow) -> Iterator[Hit]:
        """What the rules about tokens find in a pair.

        Raises:
            ConfigError: the tokenizer has no chat template, and the pair is of messages.
        """
        pair = row.pair
        try:
            left = self._tokens.after_truncation(pair.prompt, pair.chosen, pair.rejected)
        except RowRefusedError as error:
            yield Hit("template_refuses", str(error))
            return
        if left.chosen == left.rejected:
            said = f"{len(left.chosen)} equal tokens" if left.chosen else "no token is left"
            yield Hit("identical_after_truncation", said)
