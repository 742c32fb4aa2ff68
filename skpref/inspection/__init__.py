"""Inspect your own data: how noisy the scores are, which prompts help, what skpref gains."""

from skpref.inspection._agreement import prompt_agreement
from skpref.inspection._comparison import compare_with_distillation
from skpref.inspection._noise import preference_noise

__all__ = ["compare_with_distillation", "preference_noise", "prompt_agreement"]
