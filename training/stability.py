"""How far apart two samples of a number are: the population stability index.

PSI = sum over bins of (a - e) * ln(a / e), a and e being the two samples' shares of the bin, with
bins between the reference's deciles: N. Siddiqi, Credit Risk Scorecards, Wiley 2006, chapter 9; its
distribution: B. Yurdakul and J. Naranjo, Statistical properties of the population stability index,
Journal of Risk Model Validation 14(4), 2020. By custom, below 0.1 nothing has changed, and above
0.25 something has.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS: Final = 10
_EMPTY_SHARE: Final = 1e-4
"""Stands for the share of an empty bin, whose logarithm would be infinite."""


def psi(reference: Floats, actual: Floats) -> float:
    """The index of two samples, at least one number each; 0 and up."""
    edges = deciles(reference)
    return psi_of_shares(shares(reference, edges), shares(actual, edges))


def deciles(reference: Floats) -> Floats:
    """The bounds between the reference's bins: nine, or fewer where many of its numbers are the
    same.
    """
    bounds: Floats = np.unique(np.quantile(reference, np.arange(1, BINS) / BINS))
    return bounds


def shares(sample: Floats, edges: Floats) -> Floats:
    """The sample's share of each bin, one bin more than edges. An edge belongs to the bin above it:
    a value that many numbers have at the upper end, like full coverage, is then set apart.
    """
    places = np.searchsorted(edges, sample, side="right")
    counts: Floats = np.bincount(places, minlength=len(edges) + 1) / len(places)
    return counts


def psi_of_shares(expected: Floats, actual: Floats) -> float:
    """The index of two samples' shares of the same bins."""
    e, a = np.maximum(expected, _EMPTY_SHARE), np.maximum(actual, _EMPTY_SHARE)
    return float(np.sum((a - e) * np.log(a / e)))
