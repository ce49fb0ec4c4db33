"""PPO (Schulman et al., 2017) as language models are aligned with it (Ziegler et al., 2019; Stiennon et al., 2020).

What the papers leave out is numbered as in "The N implementation details of RLHF with PPO" (Huang et al., 2023-24);
the numbers return as comments where each detail is, here, in `rollouts.py`, `setup.py` and `objectives/policy.py`:

1. Logits are divided by the temperature in every log-probability: of the policy, the reference, and each update.
2. An answer ends with its end token; rewards read what is before it, and nothing is learnt behind it. Padding is told
   by lengths, never by an id, so that an end token that is also the padding token is learnt.
3. Positions count real tokens.
4. The reward of a token is minus its KL to the reference; the last real token has the score on top.
5. An answer that does not end may lose some of its score.
6. Returns are advantages + values before the advantages are whitened, over the real tokens of the rollout.
7. The losses of policy and values are the larger of the plain and the clipped one; that of the values is halved.
8. The weight of the KL follows the KL of each rollout, where it has a target.
9. The learning rate falls linearly to 0.
10. Adam's epsilon is added after the correction of its bias, as PyTorch does; TensorFlow's first steps were smaller.
11. Dropout is off, in writing and in learning.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from langwright.alignment.rollouts import Credit, Rollout
from langwright.objectives.batch import TokenBatch
from langwright.objectives.policy import (
    Estimator,
    Tokens,
    generalised_advantages,
    kl_estimates,
    token_rewards,
    whiten,
)
from langwright.parts.linear import Linear

Kind = Literal["head", "model"]


@dataclass(frozen=True)
class Ppo:
    """From scores to advantages by GAE.

    Args:
        discount, smoothing: γ and λ; see `generalised_advantages`.
        estimator: of the KL that each token is charged for.
        whiten_rewards: divide rewards by their standard deviation first; their mean stays.
    """

    discount: float = 1.0
    smoothing: float = 0.95
    estimator: Estimator = "k1"
    whiten_rewards: bool = False

    def __call__(self, rollout: Rollout) -> Credit:
        """Advantages of mean 0 and standard deviation 1, and the returns that values are to become."""
        real, values = rollout.real, rollout.values
        assert values is not None
        penalties = rollout.kl * kl_estimates(rollout.policy - rollout.reference, self.estimator)
        rewards = token_rewards(rollout.scores, penalties, real)  # 4.
        if self.whiten_rewards:
            rewards = whiten(rewards, real, keep_mean=True)
        advantages = generalised_advantages(rewards, values, real, self.discount, self.smoothing)
        return Credit(whiten(advantages, real), returns=advantages + values)  # 6.


class Values(nn.Module):
    """The reward that is still to come, expected at each token: a linear function of hidden states, 0 at first.

    Args:
        dim: width of the hidden states.
        model: that whose hidden states are read; None for those of the policy itself.
    """

    def __init__(self, dim: int, model: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.output = Linear(dim, 1, bias=True)
        for parameter in self.output.parameters():
            nn.init.zeros_(parameter)

    def forward(self, batch: TokenBatch, hidden: Tensor) -> Tokens:
        """The value of each target of a batch, computed in float32, as the score of a reward model is.

        Args:
            batch: prompts and answers.
            hidden: what the policy makes of them.
        """
        read: Any = hidden if self.model is None else batch.hidden(self.model)[0]
        found: Tensor = self.output(read.float())[..., 0]
        return found
