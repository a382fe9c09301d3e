"""The asset `articles` and its job: what `pipelines/face.py` makes of the content pipeline's handler."""

from dagster import AssetKey, AssetSpec

from lead_coordinator import tags
from lead_coordinator.pipelines.face import Face, Logic, pipeline_asset, pipeline_job

articles_spec = AssetSpec(
    tags.ARTICLES,
    deps=[AssetKey("executions"), AssetKey(tags.TOPICS)],
    description="Articles that were written from briefs and published to the site: Markdown with front "
    "matter and HTML, each published once. One materialisation is one batch.",
    group_name=tags.GROUP_CONTENT,
    owners=[tags.OWNER_CONTENT],
    kinds={"python", "gemini", "openai", "markdown"},
    skippable=True,
)

# An asset of its own that no op produces: articles come before what asks for their refresh, so as one asset
# they would be in a circle.
refreshed_articles = AssetSpec(
    tags.REFRESHED_ARTICLES,
    deps=[AssetKey(tags.SITE_AUDITS), AssetKey(tags.REFRESH_RANKING)],
    description="Articles that were updated in place: a fault of the page that an audit found, or a refresh "
    "that the ranking asked for. Materialised by the batches of `content_pipeline_job` that hold such tasks.",
    group_name=tags.GROUP_CONTENT,
    owners=[tags.OWNER_CONTENT],
    kinds={"python", "markdown"},
)


def load() -> Logic:
    from lead_coordinator.pipelines.content.handler import ContentHandler
    from lead_coordinator.pipelines.content.refreshed import further
    from lead_coordinator.pipelines.content.report import metadata, output

    return Logic(ContentHandler.of, metadata, output, further)


face = Face(
    pipeline=tags.PIPELINE_OF_WORKFLOW["content_pipeline"],
    spec=articles_spec,
    load=load,
    works="briefs become published articles by outline, draft, edit and check",
    submit="`lead-coordinator submit topics.csv`, or in SQL `SELECT submit_task('content_generation', "
    '\'{"title": "…"}\')`',
)
work_content_batch = pipeline_asset(face)
content_pipeline_job = pipeline_job(face)
