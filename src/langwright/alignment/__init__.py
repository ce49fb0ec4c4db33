"""From preferences to a policy: rewards, rollouts, and what is learnt of them."""
