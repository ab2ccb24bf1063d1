"""Trains the policies of a suite in moments: a program that a test starts and kills.

python -m tests.pretraining_program SUITE FOLDER
"""

import sys
from pathlib import Path

from n2n_gym.evaluators import elastic
from n2n_gym.pretraining import learning, predictor
from n2n_gym.pretraining.pipeline import pretrain
from n2n_gym.pretraining.suite import read_suite
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.teachers import learning as teaching


def main() -> None:
    suite, folder = map(Path, sys.argv[1:])
    recipe = Recipe(4, 32, largest_gradient=1.0)
    teaching.teacher_recipe = lambda *_: recipe
    elastic.STEPS, elastic.LEAST = 0, 0.0
    predictor.EPOCHS, predictor.MEMBERS = 2, 2
    learning.KEEP_EVERY = 0.0
    pretrain(read_suite(suite), folder)


if __name__ == "__main__":
    main()
