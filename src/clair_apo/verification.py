"""The summary of what a verifying judge found, and whether the judge can be trusted.

A swapped-order control is the false claim that the rejected answer is better: a judge that looks at
the answers rejects it.
"""

from clair_apo.records import Record
from clair_apo.stats import Share, share_interval


class VerificationSummary(Record):
    """The numbers of claims and of controls that a judge confirmed or rejected."""

    claims: int
    """Pairs whose chosen answer was claimed to be better."""
    confirmed: int
    """Claims that the judge confirmed."""
    controls: int
    """Of these pairs, those whose rejected answer was claimed to be better as well."""
    controls_rejected: int
    """Controls that the judge rejected, as it should."""

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
        """The numbers in one sentence, which begins in small letters and has no full stop."""
        claims = (
            f"the judge confirmed {self.confirmed} of {self.claims} claims that the chosen answer "
            "is better"
        )
        if not self.controls:
            return f"{claims}; there were no swapped-order controls"
        return (
            f"{claims}, and rejected {self.controls_rejected} of {self.controls} swapped-order "
            f"controls: {self.rejected}"
        )

    @property
    def warning(self) -> str:
        """Why the judge cannot be trusted, and what to do; empty where it is trusted."""
        if self.trusted:
            return ""
        why = "it does not tell chosen from rejected answers; take another judge"
        if not self.controls:
            why = "without controls nobody knows whether it reads the answers; raise controls.share"
        elif self.rejected.value > 0.5:
            why = (
                f"too few controls ({self.controls}) to tell it from one that guesses; raise "
                "controls.share"
            )
        return f"the judge's confirmation cannot be trusted: {why}"
