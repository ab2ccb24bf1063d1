"""MaskablePPO learns which layers of a network to remove.

    pip install -e ".[sb3]"
    python examples/masked_ppo.py                   # or with another teacher's name

The evaluator "inherit" scores students without training, several per second.
"""

import sys

import gymnasium as gym
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback

TEACHER = sys.argv[1] if len(sys.argv) > 1 else "resnet18"
STUDENTS = int(sys.argv[2]) if len(sys.argv) > 2 else 40


class Best(BaseCallback):
    """Keeps the best student, and ends the training after a number of students."""

    reward, student, seen = -1.0, None, 0

    def _on_step(self) -> bool:
        for reward, info in zip(
            self.locals["rewards"], self.locals["infos"], strict=True
        ):
            if "student" in info and "accuracy" in info:  # an episode is over
                self.seen += 1
                if reward > self.reward:
                    self.reward, self.student = float(reward), info
                    print(
                        f"student {self.seen}: reward {reward:.3f}, accuracy "
                        f"{info['accuracy']:.1%}, compression {info['compression']:.1%}"
                    )
        return self.seen < STUDENTS


env = gym.make("n2n_gym:N2NRemove-v0", teacher=TEACHER, task="digits")
flat = gym.wrappers.FlattenObservation(env)
agent = MaskablePPO("MlpPolicy", flat, n_steps=96, batch_size=96, gamma=1.0)
best = Best()
agent.learn(10**9, callback=best)
print(f"best of {best.seen}: {best.reward:.3f}")
