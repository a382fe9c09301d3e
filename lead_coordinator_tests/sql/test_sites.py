"""Site profiles, and the standing work that they ask for: once a site and interval, whoever decides."""

from __future__ import annotations

from typing import Any

import pytest

from lead_coordinator.database import sites
from lead_coordinator.database.connection import Database
from lead_coordinator.errors import InvalidInput
from lead_coordinator_tests.sql.play import Play
from lead_coordinator_tests.sql.test_races import at_once

WEB = {"url": "https://example.org/"}
FEEDS = {"intelligence": {"feeds": [{"url": "https://example.org/feed.xml"}]}}


def standing(play: Play) -> list[tuple[str, str]]:
    """(task type, site) of each standing task, oldest first."""
    rows = play.db.rows("SELECT task_type, payload FROM lead.task ORDER BY id")
    assert all(set(row["payload"]) == {"standing", "site"} and row["payload"]["standing"] for row in rows)
    return [(row["task_type"], row["payload"]["site"]) for row in rows]


def work_off(play: Play) -> None:
    for offered in play.launchable():
        run = play.start(offered)
        for task_id in run.task_ids:
            play.complete(run, task_id)
        play.finish(run)


# ---- profiles ----------------------------------------------------------------------------------------------


@pytest.mark.every_server
def test_a_profile_is_kept_replaced_and_audited(db: Database) -> None:
    assert sites.get_site(db, "main") is None
    assert sites.list_sites(db) == []
    assert sites.set_site(db, "main", WEB, actor="ann") == sites.SetSite("main", created=True, changed=True)
    assert sites.set_site(db, "main", WEB).changed is False
    assert sites.set_site(db, "main", FEEDS, actor="bob", reason="feeds").changed
    assert sites.get_site(db, "main") == FEEDS
    sites.set_site(db, "a-site", {})
    assert [one.site for one in sites.list_sites(db)] == ["a-site", "main"]
    audited = db.rows(
        "SELECT actor, action, reason, before, after FROM lead.audit_log"
        " WHERE subject = 'site:main' ORDER BY id"
    )
    assert [(row["actor"], row["action"], row["reason"]) for row in audited] == [
        ("ann", "add_site", None),
        ("bob", "change_site", "feeds"),
    ]
    assert (audited[1]["before"], audited[1]["after"]) == ({"profile": WEB}, {"profile": FEEDS})


@pytest.mark.parametrize("name", ["", "Main", "-main", "main-", "a" * 64, "ma in", "../etc", "mäin", "a\nb"])
def test_what_is_no_name_of_a_site_is_refused(db: Database, name: str) -> None:
    with pytest.raises(InvalidInput, match="1 to 63 lower-case letters, digits and hyphens within"):
        sites.set_site(db, name, {})


@pytest.mark.parametrize(
    ("profile", "sentence"),
    [
        ([], "p_profile: .* an object is needed"),
        ({"notes": "x" * 262_144}, "p_profile: 2621.. bytes is not allowed; 262144 bytes at most"),
        ({"url": "ftp://example.org/"}, "p_profile.url: ftp://example.org/ is not allowed; an address that"),
        ({"url": 5}, "p_profile.url: 5 is not allowed"),
        ({"intelligence": {"feeds": "all"}}, "p_profile.intelligence.feeds: all is not allowed; a list"),
    ],
)
def test_what_is_no_profile_is_refused(db: Database, profile: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        sites.set_site(db, "main", profile)
    assert sites.list_sites(db) == []


# ---- standing work -----------------------------------------------------------------------------------------


@pytest.mark.every_server
def test_each_site_gets_what_its_profile_asks_for_in_the_same_decision(play: Play) -> None:
    sites.set_site(play.db, "plain", {})
    sites.set_site(play.db, "web", WEB)
    sites.set_site(play.db, "watcher", FEEDS)
    sites.set_site(play.db, "both", WEB | FEEDS)
    sites.set_site(play.db, "none", {"url": None, "intelligence": {"feeds": []}})
    sites.set_site(play.db, "off", {"revenue": {"enabled": False}})
    play.db.execute(
        "INSERT INTO lead.page_metric (site, page, day, views)"
        " SELECT name, '/a', %s, 5 FROM unnest(ARRAY['plain', 'off']) AS s (name)",
        [play.now.date()],
    )
    decision = play.decide()
    assert sorted(standing(play)) == [
        ("intelligence_analysis", "both"),
        ("intelligence_analysis", "watcher"),
        ("revenue_optimization", "plain"),
        ("seo_analysis", "both"),
        ("seo_analysis", "web"),
    ]
    assert decision["workflows_dispatched"] > 0, "it is planned at once"
    keys = play.db.rows("SELECT idempotency_key AS key FROM lead.submission ORDER BY 1")
    assert keys[0] == {"key": "standing:intelligence_engine:both:20261124T1200"}


def test_it_comes_again_when_its_interval_is_over_and_the_last_has_ended(play: Play) -> None:
    sites.set_site(play.db, "web", WEB)
    play.decide()
    work_off(play)
    play.pass_time(minutes=119)
    play.decide()
    assert len(standing(play)) == 1, "the policy says 120 minutes"
    play.pass_time(minutes=1)
    play.decide()
    assert len(standing(play)) == 2
    assert play.statuses() == {"completed": 1, "processing": 1}
    play.start(play.launchable()[0])
    play.pass_time(minutes=240)
    play.decide()
    assert len(standing(play)) == 2, "the one before is still worked on"
    play.call("recover_executions", current_time=play.now)
    assert play.statuses()["queued"] == 1
    play.decide()
    assert len(standing(play)) == 2, "a pipeline that can't work piles nothing up"
    work_off(play)
    play.decide()
    assert len(standing(play)) == 3


def test_an_operator_sets_the_interval_and_switches_it_off(play: Play) -> None:
    sites.set_site(play.db, "web", WEB)
    play.db.execute("UPDATE lead.workflow_policy SET interval_minutes = 5, mode = 'draining'")
    play.decide()
    play.db.execute("UPDATE lead.workflow_policy SET mode = 'paused'")
    play.decide()
    play.db.execute("UPDATE lead.workflow_policy SET mode = 'open', enabled = false")
    play.decide()
    assert standing(play) == []
    play.db.execute("UPDATE lead.workflow_policy SET enabled = true")
    for _ in range(3):
        play.decide()
        work_off(play)
        play.pass_time(minutes=5)
    assert len(standing(play)) == 3
    sites.set_site(play.db, "web", {})
    play.decide()
    assert len(standing(play)) == 3, "the site doesn't ask for it any more"


def test_it_waits_for_nobody_else_s_queue(play: Play) -> None:
    play.submit(50, "seo_analysis")
    sites.set_site(play.db, "web", WEB)
    play.decide()
    row = play.db.row("SELECT count(*) AS n FROM lead.task WHERE payload ? 'standing'")
    assert row == {"n": 1}, "audits of single pages that stream in don't keep the site's own away"


def test_many_that_decide_at_once_submit_it_once(play: Play, database_url: str) -> None:
    for number in range(5):
        sites.set_site(play.db, f"site-{number}", WEB | FEEDS)

    def decide(client: Play, number: int) -> None:
        for _ in range(5):
            client.decide(f"worker-{number}")

    at_once(database_url, decide)
    assert len(standing(play)) == len(set(standing(play))) == 10


def test_a_decision_that_fails_submits_nothing(play: Play) -> None:
    sites.set_site(play.db, "web", WEB)
    with play.db.connection() as connection, connection.transaction(force_rollback=True):
        play.decide()
        assert len(standing(play)) == 1
    assert standing(play) == []
    play.decide()
    assert standing(play) == [("seo_analysis", "web")]


def test_a_dead_letter_ends_it_too(play: Play) -> None:
    sites.set_site(play.db, "web", WEB)
    play.decide()
    run = play.start(play.launchable()[0])
    play.fail(run, run.task_ids[0], "invalid_input")
    play.finish(run)
    assert play.statuses() == {"dead_letter": 1}
    play.pass_time(minutes=120)
    play.decide()
    assert len(standing(play)) == 2
