"""Which kept question is nearest? Exact, in a matrix that grows and deletes in place."""

from __future__ import annotations

from typing import Final

import numpy as np

from vivace.types import Vector, Vectors

_BLOCK: Final = 256
"""Rows in a block. OpenBLAS takes a second thread for products of more than 9,216 numbers, and on a
busy machine waits 10 ms for it: so every product here is a stack of smaller ones."""
_FIRST: Final = 8
"""Rows of an index that begins: every filter has its own, and many hold a question or two."""
_SMALL: Final = 8_192
"""Numbers in a product of whole rows, for the same reason."""
_AXES: Final = 24
"""Measured over 10,000 questions of the built-in model: with 24 axes 62 rows in the median are
left to be compared in full at a floor of 0.9, 11 at 0.93; with 31 axes 15 and 2, with 16 axes 430
and 92. In time 24 are best from 0.92 on."""
_WORTH: Final = 512
"""Rows from which looking along the axes first is faster than comparing all in full."""
_ROUNDS: Final = 3
_SLACK: Final = 1e-5
"""Of rounding: a bound is never taken for smaller than what it bounds."""


class NearestQuestion:
    """Vectors of unit length under integer keys. Not thread-safe.

    The vectors' principal axes are found by subspace iteration, and each vector is kept a second
    time as its coordinates along them and the length of the rest of it. By Cauchy and Schwarz
    a cosine is at most the product of the coordinates plus that of the two rests: what stays below
    the floor by this bound is not looked at again, and nothing at or above the floor is ever
    missed. 25 products a row instead of one a dimension. (Bounds that leave rows out, never one
    that counts: Fukunaga and Narendra, "A branch and bound algorithm for computing k-nearest
    neighbors", 1975.)
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._rows = np.zeros((_FIRST, dim), np.float32)
        self._keys: list[int] = []
        self._at: dict[int, int] = {}
        self._axes: Vectors | None = None
        self._short = np.zeros((0, 0, 0), np.float32)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def nbytes(self) -> int:
        """Of the matrices, with the room they keep to grow."""
        return self._rows.nbytes + self._short.nbytes

    def add(self, key: int, vector: Vector) -> None:
        """Keep a vector (dim,); one of the same key is replaced. Amortised O(dim), but for the
        axes, which are found once, of the first 512 rows: some ten milliseconds. Questions of
        another kind that come later cost time, never a miss."""
        at = self._at.get(key)
        if at is None:
            at = self._at[key] = len(self._keys)
            self._keys.append(key)
            if at == len(self._rows):
                self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
                if self._axes is not None:
                    self._short = np.concatenate([self._short, np.zeros_like(self._short)])
        self._rows[at] = vector
        if self._axes is not None:
            self._short[at // _BLOCK, :, at % _BLOCK] = _shortened(self._axes, vector)
        elif len(self._keys) >= _WORTH and self.dim >= 4 * _AXES:
            self._find_axes()

    def remove(self, key: int) -> None:
        """Forget it; the last row moves into its place. Unknown keys are ignored."""
        at = self._at.pop(key, None)
        if at is None:
            return
        last = self._keys.pop()
        if last != key:
            end = len(self._keys)
            self._keys[at] = last
            self._at[last] = at
            self._rows[at] = self._rows[end]
            if self._axes is not None:
                self._short[at // _BLOCK, :, at % _BLOCK] = self._short[
                    end // _BLOCK, :, end % _BLOCK
                ]
        if len(self._rows) > _FIRST and 4 * len(self._keys) <= len(self._rows):
            self._halve()

    def nearest(self, vector: Vector, floor: float) -> tuple[int, float] | None:
        """Key and cosine of the nearest to a vector (dim,) of unit length; None where none is at
        the floor or above."""
        count = len(self._keys)
        if not count:
            return None
        if self._axes is None:
            scores = _products(self._rows, vector, count)
            best = int(scores.argmax())
            at = best
        else:
            blocks = self._short[: -(-count // _BLOCK)]
            bounds = np.matmul(_shortened(self._axes, vector), blocks).ravel()[:count]
            rows = (bounds >= floor - _SLACK).nonzero()[0]
            if not len(rows):
                return None
            near = self._rows.take(rows, axis=0)
            few = near.size <= _SMALL
            scores = near @ vector if few else np.einsum("ij,j->i", near, vector)
            best = int(scores.argmax())
            at = int(rows[best])
        score = float(scores[best])
        return (self._keys[at], score) if score >= floor else None

    def _halve(self) -> None:
        """Half of the room; without axes where they are not worth it any more."""
        half = len(self._rows) // 2
        self._rows = self._rows[:half].copy()
        if self._axes is None:
            return
        if half < _WORTH:
            self._axes, self._short = None, np.zeros((0, 0, 0), np.float32)
        else:
            self._short = self._short[: half // _BLOCK].copy()

    def _find_axes(self) -> None:
        """Subspace iteration (Bauer, 1957); then every row's coordinates."""
        count = len(self._keys)
        sample = self._rows[:count]
        rng = np.random.default_rng(0)
        axes = rng.standard_normal((self.dim, _AXES)).astype(np.float32)
        for _ in range(_ROUNDS):
            axes, _ = np.linalg.qr(sample.T @ (sample @ axes))
        self._axes = np.ascontiguousarray(axes.T)
        short = np.zeros((len(self._rows), _AXES + 1), np.float32)
        short[:, :-1] = self._rows @ axes
        rests = 1 - np.square(short[:count, :-1]).sum(axis=1)
        short[:count, -1] = np.sqrt(np.maximum(0, rests))
        blocks = short.reshape(-1, _BLOCK, _AXES + 1).transpose(0, 2, 1)
        self._short = np.ascontiguousarray(blocks)


def _products(rows: Vectors, vector: Vector, count: int) -> Vector:
    """Of the first rows, in so small steps that BLAS stays on this thread.

    There are a multiple of 8 rows, so any power of two up to that divides them.
    """
    few = 1 << min(3, max(0, (_SMALL // len(vector)).bit_length() - 1))
    wanted = rows[: -(-count // few) * few].reshape(-1, few, len(vector))
    product: Vector = np.matmul(wanted, vector).ravel()
    return product[:count]


def _shortened(axes: Vectors, vector: Vector) -> Vector:
    short = np.empty(_AXES + 1, np.float32)
    along = short[:-1] = _products(axes, vector, _AXES)
    short[-1] = max(0.0, 1.0 - float(along.dot(along))) ** 0.5
    return short
