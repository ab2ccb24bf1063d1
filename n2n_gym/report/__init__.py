"""What a run found, as one page that needs nothing else."""

from n2n_gym.report.page import write_report

__all__ = ["write_report"]
