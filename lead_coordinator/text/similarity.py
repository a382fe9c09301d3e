"""Near duplicates of texts by MinHash.

A text is the set of its word 5-shingles (Broder 1997, "On the resemblance and containment of documents"). Its
signature holds, for each of 128 random permutations, the smallest hash value of the set; two signatures agree
in a place with the probability of the Jaccard similarity of the two sets. So the share of places that agree
estimates it, with a standard deviation of sqrt(J (1 - J) / 128): 0.027 at J = 0.9, 0.044 at J = 0.5.

The same text gives the same signature on every machine and in every version that writes `FORMAT`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from lead_coordinator.errors import InvalidInput
from lead_coordinator.text.words import words

if TYPE_CHECKING:
    from datasketch import MinHash, MinHashLSH

PERMUTATIONS = 128
SHINGLE_WORDS = 5
# The first byte of a stored signature: which shingles, hash function and permutations it was made with.
FORMAT = 1
_VALUE_BYTES = 4 * PERMUTATIONS
_BATCH = 2048
# Finding too many candidates costs a comparison each; missing one can't be made up for.
_WEIGHTS = (0.1, 0.9)


@dataclass(frozen=True)
class Signature:
    """The MinHash of a text. `values`: 128 little-endian uint32; `shingles`: size of the set (0: no word)."""

    values: bytes
    shingles: int

    def to_bytes(self) -> bytes:
        """517 bytes: format, number of shingles, values."""
        return bytes([FORMAT]) + min(self.shingles, 2**32 - 1).to_bytes(4, "little") + self.values

    @staticmethod
    def from_bytes(stored: bytes) -> Signature:
        """The signature that `to_bytes` stored. Raises `InvalidInput`."""
        if len(stored) != 5 + _VALUE_BYTES or stored[0] != FORMAT:
            raise InvalidInput(
                f"signature: {len(stored)} bytes of format {stored[0] if stored else None}; "
                f"must be {5 + _VALUE_BYTES} bytes of format {FORMAT}."
            )
        return Signature(bytes(stored[5:]), int.from_bytes(stored[1:5], "little"))


@dataclass(frozen=True)
class Match:
    """Something similar: its key, and the estimated Jaccard similarity, 0 to 1."""

    key: str
    similarity: float


def shingles(text: str) -> set[str]:
    """Runs of five words of a plain text; of a shorter one all its words as one; of none, none."""
    listed = words(text)
    if not listed:
        return set()
    if len(listed) < SHINGLE_WORDS:
        return {" ".join(listed)}
    return {" ".join(listed[at : at + SHINGLE_WORDS]) for at in range(len(listed) - SHINGLE_WORDS + 1)}


def digest(text: str) -> str:
    """SHA-256 (hex) of the words of a plain text: equal where nothing but case, space and punctuation
    differs."""
    return hashlib.sha256(" ".join(words(text)).encode("utf-8", "replace")).hexdigest()


def signature(text: str) -> Signature:
    """The signature of a plain text (of its first `words.MAX_CHARS` characters)."""
    parts = [shingle.encode("utf-8", "replace") for shingle in shingles(text)]
    sketch = _empty().copy()
    for start in range(0, len(parts), _BATCH):
        sketch.update_batch(parts[start : start + _BATCH])
    return Signature(sketch.hashvalues.astype("<u4").tobytes(), len(parts))


def jaccard(a: Signature, b: Signature) -> float:
    """The estimated Jaccard similarity of two texts, 0 to 1. A text without words is similar to nothing."""
    import numpy as np

    if not a.shingles or not b.shingles:
        return 0.0
    agree = np.frombuffer(a.values, "<u4") == np.frombuffer(b.values, "<u4")
    return float(agree.mean())


class NearDuplicates:
    """A collection of signatures that finds those at least `threshold` (over 0, up to 1) similar.

    Candidates come from locality-sensitive hashing in bands (Leskovec, Rajaraman, Ullman, "Mining of Massive
    Datasets", 3.4) and are then compared, so what is found is similar by the estimate; near the threshold one
    in some hundred may be missed.
    """

    def __init__(self, threshold: float) -> None:
        if not 0 < threshold <= 1:
            raise InvalidInput(f"threshold: {threshold} must be over 0 and at most 1.")
        from datasketch import MinHashLSH

        self._threshold = threshold
        self._signatures: dict[str, Signature] = {}
        # LSH takes thresholds below 1; equal signatures are found by any.
        self._index: MinHashLSH = MinHashLSH(
            threshold=min(threshold, 0.99), num_perm=PERMUTATIONS, weights=_WEIGHTS, prepickle=False
        )

    def __len__(self) -> int:
        return len(self._signatures)

    def __iter__(self) -> Iterator[str]:
        return iter(self._signatures)

    def add(self, key: str, sig: Signature) -> None:
        """Keeps a signature under a key; what was there under the key is replaced."""
        if key in self._signatures:
            self._index.remove(key)
        self._signatures[key] = sig
        self._index.insert(key, _sketch(sig))

    def find(self, sig: Signature) -> list[Match]:
        """What is similar enough, most similar first, then by key."""
        if not sig.shingles:
            return []
        keys = self._index.query(_sketch(sig))
        found = (Match(str(key), jaccard(sig, self._signatures[key])) for key in keys)
        close = [match for match in found if match.similarity >= self._threshold]
        return sorted(close, key=lambda match: (-match.similarity, match.key))


@cache
def _empty() -> MinHash:
    from datasketch import MinHash

    return MinHash(num_perm=PERMUTATIONS, seed=1, scheme="affine32")


def _sketch(sig: Signature) -> MinHash:
    import numpy as np
    from datasketch import MinHash

    return MinHash(
        seed=1,
        scheme="affine32",
        hashvalues=np.frombuffer(sig.values, "<u4").astype("u4"),
        permutations=_empty().permutations,
    )
