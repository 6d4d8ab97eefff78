"""The way to ask a model: its client answers from the request store first.

chat = CachedChat(spec, store)
for result in chat.converse(dialogues): ...
"""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from clair_apo.console import say
from clair_apo.errors import RequestError
from clair_apo.llm.answer_cache import TRIES, TRIES_IN_GROUPS, AnswerCache
from clair_apo.llm.pricing import Account, Budget, Meter
from clair_apo.llm.scheduler import StreamScheduler, WaveScheduler
from clair_apo.llm.spec import RECORDED, ModelSpec, find_key
from clair_apo.llm.store import RequestStore
from clair_apo.llm.types import ChatModel, ChatRequest, Dialogue, StreamingChat
from clair_apo.models import ModelSource, find_model
from clair_apo.records import Conversation, Sampling, digest

if TYPE_CHECKING:
    from clair_apo.llm.backends.vllm_server import ModelServers

T = TypeVar("T")


def check_model(spec: ModelSpec) -> None:
    """Find out what can be known of a model before anything is asked or written.

    Raises:
        ModelNotFoundError: no such folder, or one that cannot be served.
        RequestError: no key for the server, or no `vllm` to serve the model with.
    """
    if spec.base_url:
        find_key(spec)
    elif spec.mode != "files" and not spec.model.startswith(RECORDED):
        source = find_model(spec.model, say, spec.revision)
        if spec.serve:
            from clair_apo.llm.backends.vllm_server import check_folder, find_command

            check_folder(source.location)
            find_command()


class CachedChat:
    """The client of a chat model of which nothing is asked twice.

    An answer that broke off is none: it is asked for again a few times, and then its row fails.
    The model is connected to, or loaded, at the first request that the store cannot answer.

    Args:
        spec: which model, and how to sample.
        store: where answers are kept.
        model: asked in place of what `spec` names; for tests and models of one's own.
        meter: what is counted, for the progress display and the manifest.
        offline: ask nothing. A request that failed when it was last asked fails again; the first
            request of which the store knows nothing ends the run.
        run_id: stands in the store beside what this run paid for.
        budget: the money of the run, shared by its models; by default without a limit.
        servers: start and stop the server of a model with `serve`, which cannot be asked without.
    """

    def __init__(
        self,
        spec: ModelSpec,
        store: RequestStore,
        model: ChatModel | None = None,
        *,
        meter: Meter | None = None,
        offline: bool = False,
        run_id: str = "",
        budget: Budget | None = None,
        servers: "ModelServers | None" = None,
    ) -> None:
        self.spec = spec
        account = Account(spec, budget or Budget())
        self.meter = meter or Meter()
        self.meter.price, self.meter.batch = account.price, account.batch
        self._given, self._offline, self._servers = model, offline, servers
        self._streams = model is None and bool(spec.base_url or spec.serve)
        self._cache = AnswerCache(
            spec,
            store,
            self.meter,
            account,
            run_id=run_id,
            offline=offline,
            most_tries=TRIES if self._streams else TRIES_IN_GROUPS,
        )

    @cached_property
    def identity(self) -> str:
        """The model's name in request keys.

        Of a model in a folder it tells weights and precision, and beside them only those
        `serve_args` that may change answers: whoever serves the same weights answers as well.
        """
        remote = (
            self.spec.base_url or self.spec.model.startswith(RECORDED) or self._given is not None
        )
        if remote:
            return self.spec.served_identity
        served = self.spec.served_differently
        suffix = f"/vllm-{digest(served)[:8]}" if served else ""
        kind = "/score" if self.spec.gives_scores else ""
        return f"{self._source.identity}/{self.spec.dtype}{suffix}{kind}"

    @cached_property
    def _sampling(self) -> Sampling:
        return self.spec.sampling

    def request(
        self, messages: Conversation, sample: int = 0, max_tokens: int | None = None
    ) -> ChatRequest:
        """The request that asks this model for an answer to `messages`.

        Args:
            messages: the conversation.
            sample: which of several answers to it.
            max_tokens: another limit than the spec's.
        """
        sampling = self._sampling
        if max_tokens is not None:
            sampling = sampling.model_copy(update={"max_tokens": max_tokens})
        return ChatRequest(model=self.identity, messages=messages, sampling=sampling, sample=sample)

    def converse(self, dialogues: Iterable[Dialogue[T]]) -> Iterator[T]:
        """Let every row have its answers, from the store where it can; yield the rows' results.

        Each new answer is in the store before its row sees it. The results come in the order of
        the rows; rows are begun only as fast as results are taken.

        Raises:
            RequestError: the model cannot be asked, or is not to be (`offline`).
            BudgetError: the next request could cost more than the run may still spend.
            StoreError: the store cannot be read or written.
        """
        if self._streams:
            streams = StreamScheduler[T](self._connect, self._cache, self.spec.max_in_flight)
            return streams.run(dialogues)
        wave = ChatModel.wave if self._given is None else self._given.wave
        return WaveScheduler(self._in_groups, self._cache, wave).run(dialogues)

    @property
    def is_in_process(self) -> bool:
        """Whether the model runs in this process, from files."""
        remote = self.spec.base_url or self.spec.serve or self.spec.mode == "files"
        return not remote and not self.spec.model.startswith(RECORDED) and self._given is None

    @property
    def local_model(self) -> ChatModel:
        """The model in this process, for what `converse` cannot ask; loaded where it is not.

        Raises:
            ModelNotFoundError: its files cannot be loaded.
        """
        return self._model

    def unload(self) -> None:
        """Give back the memory of a model in this process, or of one that is served.

        It is loaded again when it is needed.
        """
        self.__dict__.pop("_model", None)
        if self.spec.serve and self._servers is not None:
            self._servers.stop()

    def shares_server_with(self, other: "CachedChat") -> bool:
        """Whether one `vllm serve` answers for both."""
        both = self.spec.serve and other.spec.serve
        return bool(both and self.identity == other.identity)

    def _connect(self) -> StreamingChat:
        self._refuse_to_ask()
        from clair_apo.llm.backends.http import HttpChat

        if not self.spec.serve:
            return HttpChat(self.spec, self.meter)
        if self._servers is None:
            raise ValueError("a model with `serve` needs servers: CachedChat(..., servers=...)")
        server = self._servers.find(self.spec, self._source.location, self.identity)
        return HttpChat(server.spec_for(self.spec), self.meter, server.fault)

    def _in_groups(self) -> ChatModel:
        self._refuse_to_ask()
        return self._model if self._given is None else self._given

    @cached_property
    def _model(self) -> ChatModel:
        if self.spec.gives_scores:
            from clair_apo.llm.backends.reward import RewardChat

            return RewardChat(self._source, dtype=self.spec.dtype, batch_size=self.spec.batch_size)
        from clair_apo.llm.backends.local import LocalChat

        return LocalChat(self._source, dtype=self.spec.dtype, batch_size=self.spec.batch_size)

    @cached_property
    def _source(self) -> ModelSource:
        return find_model(self.spec.model, say, self.spec.revision)

    def _refuse_to_ask(self) -> None:
        """Raise a `RequestError` where the model is not to be asked, or is none."""
        if self._offline:
            raise RequestError(
                f"offline: {self._cache.store.path} has no answer of {self.spec.model!r} to one of "
                "the requests; run without offline to ask for it"
            )
        if self._given is None and self.spec.model.startswith(RECORDED):
            raise RequestError(
                f"{self.spec.model!r} has no recorded answer to this request: the prompts, the "
                "template, the rubric or the sampling settings differ from the recorded ones; "
                "name a live model instead"
            )
