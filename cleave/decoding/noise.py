"""Uniform numbers that are a function of (seed, sample, position) only.

A counter-based generator: each row of a batch owns a 64-bit key, position t of the row is the hash of key + t. No state advances, so
a reply does not depend on which rows share its batch, in which order they finish, or whether the call is repeated.
The hash is the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
"""

import secrets
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15

U64 = npt.NDArray[np.uint64]


def row_key(seed: int | None, sample: int) -> int:
    """The key of sample `sample` of a request. `seed` may be any integer; None draws an unpredictable key."""
    if seed is None:
        return secrets.randbits(64)
    return _mix_int((_mix_int(seed) + (sample + 1) * _GOLDEN) & _MASK)


def uniforms(keys: U64, position: int) -> npt.NDArray[np.float64]:
    """One number in [0, 1) per key, with 52 random bits, so that u × total stays below total in float64."""
    bits = _mix_array(keys + np.uint64((position + 1) * _GOLDEN & _MASK))
    return (bits >> np.uint64(12)).astype(np.float64) * 2.0**-52


def as_keys(values: Sequence[int]) -> U64:
    """Row keys as an array for `uniforms`."""
    return np.array(values, dtype=np.uint64)


def _mix_int(value: int) -> int:
    value = ((value & _MASK) + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _mix_array(values: U64) -> U64:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
