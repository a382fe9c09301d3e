"""The asset `site_audits` and its job: what `pipelines/face.py` makes of the SEO monitor's handler."""

from dagster import AssetKey, AssetSpec

from lead_coordinator import tags
from lead_coordinator.pipelines.face import Face, Logic, pipeline_asset, pipeline_job

site_audits_spec = AssetSpec(
    tags.SITE_AUDITS,
    deps=[AssetKey("executions"), AssetKey(tags.ARTICLES)],
    description="Audits of live sites: what was fetched, which of the rules each page breaks, scores, and "
    "what changed since the audit before. One materialisation is one batch of audits.",
    group_name=tags.GROUP_SEO,
    owners=[tags.OWNER_SEO],
    kinds={"python", "html"},
    skippable=True,
)


def load() -> Logic:
    from lead_coordinator.pipelines.report import BatchReport
    from lead_coordinator.pipelines.seo.handler import SeoHandler
    from lead_coordinator.pipelines.seo.report import metadata

    return Logic(lambda settings: SeoHandler(), metadata, BatchReport.output)


face = Face(
    pipeline=tags.PIPELINE_OF_WORKFLOW["seo_monitor"],
    spec=site_audits_spec,
    load=load,
    works="live sites and single pages are fetched and checked against the rules",
    submit="`SELECT submit_task('seo_analysis', '{\"site\": \"main\"}')`, or give the site an address with "
    "`lead-coordinator site apply`: it is audited at the policy's interval",
)
work_seo_batch = pipeline_asset(face)
seo_monitor_job = pipeline_job(face)
