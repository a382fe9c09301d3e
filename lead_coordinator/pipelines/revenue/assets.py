"""The asset `refresh_ranking` and its job: what `pipelines/face.py` makes of its handler."""

from dagster import AssetKey, AssetSpec

from lead_coordinator import tags
from lead_coordinator.pipelines.face import Face, Logic, pipeline_asset, pipeline_job

refresh_ranking_spec = AssetSpec(
    tags.REFRESH_RANKING,
    deps=[AssetKey("executions"), AssetKey(tags.ARTICLES), AssetKey(tags.SITE_AUDITS)],
    description="Pages by what improving them is expected to earn: margin, trend, expected gain with its "
    "interval and evidence, experiments. One materialisation is one batch.",
    group_name=tags.GROUP_REVENUE,
    owners=[tags.OWNER_REVENUE],
    kinds={"python"},
    skippable=True,
)


def load() -> Logic:
    from lead_coordinator.pipelines.report import BatchReport
    from lead_coordinator.pipelines.revenue.handler import RevenueHandler
    from lead_coordinator.pipelines.revenue.report import metadata

    return Logic(lambda settings: RevenueHandler(), metadata, BatchReport.output)


face = Face(
    pipeline=tags.PIPELINE_OF_WORKFLOW["revenue_optimizer"],
    spec=refresh_ranking_spec,
    load=load,
    works="page metrics, costs and findings become a ranking of what to improve",
    submit="`SELECT submit_task('revenue_optimization', '{\"site\": \"main\"}')`, or import page metrics: "
    "the site's pages are ranked at the policy's interval",
)
work_revenue_batch = pipeline_asset(face)
revenue_optimizer_job = pipeline_job(face)
