"""`lead-coordinator articles | approve | reject | unpublish | republish`: the editorial gate, at a
terminal."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from lead_coordinator.database.articles import Decision, Wish

ArticleId = Annotated[int, typer.Argument(help="Number of the article, as `articles` shows it.", min=1)]
Slug = Annotated[str, typer.Argument(help="The article's address: the last part of its URL, without .html.")]
Site = Annotated[str, typer.Option(help="The site.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the audit log.", show_default=False)]
Actor = Annotated[
    str | None, typer.Option("--as", help="Who decides, for the audit log.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Answer as JSON.")]


def articles(
    article: Annotated[
        int | None, typer.Argument(help="A number: show that article whole.", show_default=False, min=1)
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(help="draft, in_review, scheduled, approved, current, superseded or rejected."),
    ] = None,
    site: Annotated[str | None, typer.Option(help="Only of this site.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most, newest first.", min=1, max=10000)] = 50,
    as_json: AsJson = False,
) -> None:
    """List articles, those that wait for approval and those that are out; or show one whole."""
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.cli.target import find_database
        from lead_coordinator.database.articles import get_article, list_articles
        from lead_coordinator.database.connection import Database
        from lead_coordinator.database.json import dumps
        from lead_coordinator.settings import Settings

        with Database(find_database(Settings.load())[0]) as database:
            if article is not None:
                found = get_article(database, article)
                typer.echo(dumps(found) if as_json else as_text(found))
                return
            rows = list_articles(database, site=site, state=state, limit=limit)
        if as_json:
            typer.echo(dumps(rows))
            return
        for line in table(rows):
            typer.echo(line)


def approve(
    article: ArticleId,
    publish_at: Annotated[
        str | None,
        typer.Option(help="Not before: a time with offset (2030-06-30T12:00:00Z).", show_default=False),
    ] = None,
    reason: Reason = None,
    actor: Actor = None,
    as_json: AsJson = False,
) -> None:
    """Approve an article that waits: a task brings it out within seconds, or at its time."""
    _decide(article, "approve", publish_at, reason, actor, as_json)


def reject(article: ArticleId, reason: Reason = None, actor: Actor = None, as_json: AsJson = False) -> None:
    """Reject an article that waits or is approved and not out yet: it is never published."""
    _decide(article, "reject", None, reason, actor, as_json)


def unpublish(
    slug: Slug, site: Site = "main", reason: Reason = None, actor: Actor = None, as_json: AsJson = False
) -> None:
    """Take an article off its site; `republish` puts it back."""
    _change(slug, site, "unpublish", reason, actor, as_json)


def republish(
    slug: Slug, site: Site = "main", reason: Reason = None, actor: Actor = None, as_json: AsJson = False
) -> None:
    """Put an article back that was taken off its site."""
    _change(slug, site, "republish", reason, actor, as_json)


def moment(text: str | None) -> datetime | None:
    """A time as an option gives it. Raises InvalidInput."""
    from lead_coordinator.errors import InvalidInput
    from lead_coordinator.pipelines.content.brief import parse_brief

    if text is None:
        return None
    try:
        return parse_brief({"title": "-", "publish_at": text}).publish_at
    except InvalidInput as error:
        raise InvalidInput(str(error).replace("publish_at:", "--publish-at:", 1)) from None


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Articles as lines: number, state, words, address, title."""
    if not rows:
        return ["No article."]
    lines = []
    for row in rows:
        state = row["state"] if row["state"] != "current" else row["status"]
        when = f" for {row['publish_at']:%Y-%m-%d %H:%M UTC}" if state == "scheduled" else ""
        lines.append(
            f"{row['article_id']:>6}  {state + when:<12} {row['words'] or 0:>5} words  "
            f"{row['site']}/{row['slug']}  {row['title']}"
        )
    return lines


def as_text(article: dict[str, Any]) -> str:
    """An article to read before it is approved: what it is, and its Markdown."""
    content = article["content"]
    details = article["details"]
    head = [
        f"Article {article['article_id']}, revision {article['revision']}: {article['state']}",
        f"Site {article['site']}, address {article['slug']}",
        f"Cost {details.get('cost_usd', '?')} US dollars, models {', '.join(details.get('models', []))}",
        f"Scores {details.get('scores', {})}",
        f"Issues {'; '.join(issue['text'] for issue in content.get('issues', [])) or 'none'}",
    ]
    parts = [f"# {content['title']}", content["introduction"]]
    for section in content["sections"]:
        parts += [f"## {section['heading']}", section["body"]]
    return "\n".join(head) + "\n\n" + "\n\n".join(parts)


def _decide(
    article: int,
    decision: "Decision",
    publish_at: str | None,
    reason: str | None,
    actor: str | None,
    as_json: bool,
) -> None:
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.cli.target import find_database
        from lead_coordinator.database.articles import decide_article
        from lead_coordinator.database.connection import Database
        from lead_coordinator.settings import Settings

        at = moment(publish_at)
        with Database(find_database(Settings.load())[0]) as database:
            done = decide_article(database, article, decision, reason=reason, publish_at=at, actor=actor)
        if as_json:
            _print_json(vars(done))
        elif done.state == "approved":
            typer.echo(f"Article {article} is approved: task {done.publish_task_id} brings it out.")
        else:
            typer.echo(f"Article {article} is rejected.")


def _change(
    slug: str,
    site: str,
    wish: Literal["unpublish", "republish"],
    reason: str | None,
    actor: str | None,
    as_json: bool,
) -> None:
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.cli.target import find_database
        from lead_coordinator.database.articles import change_publication
        from lead_coordinator.database.connection import Database
        from lead_coordinator.settings import Settings

        asked: Wish = wish
        with Database(find_database(Settings.load())[0]) as database:
            task_id = change_publication(database, site, slug, asked, reason=reason, actor=actor)
        if as_json:
            _print_json({"site": site, "slug": slug, "task_id": task_id})
        else:
            does = "takes it off" if wish == "unpublish" else "puts it back"
            typer.echo(f"Task {task_id} {does}: {site}/{slug}.")


def _print_json(value: Any) -> None:
    from lead_coordinator.database.json import dumps

    typer.echo(dumps(value))
