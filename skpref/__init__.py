"""Small utterance classifiers from noisy LLM scores, by preferences within dialogue sessions."""

from skpref import datasets, inspection, metrics
from skpref._calibrator import LLMScoreCalibrator
from skpref._context import DialogueContext
from skpref._encoder import SentenceEncoder
from skpref._llm._labeler import LLMLabeler
from skpref._llm._prompts import PromptBank
from skpref._sampler import IntraSessionPairSampler, Pairs
from skpref._smoother import KNNLabelSmoother
from skpref._student._classifier import PairwisePreferenceClassifier
from skpref.inspection._plot import (
    PreferenceNoiseDisplay,
    ScoreReliabilityDisplay,
    SessionTrajectoryDisplay,
    TrainingCurveDisplay,
)

__version__ = "0.1.0.dev0"

__all__ = [
    "DialogueContext",
    "IntraSessionPairSampler",
    "KNNLabelSmoother",
    "LLMLabeler",
    "LLMScoreCalibrator",
    "Pairs",
    "PairwisePreferenceClassifier",
    "PreferenceNoiseDisplay",
    "PromptBank",
    "ScoreReliabilityDisplay",
    "SentenceEncoder",
    "SessionTrajectoryDisplay",
    "TrainingCurveDisplay",
    "__version__",
    "datasets",
    "inspection",
    "metrics",
]
