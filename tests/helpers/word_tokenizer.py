"""A tokenizer with a token for each word: built here, nothing fetched."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast


def word_tokenizer(
    special: Sequence[str], words: Sequence[str], template: str | None
) -> PreTrainedTokenizerFast:
    """Ids count from the first special token; `<pad>`, `<eos>` and `<unk>` must be among them."""
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    splitter = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    splitter.pre_tokenizer = Whitespace()
    splitter.add_special_tokens(list(special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splitter, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer
