"""Teachers: trained networks, made once and kept."""

from n2n_gym.tasks.summary import Statistics
from n2n_gym.teachers.augmented_logits import teacher_views
from n2n_gym.teachers.learning import teacher_recipe, train_network
from n2n_gym.teachers.loading import Weights, load_teacher
from n2n_gym.teachers.precision import pick_precision, training_step
from n2n_gym.teachers.store import kept_teachers, teacher_folder
from n2n_gym.teachers.teacher import Teacher, Trained
from n2n_gym.teachers.zoo import (
    teacher_architecture,
    torchvision_network,
    traceable_names,
)

__all__ = [
    "Statistics",
    "Teacher",
    "Trained",
    "Weights",
    "kept_teachers",
    "load_teacher",
    "pick_precision",
    "teacher_architecture",
    "teacher_folder",
    "teacher_recipe",
    "teacher_views",
    "torchvision_network",
    "traceable_names",
    "train_network",
    "training_step",
]
