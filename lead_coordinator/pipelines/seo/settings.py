"""What a site may set for the SEO monitor: how far it looks, and where each rule draws its line."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

_Path = Annotated[str, StringConstraints(pattern=r"^/[\x21-\x7e]{0,199}$")]
_RuleId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,40}$")]
_Phrase = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, min_length=1, max_length=60)]

GENERIC_ANCHORS = (
    "click here",
    "click",
    "here",
    "read more",
    "more",
    "learn more",
    "this",
    "this page",
    "link",
    "see more",
    "find out more",
    "details",
    "continue",
    "go",
)


class SeoSettings(BaseModel):
    """The SEO monitor's section of a site profile. Frozen; `SeoSettings()` has the usual thresholds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # ---- how the site is visited
    max_pages: int = Field(2000, ge=1, le=20_000, description="Pages of a site that one audit visits")
    max_resources: int = Field(
        4000, ge=0, le=50_000, description="Images, scripts, styles and outward links that one audit looks at"
    )
    max_crawl_depth: int = Field(
        12,
        ge=1,
        le=50,
        description="Clicks from the home page that links are followed; ends endless calendars",
    )
    concurrency: int = Field(4, ge=1, le=32, description="Requests at once to the site")
    delay_seconds: float = Field(0.0, ge=0, le=30, description="Seconds between the starts of two requests")
    slice_seconds: float = Field(
        100.0, ge=1, le=240, description="Seconds that one task crawls before it hands on to the next"
    )
    page_seconds: float = Field(20.0, ge=1, le=60, description="Seconds that one page may take")
    max_page_bytes: int = Field(
        5_000_000, ge=10_000, le=20_000_000, description="Bytes of a page, beyond which it isn't read"
    )
    check_external_links: bool = Field(True, description="Whether links to other sites are looked at")
    allow_private_addresses: bool = Field(
        False, description="Whether the site may be on this machine or in a private network"
    )
    exclude_paths: tuple[_Path, ...] = Field(
        (), max_length=200, description="Beginnings of paths that aren't visited, such as /cart"
    )
    disabled_rules: tuple[_RuleId, ...] = Field((), max_length=100, description="Rules that aren't checked")
    fix_critical: bool = Field(True, description="Whether critical findings on articles become content tasks")

    # ---- where the rules draw their lines
    max_depth: int = Field(4, ge=1, le=20, description="Clicks from the home page to a page at most")
    title_min: int = Field(20, ge=0, le=200, description="Characters of a title at least")
    title_max: int = Field(60, ge=1, le=500, description="Characters of a title at most")
    description_min: int = Field(80, ge=0, le=500, description="Characters of a meta description at least")
    description_max: int = Field(160, ge=1, le=1000, description="Characters of a meta description at most")
    min_words: int = Field(200, ge=0, le=10_000, description="Words of a page's main text at least")
    near_duplicate: float = Field(
        0.9, ge=0.5, le=1, description="Similarity (Jaccard, word 5-shingles) from which two texts are one"
    )
    max_links: int = Field(100, ge=1, le=10_000, description="Links on a page at most")
    alt_max: int = Field(100, ge=1, le=1000, description="Characters of an image's alternative text at most")
    max_image_bytes: int = Field(500_000, ge=1000, le=50_000_000, description="Bytes of an image at most")
    max_ttfb_ms: int = Field(
        800, ge=10, le=60_000, description="Milliseconds to a page's first byte at most, the lowest of four"
    )
    max_dom_nodes: int = Field(1500, ge=10, le=1_000_000, description="Elements of a page at most")
    max_weight_bytes: int = Field(
        2_600_000, ge=10_000, le=1_000_000_000, description="Bytes of a page with all it loads at most"
    )
    sitemap_max_urls: int = Field(50_000, ge=1, le=50_000, description="Addresses of a sitemap at most")
    sitemap_max_bytes: int = Field(
        52_428_800, ge=1000, le=52_428_800, description="Bytes of a sitemap at most, unpacked (50 MB)"
    )
    generic_anchors: tuple[_Phrase, ...] = Field(
        GENERIC_ANCHORS, max_length=200, description="Link texts that say nothing about where they lead"
    )
