"""Topics proposed from stories that we don't cover, with an expected value and its evidence.

    value = earnings × attention × freshness × novelty - cost

earnings   what an article of ours earns in 30 days. The mean s of the k pages about the same subject is drawn
           to the mean m of all pages that have revenue figures by Bühlmann's credibility formula (1967,
           "Experience rating and credibility", ASTIN Bulletin 4): Z s + (1 - Z) m with Z = k / (k + 5). Its
           95 % interval is Student's for the mean of all pages.
attention  how many feeds carry the story, relative to the mean story, at most 3; one half more where a rising
           term is part of it.
freshness  1/2 to the power of age over half-life, both in hours; the age is that of the last item.
novelty    1 less the similarity with our nearest article.
cost       what an article has cost on average, or the site's setting.

Attention, freshness and novelty are judgements, not measurements: they rank the topics of a day. Where too
few pages have figures, earnings are what the site's profile assumes; where it assumes nothing, there is no
value, and nothing is submitted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from lead_coordinator.pipelines.intelligence.bursts import Burst
from lead_coordinator.pipelines.intelligence.coverage import Article, Coverage, article_words, story_bag
from lead_coordinator.pipelines.intelligence.items import Item
from lead_coordinator.pipelines.intelligence.settings import TopicSettings
from lead_coordinator.pipelines.intelligence.vectors import Weight, cosine
from lead_coordinator.text.plain import one_line

MAX_ATTENTION = 3.0
RISING = 1.5
CREDIBILITY_PAGES = 5
# Pages as alike as this are about the same subject, if not about the same.
SAME_SUBJECT = 0.1
MAX_EVIDENCE = 10
MAX_KEYWORDS = 6
_CENT = Decimal("0.01")


@dataclass(frozen=True)
class Earnings:
    """What an article is taken to earn in 30 days, US dollars; None: nothing is known. `basis`: why."""

    mean_usd: float | None
    low_usd: float | None
    high_usd: float | None
    basis: str


@dataclass(frozen=True)
class Evidence:
    """One item that a proposal rests on."""

    title: str
    url: str
    feed_url: str
    published: datetime


@dataclass(frozen=True)
class Proposal:
    """A topic to write about. Money in US dollars over 30 days; None where nothing can be said.

    `factors`: what the value is the product of. `reasons`: why, as sentences.
    """

    story_id: str
    title: str
    keywords: tuple[str, ...]
    angle: str
    value_usd: Decimal | None
    low_usd: Decimal | None
    high_usd: Decimal | None
    basis: str
    factors: Mapping[str, float]
    reasons: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    gap: bool
    submit: bool = False


def propose(
    found: Sequence[Coverage],
    bursts: Sequence[Burst],
    articles: Sequence[Article],
    weight: Weight,
    settings: TopicSettings,
    now: datetime,
    *,
    article_cost_usd: Decimal | None = None,
    names: Mapping[str, str] | None = None,
) -> list[Proposal]:
    """The stories worth an article, the most valuable first, then those with most attention.

    `article_cost_usd`: what our articles have cost on average; `names`: feed address → name to show.
    """
    mean_feeds = sum(len(one.feeds) for one in found) / len(found) if found else 1.0
    cost = settings.article_cost_usd if article_cost_usd is None else article_cost_usd
    proposals = [
        _proposal(one, bursts, articles, weight, settings, now, mean_feeds, cost, names or {})
        for one in found
        if _wanted(one, settings, now)
    ]
    proposals.sort(key=lambda p: (-(p.value_usd or Decimal(0)), -p.factors["attention"], p.story_id))
    return proposals


def worth_submitting(proposal: Proposal, settings: TopicSettings) -> bool:
    """Whether a proposal is valued, and at or above the site's threshold."""
    return proposal.value_usd is not None and proposal.value_usd >= settings.submit_above_usd


def earnings_of(
    bag: Mapping[str, float], articles: Sequence[Article], weight: Weight, settings: TopicSettings
) -> Earnings:
    """What an article about these words is taken to earn."""
    counted = [article for article in articles if article.earned_usd is not None]
    if len(counted) < settings.min_pages:
        few = f"too little data: {len(counted)} of our pages have revenue figures, "
        few += f"{settings.min_pages} are needed"
        if settings.assumed_value_usd is None:
            return Earnings(None, None, None, f"{few}, and the profile assumes nothing")
        assumed = float(settings.assumed_value_usd)
        return Earnings(assumed, None, None, f"{few}; the profile assumes {assumed:.2f} USD an article")
    earned = [float(article.earned_usd or 0.0) for article in counted]
    mean = math.fsum(earned) / len(earned)
    alike = [
        money
        for article, money in zip(counted, earned, strict=True)
        if cosine(bag, _floats(article_words(article)), weight) >= SAME_SUBJECT
    ]
    share = len(alike) / (len(alike) + CREDIBILITY_PAGES)
    drawn = share * math.fsum(alike) / len(alike) + (1 - share) * mean if alike else mean
    half = _half_interval(earned, mean)
    basis = f"{len(counted)} of our pages earned {mean:.2f} USD in 30 days on average"
    if alike:
        basis += f", {len(alike)} of them about the subject {math.fsum(alike) / len(alike):.2f}"
    return Earnings(drawn, drawn - half, drawn + half, basis)


def keywords_of(one: Coverage) -> tuple[str, ...]:
    """What the story is about, for a brief: phrases that its items share, then its strongest words."""
    originals = [item for item in one.items if not item.duplicate_of] or list(one.items)
    shared: Counter[str] = Counter()
    for item in originals:
        shared.update({term for term, _ in item.terms if " " in term})
    least = 2 if len(originals) > 1 else 1
    strength = one.story.centroid
    phrases = [term for term, count in shared.items() if count >= least]
    phrases.sort(
        key=lambda term: (-shared[term], -sum(strength.get(word, 0.0) for word in term.split()), term)
    )
    listed = [*phrases[:3], *one.story.words[:MAX_KEYWORDS]]
    kept: list[str] = []
    for term in listed:
        if not any(set(term.split()) <= set(other.split()) for other in kept):
            kept.append(term)
    return tuple(kept[:MAX_KEYWORDS])


def _wanted(one: Coverage, settings: TopicSettings, now: datetime) -> bool:
    age = (now - one.last_at).total_seconds() / 3600
    return not one.covered and len(one.feeds) >= settings.min_feeds and age <= settings.max_age_hours


def _proposal(
    one: Coverage,
    bursts: Sequence[Burst],
    articles: Sequence[Article],
    weight: Weight,
    settings: TopicSettings,
    now: datetime,
    mean_feeds: float,
    cost: Decimal,
    names: Mapping[str, str],
) -> Proposal:
    rising = [burst for burst in bursts if _holds(one, burst.term)]
    attention = min(MAX_ATTENTION, len(one.feeds) / mean_feeds) * (RISING if rising else 1.0)
    age = max(0.0, (now - one.last_at).total_seconds() / 3600)
    factors = {
        "attention": round(attention, 4),
        "freshness": round(0.5 ** (age / settings.half_life_hours), 4),
        "novelty": round(1 - one.similarity, 4),
    }
    earnings = earnings_of(story_bag(one.story), articles, weight, settings)
    factor = math.prod(factors.values())
    keywords = keywords_of(one)
    labels = [names.get(url, url) for url in one.feeds]
    return Proposal(
        story_id=one.story.story_id,
        title=title_of(keywords, one.story.title),
        keywords=keywords,
        angle=one_line(
            f"What is new, who says it, and what it means for readers. Carried by {_and(labels)}.", 300
        ),
        value_usd=_money(earnings.mean_usd, factor, cost),
        low_usd=_money(earnings.low_usd, factor, cost),
        high_usd=_money(earnings.high_usd, factor, cost),
        basis=earnings.basis,
        factors=factors,
        reasons=tuple(_reasons(one, rising, labels, names)),
        evidence=tuple(
            Evidence(item.title, item.url, item.feed_url, item.published) for item in _by_feed(one.items)
        ),
        gap=one.gap,
    )


def title_of(keywords: Sequence[str], fallback: str) -> str:
    """A working title of our own: nobody's headline."""
    if not keywords:
        return one_line(fallback, 120)
    lead = keywords[0]
    more = [term for term in keywords[1:] if " " not in term and term not in lead.split()][:2]
    subject = lead if " " in lead or not more else " ".join((lead, *more))
    return one_line(f"{subject[:1].upper()}{subject[1:]}: what is known so far", 120)


def _reasons(
    one: Coverage, rising: Sequence[Burst], labels: Sequence[str], names: Mapping[str, str]
) -> list[str]:
    count = len(one.items)
    reasons = [f"{len(one.feeds)} feeds carry it in {count} items: {_and(labels)}."]
    for burst in rising[:3]:
        reasons.append(
            f"“{burst.term}” rises: {burst.today} items today, {burst.expected:.1f} expected "
            f"(false-alarm rate {burst.q_value:.2g})."
        )
    if one.gap:
        reasons.append(
            f"Competitors cover it and we don't: {_and([names.get(u, u) for u in one.competitors])}."
        )
    if one.ours is not None and one.similarity >= SAME_SUBJECT:
        reasons.append(f"Our nearest article is “{one.ours.title}” (similarity {one.similarity:.2f}).")
    return reasons


def _holds(one: Coverage, term: str) -> bool:
    """Whether a term is in at least half of the story's items (and in two, where it has two)."""
    holding = sum(any(term == name for name, _ in item.terms) for item in one.items)
    return holding >= max(min(2, len(one.items)), len(one.items) / 2)


def _by_feed(items: Sequence[Item]) -> list[Item]:
    """One item of each feed first, the newest; then the others."""
    first: dict[str, Item] = {}
    rest = []
    for item in items:
        if not item.url:
            continue
        if item.feed_url in first:
            rest.append(item)
        else:
            first[item.feed_url] = item
    return [*first.values(), *rest][:MAX_EVIDENCE]


def _half_interval(values: Sequence[float], mean: float) -> float:
    from scipy.stats import t

    count = len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return float(t.ppf(0.975, count - 1)) * math.sqrt(variance / count)


def _money(earned: float | None, factor: float, cost: Decimal) -> Decimal | None:
    return None if earned is None else (Decimal(earned * factor) - cost).quantize(_CENT)


def _floats(bag: Mapping[str, int]) -> dict[str, float]:
    return {word: float(count) for word, count in bag.items()}


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
