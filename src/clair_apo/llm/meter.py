"""What asking has come to so far: read by the progress display and written into the manifest."""

from dataclasses import dataclass

from clair_apo.llm.pricing import Price
from clair_apo.llm.types import Completion


@dataclass
class Meter:
    """Counts of one model in one run; plain numbers that others may read at any time."""

    asked: int = 0
    """Requests that the model answered, or rejected, in this run."""
    reused: int = 0
    """Requests that the store answered."""
    failed: int = 0
    """Requests that have no answer."""
    retried: int = 0
    """Attempts that were not a request's first."""
    prompt_tokens: int = 0
    """Of the answers that were paid for in this run."""
    completion_tokens: int = 0
    """The same."""
    in_flight: int = 0
    """Requests that were sent and are not stored yet."""
    limit: int = 0
    """How many may be in flight now."""
    waits_until: float = 0.0
    """When the server is asked again, in seconds since 1970, where it asked for a pause."""
    price: Price | None = None
    """Of the model; None where none is known."""
    batch: bool = False
    """Whether answers cost what the Batch API takes."""

    @property
    def cost(self) -> float | None:
        """USD that the answers of this invocation cost; None where there is no price."""
        return self.cost_of(self.prompt_tokens, self.completion_tokens)

    def cost_of(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """USD that so many tokens of the model cost; None where there is no price."""
        if self.price is None:
            return None
        return self.price.cost(
            prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, batch=self.batch
        )

    def count(self, paid: Completion | None, *, failed: bool = False) -> None:
        """Count one request that went to the model.

        Args:
            paid: what came back; None where nothing did.
            failed: what came back holds no answer.
        """
        self.asked += 1
        self.failed += failed or paid is None
        self._pay(paid)

    def count_again(self, paid: Completion | None) -> None:
        """Count an attempt that brought no whole answer and is not a request's last."""
        self.retried += 1
        self._pay(paid)

    def _pay(self, paid: Completion | None) -> None:
        if paid is not None:
            self.prompt_tokens += paid.prompt_tokens
            self.completion_tokens += paid.completion_tokens
