"""One task of the content pipeline, from what it asks for to its outcome.

A new article: research → write (steps.py) → gate (quality.py) → publish, or wait for a person (publish.py).
An update goes the same way at the address of what is out. A decision is only carried out. Whatever dies in
between, the next attempt finds the steps that were paid for, or the revision that was stored, and goes on
there.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from lead_coordinator.database import articles
from lead_coordinator.database.executions import ClaimedTask
from lead_coordinator.errors import InvalidInput, QualityRefused
from lead_coordinator.pipelines.content.article import Article, as_json, from_json, plain
from lead_coordinator.pipelines.content.brief import Brief, parse_brief
from lead_coordinator.pipelines.content.desk import Desk
from lead_coordinator.pipelines.content.kept import KeptInDatabase
from lead_coordinator.pipelines.content.likeness import PublishedTexts
from lead_coordinator.pipelines.content.links import related
from lead_coordinator.pipelines.content.markup import html_problems
from lead_coordinator.pipelines.content.orders import (
    PublishOrder,
    UpdateOrder,
    VisibilityOrder,
    WriteOrder,
    parse_order,
)
from lead_coordinator.pipelines.content.prompts import instructions
from lead_coordinator.pipelines.content.provenance import (
    audits,
    provenance,
    published_before,
    task_outcome,
    unchanged,
)
from lead_coordinator.pipelines.content.publish import Manuscript, Publisher
from lead_coordinator.pipelines.content.quality import Evidence, Judgement, judge, likeness_problem
from lead_coordinator.pipelines.content.research import Notes, SourceNote, read_sources
from lead_coordinator.pipelines.content.settings import ContentSettings
from lead_coordinator.pipelines.content.site import StaticSite
from lead_coordinator.pipelines.content.steps import Writer, Written
from lead_coordinator.pipelines.content.targets import Showing, rendered
from lead_coordinator.pipelines.runtime import TaskOutcome, TaskRun
from lead_coordinator.settings import Settings
from lead_coordinator.text.similarity import Signature, signature

# A step waits for a slot, then for an answer (p95 of real providers: 15 s). With less left it isn't started.
STEP_SECONDS = 20.0


@dataclass(frozen=True)
class Past:
    """What a task has behind it: what its calls cost, and how often a person had it tried again, for whom
    everything is written anew."""

    spent_usd: Decimal
    rounds: int

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> Past:
        """Of a task as `get_task` tells it. A call that isn't settled counts with its maximum."""
        calls = task["calls"]
        costs = (call["max_cost_usd"] if call["cost_usd"] is None else call["cost_usd"] for call in calls)
        return cls(sum((Decimal(str(cost)) for cost in costs), Decimal(0)), len(task["dead_letters"]))


@dataclass(frozen=True)
class Job:
    """What one piece of writing needs to know. `publication_id`: of the article that is updated."""

    run: TaskRun
    settings: ContentSettings
    site: str
    brief: Brief
    notes: Notes
    past: Past
    publication_id: int | None = None


class ContentHandler:
    """Works the content tasks of one run. `sandbox` marks the pages as sandbox text."""

    def __init__(self, site: StaticSite, *, sandbox: bool = False) -> None:
        self._desk = Desk(site)
        self._sandbox = sandbox

    @classmethod
    def of(cls, settings: Settings) -> ContentHandler:
        """The handler of a run with these settings."""
        return cls(StaticSite(settings.site_dir, settings.site_url), sandbox=settings.use_sandbox)

    async def __aenter__(self) -> ContentHandler:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._desk.close()

    async def work(self, run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        outcome = await self._carry_out(run, task)
        profile = run.profiles.of(outcome.result["site"])
        return replace(outcome, follow_ups=audits(outcome.result, profile))

    async def _carry_out(self, run: TaskRun, task: ClaimedTask) -> TaskOutcome:
        order = parse_order(task.payload)
        publisher = Publisher(
            run.db,
            run.lease,
            run.task_id,
            lambda site: self._desk.target(run, site),
            sandbox=self._sandbox,
            now=run.now,
        )
        match order:
            case PublishOrder():
                return await self._bring_out(run, publisher, order.article_id)
            case VisibilityOrder():
                changed = await publisher.change(order.publication_id, order.wish)
                return unchanged(changed, order.wish)
        known = await run.db.call("get_task", task_id=run.task_id)
        if (stored := known.get("article")) is not None:
            # An earlier attempt has written it: only what comes after that is left to do.
            return await self._bring_out(run, publisher, stored["article_id"], recovered=True)
        row = known.get("publication")
        if isinstance(order, WriteOrder) and row and row["status"] == "published":
            await publisher.refresh(row["site"])
            return published_before(row)
        settings = run.profiles.of(order.site).content
        past = Past.of(known)
        if isinstance(order, WriteOrder):
            return await self._write(run, publisher, settings, order.brief, past)
        return await self._update(run, publisher, settings, order, past)

    # ---- writing -------------------------------------------------------------------------------------------

    async def _write(
        self, run: TaskRun, publisher: Publisher, settings: ContentSettings, brief: Brief, past: Past
    ) -> TaskOutcome:
        brief = _with_voice(brief, settings)
        kept = KeptInDatabase(run)
        notes = await self._research(run, kept, settings, brief, but=None)
        job = Job(run, settings, brief.site, brief, notes, past)
        written = await self._writer(job, kept).write(brief)
        manuscript = self._accepted(job, written, {"kind": "new"}, await self._desk.texts(run))
        outcome = await publisher.publish(brief.site, manuscript)
        return task_outcome(outcome, job.brief, written, sandbox=self._sandbox)

    async def _update(
        self,
        run: TaskRun,
        publisher: Publisher,
        settings: ContentSettings,
        order: UpdateOrder,
        past: Past,
    ) -> TaskOutcome:
        found = await articles.find_publication(run.db, order.site, order.slug)
        if found is None or found["status"] != "published":
            is_known = "has taken its article off" if found else "has no article"
            raise InvalidInput(
                f"{order.kind}.slug: {order.slug!r} given, and site {order.site} {is_known} there"
            )
        if found["content"] is None:
            raise InvalidInput(
                f"{order.kind}.slug: {order.slug!r} was published by an older version, "
                "which kept no text to update"
            )
        article = from_json(found["content"])
        brief = _brief_of(found, article, order.site)
        kept = KeptInDatabase(run)
        notes = await self._research(run, kept, settings, brief, but=found["url"])
        job = Job(run, settings, order.site, brief, notes, past, found["publication_id"])
        article = replace(article, slug=order.slug)
        written = await self._writer(job, kept).update(brief, article, order.why)
        how = {"kind": order.kind, "why": dict(order.why)}
        manuscript = self._accepted(job, written, how, await self._desk.texts(run))
        outcome = await publisher.update(order.site, found["publication_id"], manuscript)
        return task_outcome(outcome, job.brief, written, sandbox=self._sandbox, kind=order.kind)

    async def _research(
        self, run: TaskRun, kept: KeptInDatabase, settings: ContentSettings, brief: Brief, *, but: str | None
    ) -> Notes:
        """The notes; those of an earlier attempt where it made some, so that its steps still fit."""
        limits = settings.research
        asked = json.dumps([brief.for_prompt(), brief.site, brief.sources, limits.model_dump(mode="json")])
        digest = hashlib.sha256(asked.encode("utf-8", "replace")).hexdigest()
        if (found := await kept.get("research", digest)) is not None:
            return Notes.from_json(found)
        sources: tuple[SourceNote, ...] = ()
        unread: tuple[tuple[str, str], ...] = ()
        if brief.sources and limits.max_sources:
            run.check_time("research", limits.seconds)
            fetcher = await self._desk.fetcher(private=limits.allow_private_addresses)
            sources, unread = await read_sources(fetcher, brief.sources, limits)
        subject = " ".join(filter(None, [brief.title, brief.topic, brief.keyword, *brief.keywords]))
        own = await self._desk.own_articles(run, brief.site) if limits.max_links else []
        notes = Notes(sources, tuple(related(subject, own, limits.max_links, but=but)), unread)
        await kept.put("research", digest, notes.as_json())
        return notes

    def _writer(self, job: Job, kept: KeptInDatabase) -> Writer:
        return Writer(
            job.run.caller,
            job.run.task_id,
            settings=job.settings,
            notes=job.notes,
            kept=kept,
            round=job.past.rounds,
            spent_usd=job.past.spent_usd,
            judge=lambda article: self._judge(job, article),
            before_step=lambda step: job.run.check_time(step, STEP_SECONDS),
        )

    async def _judge(self, job: Job, article: Article) -> Judgement:
        texts = await self._desk.texts(job.run)
        marked, problems = await asyncio.to_thread(self._looked_at, job, article)
        evidence = Evidence(
            subject=job.brief.subject,
            notes=job.notes.text,
            instructions=instructions(),
            html_problems=problems,
            likeness=texts.nearest(marked, but=job.publication_id),
            offered=len(job.notes.links),
            wanted_links=job.settings.research.internal_links,
            avoid=job.settings.voice.avoid,
        )
        return await asyncio.to_thread(judge, article, job.settings.quality, evidence)

    def _looked_at(self, job: Job, article: Article) -> tuple[Signature, tuple[str, ...]]:
        """The signature of the text, and what is wrong with the page that it makes."""
        now = job.run.now()
        showing = Showing(article, 0, job.run.task_id, article.slug, now, now, self._sandbox)
        _, html = rendered(self._desk.static_site(job.site), showing)
        return signature(plain(article)), tuple(html_problems(html))

    def _accepted(
        self, job: Job, written: Written, how: Mapping[str, Any], texts: PublishedTexts
    ) -> Manuscript:
        """The manuscript, if the gate lets it pass. Raises QualityRefused with all that a person needs.

        Other tasks of the run have gone on since it was judged: so it is compared again, and counts for them
        from now on.
        """
        made = provenance(job.brief, job.notes, written, job.settings) | dict(how)
        marked = signature(plain(written.article))
        problems = list(written.judgements[-1].problems)
        if not problems:
            nearest = texts.nearest(marked, but=job.publication_id)
            problems = likeness_problem(nearest, job.settings.quality)
        if problems:
            context = {"article": as_json(written.article), "provenance": made}
            raise QualityRefused("the article " + "; ".join(problems), problems, context)
        # A publication that is still to come is known by its task.
        texts.add(job.publication_id or -job.run.task_id, f"the article of task {job.run.task_id}", marked)
        return Manuscript(
            article=written.article,
            provenance=made,
            signature=marked.to_bytes(),
            policy=job.settings.policy,
            publish_at=job.brief.publish_at if job.publication_id is None else None,
        )

    async def _bring_out(
        self, run: TaskRun, publisher: Publisher, article_id: int, *, recovered: bool = False
    ) -> TaskOutcome:
        outcome = await publisher.publish_stored(article_id)
        stored = await articles.aget_article(run.db, article_id)
        return unchanged(outcome, "publish", stored["content"], recovered=recovered)


def _with_voice(brief: Brief, settings: ContentSettings) -> Brief:
    """The site's audience where the brief names none."""
    if brief.audience is None and settings.voice.audience:
        return brief.model_copy(update={"audience": settings.voice.audience})
    return brief


def _brief_of(found: Mapping[str, Any], article: Article, site: str) -> Brief:
    """The brief that an article was written from, or one made of it."""
    details = found["article_details"] or {}
    try:
        return parse_brief(details.get("brief")).model_copy(update={"site": site})
    except InvalidInput:
        return Brief(
            title=article.title[:200],
            keyword=article.keyword[:120] if article.keyword else None,
            language=article.language,
            site=site,
        )
