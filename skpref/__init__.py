"""Small utterance classifiers from noisy LLM scores, by preferences within dialogue sessions."""

from skpref import datasets, inspection, metrics, model_selection
from skpref._calibrator import LLMScoreCalibrator
from skpref._context import DialogueContext
from skpref._encoder import SentenceEncoder
from skpref._features import DialogueFeatures
from skpref._llm._labeler import LLMLabeler
from skpref._llm._prompts import PromptBank
from skpref._sampler import IntraSessionPairSampler, Pairs
from skpref._smoother import KNNLabelSmoother
from skpref._student._cascade import LLMCascadeClassifier
from skpref._student._classifier import PairwisePreferenceClassifier
from skpref._student._text_classifier import PairwisePreferenceTextClassifier
from skpref._version import __version__
from skpref.inspection._plot import (
    CascadeCurveDisplay,
    PreferenceNoiseDisplay,
    ScoreReliabilityDisplay,
    SessionTrajectoryDisplay,
    TrainingCurveDisplay,
)

__all__ = [
    "CascadeCurveDisplay",
    "DialogueContext",
    "DialogueFeatures",
    "IntraSessionPairSampler",
    "KNNLabelSmoother",
    "LLMCascadeClassifier",
    "LLMLabeler",
    "LLMScoreCalibrator",
    "Pairs",
    "PairwisePreferenceClassifier",
    "PairwisePreferenceTextClassifier",
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
    "model_selection",
]
