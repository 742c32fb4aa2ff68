"""Displays, by scikit-learn's convention: one module each."""

from skpref.inspection._plot._cascade import CascadeCurveDisplay
from skpref.inspection._plot._noise import PreferenceNoiseDisplay
from skpref.inspection._plot._reliability import ScoreReliabilityDisplay
from skpref.inspection._plot._training import TrainingCurveDisplay
from skpref.inspection._plot._trajectory import SessionTrajectoryDisplay

__all__ = [
    "CascadeCurveDisplay",
    "PreferenceNoiseDisplay",
    "ScoreReliabilityDisplay",
    "SessionTrajectoryDisplay",
    "TrainingCurveDisplay",
]
