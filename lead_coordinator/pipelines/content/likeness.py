"""What is out already, as signatures: the nearest published text to a new one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.content.quality import Likeness
from lead_coordinator.text.similarity import Signature

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class PublishedTexts:
    """The MinHash signatures of what is published, all in one matrix: a comparison with a hundred thousand of
    them takes some milliseconds, so nothing is missed as it could be by an index."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        """`rows`: publication_id, url or slug, and signature (bytes); what can't be read is left out."""
        self._ids: list[int] = []
        self._where: list[str] = []
        self._values: list[bytes] = []
        self._matrix: NDArray[np.uint32] | None = None
        for row in rows:
            try:
                signature = Signature.from_bytes(row["signature"])
            except InvalidInput:
                continue
            self.add(row["publication_id"], row["url"] or row["slug"], signature)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, publication_id: int, where: str, signature: Signature) -> None:
        """One more text; one without words is similar to nothing and left out."""
        if signature.shingles:
            self._ids.append(publication_id)
            self._where.append(where)
            self._values.append(signature.values)
            self._matrix = None

    def nearest(self, signature: Signature, *, but: int | None = None) -> Likeness | None:
        """The most similar text that isn't of publication `but`; None where there is none."""
        import numpy as np

        if not signature.shingles or not self._ids:
            return None
        if self._matrix is None:
            self._matrix = np.frombuffer(b"".join(self._values), "<u4").reshape(len(self._ids), -1)
        agree = (self._matrix == np.frombuffer(signature.values, "<u4")).mean(axis=1)
        if but is not None:
            agree[[place for place, one in enumerate(self._ids) if one == but]] = -1.0
        best = int(agree.argmax())
        return None if agree[best] < 0 else Likeness(self._where[best], float(agree[best]))
