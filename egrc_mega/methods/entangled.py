"""The entropy-entangled control (EE): both objectives of EGRC in every batch, and each group trains with one of them.

accuracy of the group >= threshold: compress (paper 3.3)        below: explore (paper 3.4)

One update on the union, samples weighted alike. With one update a rollout every ratio is 1, so the loss of either
objective is -A log pi and both are exact; with more updates the ratio of `loss` holds for both. EE* is EE for more
steps. The text does not say what a low-accuracy group pays for length: here what `explore` says.

Source: EGRC, arXiv 2511.14258, section 4.3 (threshold 50 %; EE* has 400 steps more).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from egrc_mega.methods.compress import Compress, CompressSection
from egrc_mega.methods.explore import Explore, ExploreSection
from egrc_mega.methods.method import Method, NoState, is_graded
from egrc_mega.methods.records import Credit, View
from egrc_mega.sections.stage import LossSection, StageSection
from egrc_mega.types import Group


class EntangledSection(StageSection):
    """Entropy-entangled control (paper 4.3): compress and explore in one batch, chosen group by group."""

    method: Literal["entangled"] = "entangled"
    """Which method the stage trains with."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Groups of at least this accuracy compress, the others explore."""
    compress: CompressSection = CompressSection()
    """What a group that compresses pays; its sampling, loss, optimizer and steps are the stage's own."""
    explore: ExploreSection = ExploreSection()
    """What a group that explores pays; likewise."""
    loss: LossSection = LossSection(ratio="token")
    """Reduction of the loss, of both objectives."""


class Entangled(Method[EntangledSection, NoState]):
    """Compression and accuracy at once, the control that EGRC is measured against."""

    Config = EntangledSection
    source = "EGRC, arXiv 2511.14258, section 4.3"

    def credit(self, groups: Sequence[Group], view: View) -> list[list[Credit]]:
        """Each group's credits by the objective that its accuracy chooses."""
        short, right = Compress(self.section.compress), Explore(self.section.explore)
        return [(short if self._compresses(group) else right).credit([group], view)[0] for group in groups]

    def _compresses(self, group: Group) -> bool:
        return group.accuracy >= self.section.threshold

    def metrics(self, groups: Sequence[Group], credits: Sequence[Sequence[Credit]], view: View) -> Mapping[str, float]:
        """How many groups went to each objective (paper fig. 3a); those without a verdict went to neither."""
        judged = [group for group in groups if any(map(is_graded, group.samples))]
        compressing = sum(map(self._compresses, judged))
        return {"compressing_groups": float(compressing), "exploring_groups": float(len(judged) - compressing)}

    def problems(self) -> Iterator[str]:
        """Both objectives must be possible; a group is routed by its own accuracy, so its statistics are its own."""
        yield from Explore(self.section.explore.model_copy(update={"rollout": self.section.rollout})).problems()
        if (scope := self.section.explore.advantage_scope) != "group":
            yield f"explore.advantage_scope: {scope}, but groups are routed one by one; set it to group"

    @property
    def longest(self) -> int:
        """The cap in force: explore's, for nobody knows a group's accuracy before it is sampled."""
        return self.section.rollout.max_new_tokens or 2 * self.section.explore.clip_len
