"""Teachers: trained networks, made once and kept."""

from n2n_gym.teachers.learning import teacher_recipe, train_network
from n2n_gym.teachers.loading import Statistics, Weights, load_teacher
from n2n_gym.teachers.store import kept_teachers, teacher_folder, write_whole
from n2n_gym.teachers.teacher import Teacher, Trained
from n2n_gym.teachers.zoo import names, teacher_architecture, torchvision_network

__all__ = [
    "Statistics",
    "Teacher",
    "Trained",
    "Weights",
    "kept_teachers",
    "load_teacher",
    "names",
    "teacher_architecture",
    "teacher_folder",
    "teacher_recipe",
    "torchvision_network",
    "train_network",
    "write_whole",
]
