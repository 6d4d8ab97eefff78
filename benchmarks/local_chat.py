"""How many tokens a second the embedded model gives in this process.

    python benchmarks/local_chat.py       (options: --requests --max_tokens --runs --dtypes)

Asks the demo's first prompts in one batch, several times, and prints median and range of the
generated tokens per second: tokens up to each answer's end, over the time of the whole batch.
"""

import argparse
import statistics
import time

from clair_apo.clair import load_prompts
from clair_apo.demo import demo_config
from clair_apo.llm import Completion, ModelSpec
from clair_apo.llm.backends.local import LocalChat
from clair_apo.llm.types import ChatRequest
from clair_apo.models import EMBEDDED, find_model
from clair_apo.records import Prompt


def tokens_per_second(chat: LocalChat, requests: list[ChatRequest]) -> float:
    """Answer all requests once."""
    start = time.perf_counter()
    responses = [one.response for batch in chat.answer(requests) for one in batch]
    seconds = time.perf_counter() - start
    tokens = sum(Completion.from_response(r).completion_tokens for r in responses if r)
    return tokens / seconds


def main() -> None:
    """Measure each precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--max_tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"])
    args = parser.parse_args()
    source = find_model(EMBEDDED)
    prompts = [p for p in load_prompts(demo_config().prompts) if isinstance(p, Prompt)]
    for dtype in args.dtypes:
        spec = ModelSpec(model=EMBEDDED, max_tokens=args.max_tokens, dtype=dtype)
        chat = LocalChat(source, dtype=dtype, batch_size=args.requests)
        requests = [
            ChatRequest(model=dtype, messages=p.messages, sampling=spec.sampling)
            for p in prompts[: args.requests]
        ]
        tokens_per_second(chat, requests[:4])  # warm-up
        found = [tokens_per_second(chat, requests) for _ in range(args.runs)]
        print(
            f"{dtype}: {statistics.median(found):.0f} tokens/s, median of {args.runs} runs "
            f"({min(found):.0f} to {max(found):.0f}), {len(requests)} requests of at most "
            f"{args.max_tokens} tokens"
        )


if __name__ == "__main__":
    main()
