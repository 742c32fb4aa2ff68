"""Type aliases that name the shapes of the user guide."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

ArrayLike = npt.ArrayLike
FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]
SessionIds = Sequence[Any] | npt.NDArray[Any]

__all__ = ["ArrayLike", "BoolArray", "FloatArray", "IntArray", "SessionIds"]
