"""Random models, a tokenizer of words, and pairs of given lengths: nothing is fetched."""

import functools
import random
from typing import Any, NamedTuple

import torch
from pair_lengths import real_lengths
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

WORDS = 30_000
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)

LLAMA = {
    "toy": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "heads": (4, 2)},
    "small": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 4,
        "heads": (16, 8),
    },
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "heads": (32, 8),
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "heads": (32, 8),
    },
}
"""Shapes of Llama 3.2 1B and 3.1 8B, and two small ones; `heads`: of queries and of keys."""
VOCABULARY = {"toy": 512, "small": 32_000, "1b": 128_256, "8b": 128_256}


def llama(size: str, *, tied: bool = False) -> LlamaConfig:
    """The config of a Llama of one of the sizes of `LLAMA`."""
    shape = dict(LLAMA[size])
    heads, key_heads = shape.pop("heads")
    return LlamaConfig(
        **shape,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=VOCABULARY[size],
        max_position_embeddings=8192,
        tie_word_embeddings=tied or size == "1b",
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )


def families() -> dict[str, Any]:
    """Tiny configs of four families: shared heads, norms of queries, half rotary, capped scores."""
    common = {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.1,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    return {
        "llama": LlamaConfig(**common, num_key_value_heads=2),
        "qwen3": Qwen3Config(**common, num_key_value_heads=2, head_dim=32),
        "gpt_neox": GPTNeoXConfig(**common),
        "gemma2": Gemma2Config(**common, num_key_value_heads=2, head_dim=32, sliding_window=64),
    }


def random_model(config: Any, device: str, dtype: torch.dtype, seed: int = 0) -> Any:
    """A model with random weights, made on the device."""
    torch.manual_seed(seed)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)


@functools.cache
def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each word, and a chat template.

    Args:
        size: of the vocabulary of the model.
    """
    special = ["<pad>", "<eos>", "<unk>", "<user>", "<assistant>", "<system>"]
    words = [f"w{number}" for number in range(min(WORDS, size - len(special)))]
    splitter = Tokenizer(WordLevel({w: n for n, w in enumerate([*special, *words])}, "<unk>"))
    splitter.pre_tokenizer = Whitespace()
    splitter.add_special_tokens(special)
    made = PreTrainedTokenizerFast(
        tokenizer_object=splitter, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    made.chat_template = TEMPLATE
    return made


class Lengths(NamedTuple):
    """Tokens of one pair, the end token of each answer included."""

    prompt: int
    chosen: int
    rejected: int
    shared: int
    """What both answers begin with."""

    @property
    def sequences(self) -> int:
        """Tokens of both sequences, the prompt in each."""
        return 2 * self.prompt + self.chosen + self.rejected

    @property
    def tree(self) -> int:
        """Tokens with all that both begin with once."""
        return self.sequences - self.prompt - self.shared


def pair_lengths(kind: str, count: int, seed: int, scale: float = 1.0) -> list[Lengths]:
    """Lengths of pairs, the same for the same seed.

    Args:
        kind: `real`, as long as answers to AlpacaEval's instructions, which share 1 token; `edits`,
            prompts of 512 tokens and two answers of 256 to 384 that part at a random place.
        count: pairs.
        seed: of the draw.
        scale: of all lengths, for a trial.
    """
    draw = random.Random(seed)
    found = []
    for real in real_lengths(count, seed):
        if kind == "real":
            lengths = (real.prompt, real.chosen, real.rejected, 1)
        else:
            answer = draw.randint(256, 384)
            lengths = (512, answer, answer + draw.randint(-16, 16), draw.randrange(answer // 2))
        prompt, chosen, rejected, shared = (max(2, round(n * scale)) for n in lengths)
        found.append(
            Lengths(prompt, chosen, rejected, min(shared, chosen - 2, rejected - 2, shared))
        )
    return [pair._replace(shared=max(0, pair.shared)) for pair in found]


def rows(lengths: list[Lengths], vocabulary: int, seed: int) -> list[dict[str, str]]:
    """Rows of plain text with exactly these lengths in tokens of `tokenizer`."""
    draw = random.Random(seed)
    words = [w for w in tokenizer(vocabulary).get_vocab() if w.startswith("w")]
    words.sort()

    def text(count: int) -> list[str]:
        return draw.choices(words, k=count)

    found = []
    for pair in lengths:
        shared = text(pair.shared)
        chosen, rejected = (
            " " + " ".join([*shared, first, *text(size - pair.shared - 2)])
            for first, size in zip(draw.sample(words, 2), pair[1:3], strict=True)
        )
        found.append(
            {"prompt": " ".join(text(pair.prompt)), "chosen": chosen, "rejected": rejected}
        )
    return found
