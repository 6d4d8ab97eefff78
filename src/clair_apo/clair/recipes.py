"""The recipes: who plays winner and loser. Each is a short list of stages over the same prompts.

| recipe | loser | winner |
|---|---|---|
| `clair` | the target's answer | the reviser's minimal revision of it |
| `stronger_preferred` | the target's answer | a stronger model's own answer |
| `on_policy_judge` | the worse of several answers of the target, by a judge | the better one |
| `off_policy_judge` | the worse of the answers that the data brings, by judge or scores | better |
| `judge_then_revise` | the worst of several answers of the target | the revision of the best one |
| `worsen` | the reviser's minimally worsened answer | the target's answer |
"""

from typing import Literal, NamedTuple

from clair_apo.records import Direction

RecipeName = Literal[
    "clair",
    "stronger_preferred",
    "on_policy_judge",
    "off_policy_judge",
    "judge_then_revise",
    "worsen",
]
StageName = Literal["respond", "strengthen", "judge", "revise"]


class Recipe(NamedTuple):
    """What happens to a prompt before its two sides are paired."""

    stages: tuple[StageName, ...]
    direction: Direction = "improve"
    """Of the revision, where there is one."""
    given_only: bool = False
    """Whether the data must bring the answers."""

    @property
    def asks_reviser(self) -> bool:
        """Whether the model named `reviser` is asked: as the reviser, or as the stronger one."""
        return "revise" in self.stages or "strengthen" in self.stages

    @property
    def chooses(self) -> bool:
        """Whether a judge or scores choose among several answers."""
        return "judge" in self.stages


RECIPES: dict[RecipeName, Recipe] = {
    "clair": Recipe(("respond", "revise")),
    "stronger_preferred": Recipe(("respond", "strengthen")),
    "on_policy_judge": Recipe(("respond", "judge")),
    "off_policy_judge": Recipe(("respond", "judge"), given_only=True),
    "judge_then_revise": Recipe(("respond", "judge", "revise")),
    "worsen": Recipe(("respond", "revise"), direction="worsen"),
}
