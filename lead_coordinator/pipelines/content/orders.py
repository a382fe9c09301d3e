"""What a task of the content pipeline can ask for: an article of a brief, the update of one that is out, or
to carry out what was decided about one.

Briefs come from people and from the intelligence engine, updates from the SEO monitor (`fix`) and the revenue
optimiser (`refresh`), decisions from the SQL functions `decide_article` and `change_publication`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.content.brief import (
    DEFAULT_SITE,
    Brief,
    PageAddress,
    first_reason,
    parse_brief,
    shown,
)
from lead_coordinator.pipelines.content.text import printable

EVIDENCE_CHARACTERS = 2000

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=200)]


def _text(value: object) -> object:
    """Text of any kind from another pipeline, printable and cut: evidence may be a number or an object."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else repr(value)
    return printable(text[: 2 * EVIDENCE_CHARACTERS], several_lines=True)[:EVIDENCE_CHARACTERS]


_Said = Annotated[str, BeforeValidator(_text)]


class _Order(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


OrderT = TypeVar("OrderT", bound=_Order)


class Fix(_Order):
    """A fault that the SEO monitor found in a page of ours."""

    url: PageAddress | None = None
    slug: Slug
    rule: _Said = ""
    how_to_fix: _Said = ""
    finding_id: int | str | None = None


class Refresh(_Order):
    """A page of ours that earns less than it could, and why."""

    url: PageAddress | None = None
    slug: Slug
    reason: _Said = ""
    evidence: _Said = ""


class Publish(_Order):
    """An article that a person approved, or whose time has come."""

    article_id: Annotated[int, Field(gt=0)]


class Visibility(_Order):
    """A publication that is to disappear, or to come back."""

    publication_id: Annotated[int, Field(gt=0)]
    slug: Slug


@dataclass(frozen=True)
class WriteOrder:
    """A new article."""

    brief: Brief

    @property
    def site(self) -> str:
        return self.brief.site


@dataclass(frozen=True)
class UpdateOrder:
    """Another revision of an article that is out, at its address. `why`: for the model and for a person."""

    site: str
    slug: str
    kind: Literal["fix", "refresh"]
    why: Mapping[str, str]


@dataclass(frozen=True)
class PublishOrder:
    """The article to bring out, as it is stored."""

    site: str
    article_id: int


@dataclass(frozen=True)
class VisibilityOrder:
    """The publication to take off its site, or to put back."""

    site: str
    publication_id: int
    slug: str
    wish: Literal["unpublish", "republish"]


Order = WriteOrder | UpdateOrder | PublishOrder | VisibilityOrder


def parse_order(payload: object) -> Order:
    """What a task's payload asks for. Raises InvalidInput naming field, value and what is allowed."""
    if not isinstance(payload, Mapping):
        return WriteOrder(parse_brief(payload))
    asked = [name for name in ("fix", "refresh", "publish", "unpublish", "republish") if name in payload]
    if not asked:
        return WriteOrder(parse_brief(payload))
    if len(asked) > 1:
        raise InvalidInput(f"payload: {' and '.join(asked)} given, one of them allowed")
    kind = asked[0]
    site = _site(payload.get("site", DEFAULT_SITE))
    part = payload[kind]
    if kind == "fix":
        fix = _read(Fix, kind, part)
        return UpdateOrder(site, fix.slug, "fix", {"rule": fix.rule, "how_to_fix": fix.how_to_fix})
    if kind == "refresh":
        refresh = _read(Refresh, kind, part)
        why = {"reason": refresh.reason, "evidence": refresh.evidence}
        return UpdateOrder(site, refresh.slug, "refresh", why)
    if kind == "publish":
        return PublishOrder(site, _read(Publish, kind, part).article_id)
    seen = _read(Visibility, kind, part)
    wish: Literal["unpublish", "republish"] = "unpublish" if kind == "unpublish" else "republish"
    return VisibilityOrder(site, seen.publication_id, seen.slug, wish)


def _site(value: object) -> str:
    return parse_brief({"title": "-", "site": value}).site


def _read(model: type[OrderT], kind: str, part: Any) -> OrderT:
    if not isinstance(part, Mapping):
        raise InvalidInput(f"{kind}: {shown(part)} given, a JSON object allowed")
    try:
        return model.model_validate(dict(part))
    except ValidationError as error:
        field, reason = first_reason(error)
        raise InvalidInput(f"{kind}.{field}: {reason}" if field else f"{kind}: {reason}") from None
