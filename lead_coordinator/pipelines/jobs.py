"""The four pipelines as Dagster sees them, in the order of the circle."""

from dagster import AssetsDefinition, AssetSpec

from lead_coordinator.pipelines.content.assets import (
    content_pipeline_job,
    refreshed_articles,
    work_content_batch,
)
from lead_coordinator.pipelines.intelligence.assets import intelligence_engine_job, work_intelligence_batch
from lead_coordinator.pipelines.revenue.assets import revenue_optimizer_job, work_revenue_batch
from lead_coordinator.pipelines.seo.assets import seo_monitor_job, work_seo_batch

# A job for each row of `tags.PIPELINE_OF_WORKFLOW`: what the dispatch sensor may start.
PIPELINE_JOBS = [intelligence_engine_job, content_pipeline_job, seo_monitor_job, revenue_optimizer_job]

PIPELINE_ASSETS: list[AssetsDefinition | AssetSpec] = [
    work_intelligence_batch,
    work_content_batch,
    work_seo_batch,
    work_revenue_batch,
    refreshed_articles,
]
