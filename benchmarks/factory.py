"""What the pair factory takes: time, memory, and share of what a server can give.

    python benchmarks/factory.py rate       256 in flight against answers that take 2 s
    python benchmarks/factory.py memory     whole runs up to 32,000 rows: their peak
    python benchmarks/factory.py store      the request store alone: one look and one answer a row
    python benchmarks/factory.py restart    a whole run of 10,000 rows, and the same 5 times again
    python benchmarks/factory.py large      1,000,000 rows, killed half-way and resumed
    python benchmarks/factory.py overtake --base_url URL --model NAME
                                            a real server: tokens/s beside a bare asynchronous loop

Each prints its figure with n, the command and the hardware; sizes are options. The server of
`rate`, `memory`, `restart` and `large` runs in a process of its own.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import clair_apo.llm.backends.http  # noqa: F401 (a second to load: part of a start, not of a rate)
from clair_apo.llm import (
    Answer,
    CachedChat,
    ChatRequest,
    Dialogue,
    ModelSpec,
    RequestStore,
    StoredAnswer,
)
from clair_apo.records import Message

SERVER = Path(__file__).parents[1] / "tests/helpers/chat_server.py"
ANSWER_S = 2.0
QUESTION = "Explain to a patient reader how a sourdough starter works, in about a hundred words. "


class TimedStore(RequestStore):
    """A store that counts how long it was busy."""

    def __init__(self, path: Path) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.commits = 0
        super().__init__(path)

    def get(self, key: str) -> Any:
        """As the store does."""
        with self._timed():
            return super().get(key)

    def put_many(self, answers: Any, run_id: str = "") -> None:
        """As the store does."""
        self.commits += 1
        with self._timed():
            super().put_many(answers, run_id)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began, cpu = time.perf_counter(), time.thread_time()
        yield
        self.seconds += time.perf_counter() - began
        self.cpu_seconds += time.thread_time() - cpu


@contextmanager
def serving(delay_s: float) -> Iterator[str]:
    """A server in a process of its own; yields its address."""
    command = [sys.executable, str(SERVER), "--delay", str(delay_s)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        yield process.stdout.readline().strip()
        process.stdin.close()
        print(f"  the server: {process.stdout.read().strip()}")


def hardware() -> str:
    """The machine, in one line."""
    names = {}
    for file, separator in (("/proc/cpuinfo", ":"), ("/proc/meminfo", ":")):
        for line in Path(file).read_text().splitlines():
            name, _, value = line.partition(separator)
            names.setdefault(name.strip(), value.strip())
    memory = int(names["MemTotal"].split()[0]) / 2**20
    cpu = names.get("model name", platform.machine())
    return f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, load {os.getloadavg()[0]:.1f}"


def asking(request: ChatRequest) -> Dialogue[Answer]:
    """A row that asks one thing."""
    (answer,) = yield (request,)
    return answer


def questions(chat: CachedChat, count: int) -> Iterator[Dialogue[Answer]]:
    """Rows with a question each, all different."""
    for number in range(count):
        text = f"{number}. {QUESTION * 8}"
        yield asking(chat.request((Message(role="user", content=text),)))


def measure_rate(args: argparse.Namespace) -> None:
    """Share of the ideal rate, the climb of the limit included."""
    with serving(ANSWER_S) as url, tempfile.TemporaryDirectory() as folder:
        spec = ModelSpec(model="target", base_url=url, max_in_flight=args.in_flight)
        with TimedStore(Path(folder) / "requests.sqlite") as store:
            chat = CachedChat(spec, store)
            before = resource.getrusage(resource.RUSAGE_SELF)
            began, first = time.perf_counter(), 0.0
            for number, _ in enumerate(chat.converse(questions(chat, args.requests))):
                if number == args.in_flight:
                    first = time.perf_counter() - began
            took = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_SELF)
            busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            ideal = args.requests / args.in_flight * ANSWER_S
            print(
                f"rate: {ideal / took:.1%} of the ideal rate: {args.requests} requests, "
                f"{args.in_flight} in flight, answers after {ANSWER_S:g} s, {took:.1f} s in place "
                f"of {ideal:.1f} s; the first {args.in_flight} after {first:.1f} s\n"
                f"  {1000 * busy / args.requests:.2f} ms CPU per request in all; "
                f"{_store_share(store, args.requests)}"
            )


def _store_share(store: TimedStore, rows: int) -> str:
    return (
        f"the store: {1000 * store.cpu_seconds / rows:.2f} ms CPU and "
        f"{1000 * store.seconds / rows:.2f} ms in all per row, {rows / store.commits:.1f} "
        "answers per commit"
    )


def measure_memory(args: argparse.Namespace) -> None:
    """Peak memory of whole runs of several sizes."""
    with tempfile.TemporaryDirectory() as folder:
        for rows in (args.rows // 8, args.rows):
            with serving(0.0) as url:
                found = _run(_config(Path(folder) / str(rows), rows, url))
            print(
                f"memory: {found['peak_mb']:.0f} MB at most in a run of {rows} rows "
                f"({found['pairs']} pairs, {found['asked']} requests, {found['seconds']:.0f} s)"
            )


def measure_store(args: argparse.Namespace) -> None:
    """What a row costs in the store: a look that finds nothing, and its answer put on the disk."""
    response = {
        "choices": [{"message": {"role": "assistant", "content": QUESTION * 16}}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 300},
    }
    for per_commit in (1, 5, 50):
        with (
            tempfile.TemporaryDirectory() as folder,
            TimedStore(Path(folder) / "requests.sqlite") as store,
        ):
            for first in range(0, args.rows, per_commit):
                keys = [f"{number:064d}" for number in range(first, first + per_commit)]
                assert not any(store.get(key) for key in keys)
                store.put_many([StoredAnswer(key, "target", response) for key in keys])
            print(f"store: {args.rows} rows, {_store_share(store, args.rows)}")


def measure_restart(args: argparse.Namespace) -> None:
    """How long a run takes that has every answer already."""
    with tempfile.TemporaryDirectory() as folder:
        with serving(0.0) as url:
            config = _config(Path(folder), args.rows, url)
            first = _run(config)
        again = [_run(config) for _ in range(args.runs)]  # nobody serves any more
        took = sorted(run["seconds"] for run in again)
        print(
            f"restart: {statistics.median(took):.1f} s ({took[0]:.1f} to {took[-1]:.1f}, median of "
            f"{len(took)} runs) for {args.rows} rows from a full store, the start of the process "
            f"included ({again[0]['reused']} answers reused, {again[0]['asked']} asked; the first "
            f"run took {first['seconds']:.1f} s)"
        )


def measure_large(args: argparse.Namespace) -> None:
    """A run that is killed when half of its revisions are there, and run again to its end."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder, serving(0.0) as url:
        config = _config(Path(folder), args.rows, url)
        store = Path(folder) / "requests.sqlite"
        half = args.rows + args.rows // 2
        killed = _run_until(config, store, half)
        stored = _answers(store)
        resumed = _run_until(config, store, None, stored)
        size = store.stat().st_size / 2**20
        rows = sum(file.stat().st_size for file in (Path(folder) / "run").rglob("*")) / 2**20
    print(
        f"large: {args.rows:,} rows in {(killed['seconds'] + resumed['seconds']) / 60:.1f} min "
        f"({killed['seconds'] / 60:.1f} until it was killed with {stored:,} answers, "
        f"{resumed['seconds'] / 60:.1f} after); the first new answer {resumed['first_s']:.0f} s "
        f"after it was started again; peak {max(killed['peak_mb'], resumed['peak_mb']):.0f} MB; "
        f"store {size:,.0f} MB, run folder {rows:,.0f} MB; {resumed['reused']:,} answers reused, "
        f"{resumed['asked']:,} asked\n"
        f"  stages of the resumed run, seconds: {json.dumps(resumed['stages'])}"
    )


def _run_until(
    config: dict[str, Any], store: Path, most: int | None, before: int = 0
) -> dict[str, Any]:
    """Generate in a process of its own, and kill it where its store has so many answers."""
    began, first_s, peak_mb = time.perf_counter(), 0.0, 0.0
    command = [sys.executable, __file__, "generate", json.dumps(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            time.sleep(1)
            peak_mb = max(peak_mb, _peak_mb(process.pid))
            found = _answers(store)
            if found > before and not first_s:
                first_s = time.perf_counter() - began
            if most is not None and found >= most:
                process.kill()
        output = process.stdout.read() if process.stdout else ""
    result = {"seconds": time.perf_counter() - began, "first_s": first_s, "peak_mb": peak_mb}
    return result if most is not None else json.loads(output.splitlines()[-1]) | result


def _answers(store: Path) -> int:
    if not store.exists():
        return 0
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as reader:
        try:
            return int(reader.execute("SELECT max(rowid) FROM answers").fetchone()[0] or 0)
        except sqlite3.OperationalError:  # not made yet, or busy for a moment
            return 0


def _peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def _config(folder: Path, rows: int, url: str) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    data = folder / "prompts.jsonl"
    with data.open("w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(json.dumps({"prompt": f"{number}. {QUESTION * 8}"}) + "\n")
    model = {"base_url": url, "max_tokens": 512}
    return {
        "run_dir": str(folder / "run"),
        "prompts": {"path": str(data)},
        "target": {"model": "target", **model},
        "reviser": {"model": "reviser", **model},
        "revision": {"format": "edits"},  # in which the server answers
    }


def _run(config: dict[str, Any]) -> dict[str, Any]:
    """Generate in a process of its own: what it came to, seconds and peak memory."""
    began = time.perf_counter()
    process = subprocess.run(
        [sys.executable, __file__, "generate", json.dumps(config)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return found | {"seconds": time.perf_counter() - began}


def generate_here(args: argparse.Namespace) -> None:
    """The process of `_run`."""
    from clair_apo.clair import GenerateConfig, generate

    config = GenerateConfig(**json.loads(args.config))
    result = generate(config)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    manifest = json.loads((Path(config.run_dir) / "manifest.json").read_text(encoding="utf-8"))
    stages = {
        name: (
            datetime.fromisoformat(entry["ended"]) - datetime.fromisoformat(entry["started"])
        ).seconds
        for name, entry in manifest["stages"].items()
    }
    print(json.dumps(result.model_dump() | {"peak_mb": peak_mb, "stages": stages}))


def measure_overtake(args: argparse.Namespace) -> None:
    """Tokens per second of the factory beside those of a bare loop, on a real server."""
    spec = ModelSpec(
        model=args.model,
        base_url=args.base_url,
        max_tokens=args.max_tokens,
        max_in_flight=args.in_flight,
        timeout_s=3600,
    )
    texts = [f"{n}. {QUESTION}" for n in range(args.requests)]
    asyncio.run(_bare(spec, texts))  # a server is slower the first time
    bare, factory = [], []
    for number in range(args.runs):
        for which in ("bare", "factory") if number % 2 else ("factory", "bare"):
            if which == "bare":
                bare.append(asyncio.run(_bare(spec, texts)))
            else:
                factory.append(_factory(spec, texts))
        print(f"  run {number + 1}: factory {factory[-1]:.1f}, bare loop {bare[-1]:.1f} tokens/s")
    ours, theirs = statistics.median(factory), statistics.median(bare)
    print(
        f"overtake: {ours / theirs:.1%} of the tokens per second of a bare loop ({ours:.1f} of "
        f"{theirs:.1f}; medians of {args.runs} alternating runs, {args.requests} requests of at "
        f"most {args.max_tokens} tokens, {args.in_flight} in flight, {args.model})"
    )


def _factory(spec: ModelSpec, texts: Sequence[str]) -> float:
    with (
        tempfile.TemporaryDirectory() as folder,
        RequestStore(Path(folder) / "requests.sqlite") as store,
    ):
        chat = CachedChat(spec, store)
        began = time.perf_counter()
        rows = [asking(chat.request((Message(role="user", content=text),))) for text in texts]
        answers = list(chat.converse(rows))
        took = time.perf_counter() - began
        assert all(answer.completion for answer in answers)
        return chat.meter.completion_tokens / took


async def _bare(spec: ModelSpec, texts: Sequence[str]) -> float:
    import openai

    tokens, places = 0, asyncio.Semaphore(spec.max_in_flight)
    key = os.environ.get(spec.api_key_env) or "none"
    async with openai.AsyncOpenAI(base_url=spec.base_url, api_key=key, timeout=3600) as client:

        async def ask(text: str) -> None:
            nonlocal tokens
            async with places:
                answer = await client.chat.completions.create(
                    model=spec.model,
                    messages=[{"role": "user", "content": text}],
                    max_tokens=spec.max_tokens,
                    temperature=spec.temperature,
                    top_p=spec.top_p,
                )
            assert answer.usage
            tokens += answer.usage.completion_tokens

        began = time.perf_counter()
        await asyncio.gather(*(ask(text) for text in texts))
        return tokens / (time.perf_counter() - began)


def main() -> None:
    """Measure what is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    rate = commands.add_parser("rate")
    rate.add_argument("--requests", type=int, default=8192)
    rate.add_argument("--in_flight", type=int, default=256)
    rate.set_defaults(measure=measure_rate)
    memory = commands.add_parser("memory")
    memory.add_argument("--rows", type=int, default=32_000)
    memory.set_defaults(measure=measure_memory)
    store = commands.add_parser("store")
    store.add_argument("--rows", type=int, default=8000)
    store.set_defaults(measure=measure_store)
    restart = commands.add_parser("restart")
    restart.add_argument("--rows", type=int, default=10_000)
    restart.add_argument("--runs", type=int, default=5)
    restart.set_defaults(measure=measure_restart)
    large = commands.add_parser("large")
    large.add_argument("--rows", type=int, default=1_000_000)
    large.add_argument("--folder", help="where the run is made; by default that of temporary files")
    large.set_defaults(measure=measure_large)
    overtake = commands.add_parser("overtake")
    overtake.add_argument("--base_url", required=True)
    overtake.add_argument("--model", required=True)
    overtake.add_argument("--requests", type=int, default=128)
    overtake.add_argument("--max_tokens", type=int, default=128)
    overtake.add_argument("--in_flight", type=int, default=32)
    overtake.add_argument("--runs", type=int, default=5)
    overtake.set_defaults(measure=measure_overtake)
    child = commands.add_parser("generate")
    child.add_argument("config")
    child.set_defaults(measure=generate_here)
    args = parser.parse_args()
    args.measure(args)
    if args.measure is not generate_here:
        print(f"  {hardware()}\n  python {' '.join(sys.argv)}")


if __name__ == "__main__":
    main()
