"""How large the demo is for which model: a pool of about half of the prompts, in minutes."""

from __future__ import annotations

from dataclasses import dataclass

from demos import prebuilt_apps
from demos.workloads import Workload, prebuilt, private_teams, shared_team


@dataclass(frozen=True, slots=True)
class Scale:
    """Prompt lengths in words and the pool in tokens, which fit each other for one tokenizer."""

    pool_tokens: int
    answer_tokens: int
    team_words: int
    client_words: int
    client_questions: int
    prebuilt_words: int

    def workloads(self, host_tier: bool) -> list[Workload]:
        """What runs: everything without the host tier, our own team with it."""
        teams = [
            shared_team(workflows=2, questions=2, words=self.team_words),
            private_teams(workflows=2, questions=self.client_questions, words=self.client_words),
        ]
        if host_tier:
            return teams[:1]
        names = prebuilt_apps.BUILDERS
        return teams + [prebuilt(name, rounds=2, words=self.prebuilt_words) for name in names]


# A word is 1.3 tokens.
SMOLLM2 = Scale(
    pool_tokens=3_300,
    answer_tokens=4,
    team_words=320,
    client_words=305,
    client_questions=2,
    prebuilt_words=90,
)
# A token is a character: a word is 5.5 tokens.
TINY = Scale(
    pool_tokens=16_000,
    answer_tokens=4,
    team_words=440,
    client_words=360,
    client_questions=3,
    prebuilt_words=300,
)


def scale_of(model: str) -> Scale:
    """The scale for a model; folders other than `tiny` are taken for word-piece models."""
    return TINY if model == "tiny" or model.endswith("/tiny") else SMOLLM2
