"""The report: one page without external files."""

from n2n_gym.report.comparison import write_comparison
from n2n_gym.report.page import write_report

__all__ = ["write_comparison", "write_report"]
