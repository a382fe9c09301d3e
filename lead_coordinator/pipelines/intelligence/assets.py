"""The asset `topics` and its job: what `pipelines/face.py` makes of the intelligence engine's handler."""

from dagster import AssetKey, AssetSpec

from lead_coordinator import tags
from lead_coordinator.pipelines.face import Face, Logic, pipeline_asset, pipeline_job

topics_spec = AssetSpec(
    tags.TOPICS,
    deps=[AssetKey("executions")],
    description="What the watched feeds say: items, stories, rising terms, gaps, proposed topics with their "
    "evidence, and the briefing of the day. One materialisation is one batch.",
    group_name=tags.GROUP_INTELLIGENCE,
    owners=[tags.OWNER_INTELLIGENCE],
    kinds={"python", "markdown"},
    skippable=True,
)


def load() -> Logic:
    from lead_coordinator.pipelines.intelligence.handler import IntelligenceHandler
    from lead_coordinator.pipelines.intelligence.report import metadata
    from lead_coordinator.pipelines.report import BatchReport

    return Logic(lambda settings: IntelligenceHandler(), metadata, BatchReport.output)


face = Face(
    pipeline=tags.PIPELINE_OF_WORKFLOW["intelligence_engine"],
    spec=topics_spec,
    load=load,
    works="feeds are polled, and their items become stories, rising terms and proposed topics",
    submit="`SELECT submit_task('intelligence_analysis', '{\"site\": \"main\"}')`, or give the site feeds "
    "with `lead-coordinator site apply`: they are polled at the policy's interval",
)
work_intelligence_batch = pipeline_asset(face)
intelligence_engine_job = pipeline_job(face)
