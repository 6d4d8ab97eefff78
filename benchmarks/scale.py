"""How long a generation takes with a given fleet, from figures that you measured.

    python benchmarks/scale.py --prompts 32000 1000000 --servers 1 8 \
        --stage respond C V --stage revise C V

C is the mean of completion tokens that a prompt costs in that stage, V the completion tokens per
second that one server gives when it is kept busy. Nothing has a default: what is not given does
not bound. A stage takes as long as the slowest of its bounds (docs/scale.md has the formula);
stages go one after the other, so their times add up.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import timedelta


@dataclass(frozen=True)
class Stage:
    """What one prompt costs in a stage, and what serves it."""

    name: str
    completion_tokens: float
    """Mean per prompt, all requests of the stage together."""
    tokens_per_s: float
    """Completion tokens of one busy server."""


@dataclass(frozen=True)
class Fleet:
    """What the requests of a run share; None bounds nothing."""

    servers: int
    latency_s: float | None = None
    """Mean time from sending a request to its answer, at this load."""
    in_flight: int | None = None
    """Requests under way at once, all shards together."""
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    prompt_tokens: float = 0.0
    """Mean per prompt and stage; counts for the limit of tokens only."""
    requests_per_prompt: float = 1.0
    """1, and what is asked again."""
    client_s_per_row: float | None = None
    """The program's own time per prompt and stage."""
    shards: int = 1


@dataclass(frozen=True)
class Bound:
    """One reason why a stage cannot be faster."""

    reason: str
    seconds: float


def bounds(prompts: int, stage: Stage, fleet: Fleet) -> Iterator[Bound]:
    """Every bound on a stage, as in docs/scale.md."""
    generated = prompts * stage.completion_tokens
    requests = prompts * fleet.requests_per_prompt
    yield Bound("servers", generated / (fleet.servers * stage.tokens_per_s))
    if fleet.latency_s is not None and fleet.in_flight is not None:
        yield Bound("in flight", requests * fleet.latency_s / fleet.in_flight)
    if fleet.requests_per_minute is not None:
        yield Bound("requests per minute", requests * 60 / fleet.requests_per_minute)
    if fleet.tokens_per_minute is not None:
        tokens = generated + prompts * fleet.prompt_tokens
        yield Bound("tokens per minute", tokens * 60 / fleet.tokens_per_minute)
    if fleet.client_s_per_row is not None:
        yield Bound("client", prompts * fleet.client_s_per_row / fleet.shards)


def slowest(prompts: int, stage: Stage, fleet: Fleet) -> Bound:
    """The bound that decides."""
    return max(bounds(prompts, stage, fleet), key=lambda bound: bound.seconds)


def _stage(values: list[str]) -> Stage:
    name, completion_tokens, tokens_per_s = values
    return Stage(name, float(completion_tokens), float(tokens_per_s))


def main() -> None:
    """Print one line for every number of prompts and of servers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, nargs="+", required=True)
    parser.add_argument("--servers", type=int, nargs="+", required=True)
    parser.add_argument(
        *("--stage", "-s"), nargs=3, action="append", required=True, metavar=("NAME", "C", "V")
    )
    parser.add_argument("--latency_s", type=float, help="with --in_flight")
    parser.add_argument("--in_flight", type=int, help="of all shards together")
    parser.add_argument("--requests_per_minute", type=float)
    parser.add_argument("--tokens_per_minute", type=float, help="prompt and completion tokens")
    parser.add_argument("--prompt_tokens", type=float, default=0.0, help="mean per prompt")
    parser.add_argument("--requests_per_prompt", type=float, default=1.0, help="retries included")
    parser.add_argument("--client_s_per_row", type=float)
    parser.add_argument("--shards", type=int, default=1, help="processes that share the prompts")
    args = parser.parse_args()
    stages = [_stage(values) for values in args.stage]
    options = {
        field.name: getattr(args, field.name) for field in fields(Fleet) if field.name != "servers"
    }
    print("| prompts | servers | time | " + " | ".join(stage.name for stage in stages) + " |")
    print("|---:|---:|---:|" + "---|" * len(stages))
    for prompts in args.prompts:
        for servers in args.servers:
            fleet = Fleet(servers, **options)
            found = [slowest(prompts, stage, fleet) for stage in stages]
            total = timedelta(seconds=round(sum(bound.seconds for bound in found)))
            parts = [f"{timedelta(seconds=round(b.seconds))} ({b.reason})" for b in found]
            print(f"| {prompts:,} | {servers} | {total} | " + " | ".join(parts) + " |")


if __name__ == "__main__":
    main()
