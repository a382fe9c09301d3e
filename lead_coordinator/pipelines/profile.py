"""A site's profile: what each pipeline is to do for it, in one typed place.

A profile is stored without defaults (`lead.site`), so a better default reaches every site that didn't choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from lead_coordinator.database.sites import StoredSite
from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.content.settings import ContentSettings
from lead_coordinator.pipelines.intelligence.settings import IntelligenceSettings
from lead_coordinator.pipelines.revenue.settings import RevenueSettings
from lead_coordinator.pipelines.seo.settings import SeoSettings
from lead_coordinator.settings_values import timezone as known_timezone
from lead_coordinator.settings_values import web_address

# As in sql/database-schema.sql (lead.site).
SITE_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
MAX_SHOWN = 80


class SiteProfile(BaseModel):
    """What is set for one site. `SiteProfile(name="main")` is a site with every default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=SITE_NAME)] = Field(
        description="Name of the site: 1 to 63 lower-case letters, digits and hyphens within"
    )
    url: Annotated[str, StringConstraints(max_length=2000), AfterValidator(web_address)] | None = Field(
        None, description="Address of the live site; where it is set, the SEO monitor audits it"
    )
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}$")] = Field(
        "en", description="Language of its pages, such as en or pt-BR"
    )
    timezone: Annotated[str, AfterValidator(known_timezone)] = Field(
        "UTC", description="Time zone of its days, such as Europe/Berlin"
    )
    content: ContentSettings = Field(
        default_factory=ContentSettings, description="The content pipeline's part"
    )
    seo: SeoSettings = Field(default_factory=SeoSettings, description="The SEO monitor's part")
    revenue: RevenueSettings = Field(
        default_factory=RevenueSettings, description="The revenue optimiser's part"
    )
    intelligence: IntelligenceSettings = Field(
        default_factory=IntelligenceSettings, description="The intelligence engine's part"
    )

    @classmethod
    def read(cls, name: object, profile: object) -> Self:
        """The profile of a JSON object. Raises `InvalidInput`: field, value, what is allowed."""
        if not isinstance(profile, Mapping):
            raise InvalidInput(f"site {_shown(name)}: {_shown(profile)} given, a table of settings is needed")
        try:
            return cls.model_validate({**profile, "name": name})
        except ValidationError as error:
            raise InvalidInput(_sentence(name, error)) from None

    def stored(self) -> dict[str, Any]:
        """What was set, as JSON; read back, it gives the same profile."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"name"})


class SiteProfiles:
    """The profiles of a run, read when they are asked for."""

    def __init__(self, sites: Iterable[StoredSite] = ()) -> None:
        self._stored = {one.site: one.profile for one in sites}
        self._read: dict[str, SiteProfile] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The sites that have a profile."""
        return tuple(sorted(self._stored))

    def of(self, name: str) -> SiteProfile:
        """The site's profile; every default for a site that has none.

        Raises `InvalidInput` for a name that can't be one, and for a stored profile that can't be read.
        """
        if name not in self._read:
            self._read[name] = SiteProfile.read(name, self._stored.get(name, {}))
        return self._read[name]


def _sentence(name: object, error: ValidationError) -> str:
    """The first problem: `site main: seo.max_pages: 0 given: Input should be greater than 0`."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"])) or "profile"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return f"site {_shown(name)}: {field} is no setting"
    if first["type"] == "missing":
        return f"site {_shown(name)}: {field} is needed"
    return f"site {_shown(name)}: {field}: {_shown(first['input'])} given: {message}"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "�" for c in text[: 2 * MAX_SHOWN])
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
