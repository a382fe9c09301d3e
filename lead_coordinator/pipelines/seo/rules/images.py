"""Images: what they say to those who can't see them, how heavy they are, and whether the page jumps."""

from __future__ import annotations

from lead_coordinator.pipelines.seo.facts import Page, PageFacts
from lead_coordinator.pipelines.seo.rules.base import Evidence, Rules, View, samples

RULES = Rules("images")


@RULES.html(
    "alt-missing",
    "warning",
    "An image has no alternative text",
    'Say in the alt attribute what the image shows; alt="" where it is decoration.',
    needs="html",
)
def alt_missing(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return samples([image.url for image in html.images if image.alt is None])


@RULES.html(
    "alt-long",
    "notice",
    "An image's alternative text is longer than the settings allow",
    "Say it in a sentence; put what is longer into the text.",
    needs="html",
)
def alt_long(html: PageFacts, page: Page, view: View) -> Evidence | None:
    most = view.settings.alt_max
    return samples(
        [[image.url, len(image.alt)] for image in html.images if image.alt and len(image.alt) > most]
    )


@RULES.html(
    "image-large",
    "warning",
    "An image has more bytes than the settings allow",
    "Scale it to the size it is shown in, and save it as WebP or AVIF.",
    needs="html",
)
def image_large(html: PageFacts, page: Page, view: View) -> Evidence | None:
    found = []
    for url in dict.fromkeys(image.url for image in html.images):
        known = view.known(url)
        size = None if known is None or not known.status or known.status >= 400 else known.bytes
        if size is not None and size > view.settings.max_image_bytes:
            found.append([url, size])
    return samples(found)


@RULES.html(
    "image-dimensions",
    "notice",
    "An image has no width and height, so the page jumps when it arrives",
    "Write width and height into the img element.",
    needs="html",
)
def image_dimensions(html: PageFacts, page: Page, view: View) -> Evidence | None:
    return samples([image.url for image in html.images if not image.has_dimensions])
