"""Inspect your own data: noise of scores, use of prompts, quality of labels and classifiers."""

from skpref.inspection._agreement import prompt_agreement
from skpref.inspection._comparison import compare_with_distillation
from skpref.inspection._forecast import learning_forecast
from skpref.inspection._noise import preference_noise
from skpref.inspection._performance import performance_report
from skpref.inspection._suspects import suspects

__all__ = [
    "compare_with_distillation",
    "learning_forecast",
    "performance_report",
    "preference_noise",
    "prompt_agreement",
    "suspects",
]
