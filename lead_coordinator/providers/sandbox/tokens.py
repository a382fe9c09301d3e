"""Tokens, roughly: four characters each, as both services say of English text."""

from __future__ import annotations

from collections import OrderedDict

CHARS_A_TOKEN = 4
# Both services keep long common prefixes; shorter prompts are never cached.
CACHED_FROM_TOKENS = 1024
CACHE_STEP_TOKENS = 128
_REMEMBERED = 256


def count_tokens(*texts: str) -> int:
    """Tokens of the texts, each rounded up."""
    return sum(-(-len(text) // CHARS_A_TOKEN) for text in texts)


def cut_to_tokens(text: str, tokens: int) -> str:
    """The beginning of a text that is at most so many tokens."""
    return text[: max(tokens, 0) * CHARS_A_TOKEN]


class PrefixCache:
    """Says how much of a prompt a service has seen before: the system text, where it is long enough."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()

    def cached_tokens(self, model: str, prefix: str) -> int:
        tokens = count_tokens(prefix)
        if tokens < CACHED_FROM_TOKENS:
            return 0
        key = (model, hash(prefix))
        known = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return tokens - tokens % CACHE_STEP_TOKENS if known else 0

    def clear(self) -> None:
        self._seen.clear()
