"""What a judge that verifies said, and whether its word can be trusted.

A control is a claim put the wrong way round, that the loser is better: a judge that looks at the
answers rejects it.
"""

from clair_apo.records import Record
from clair_apo.stats import Share, share_interval


class VerificationSummary(Record):
    """A judge's word on pairs, and on controls among them."""

    claims: int
    """Pairs whose winner was claimed to be better."""
    confirmed: int
    controls: int
    """Of these pairs, those whose loser was claimed to be better as well."""
    controls_rejected: int

    @property
    def rejected(self) -> Share:
        """The share of controls that the judge rejected."""
        return share_interval(self.controls_rejected, self.controls)

    @property
    def trusted(self) -> bool:
        """Whether the judge rejects controls more often than not, by the whole 95 % interval."""
        return self.rejected.low > 0.5

    @property
    def sentence(self) -> str:
        """The numbers."""
        numbers = f"the judge confirmed {self.confirmed} of {self.claims} claims that the winner is"
        if not self.controls:
            return f"{numbers} better; none was put the wrong way round"
        return (
            f"{numbers} better, and rejected {self.controls_rejected} of {self.controls} that were "
            f"put the wrong way round: {self.rejected}"
        )

    @property
    def warning(self) -> str:
        """What follows for the pairs; empty where the judge is trusted."""
        if self.trusted:
            return ""
        told = "the judge's confirmation cannot be trusted: "
        if not self.controls:
            return f"{told}without controls nobody knows whether it looks; raise controls.share"
        if self.rejected.value > 0.5:
            return (
                f"{told}too few controls ({self.controls}) to tell it from one that guesses; raise "
                "controls.share"
            )
        return f"{told}it does not tell a winner from a loser; take another judge"
