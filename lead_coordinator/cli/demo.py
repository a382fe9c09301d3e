"""`lead-coordinator demo`: the whole circle on the examples, from feeds and briefs to refreshed articles."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer


def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the platform up afterwards, until Ctrl-C.")
    ] = False,
    topics: Annotated[
        Path | None,
        typer.Option(
            help="A CSV or JSONL file of topics.",
            show_default="those of examples/topics.csv that have page metrics",
        ),
    ] = None,
    port: Annotated[
        str | None,
        typer.Option(
            metavar="PORT", help="Port of the UI (LEAD_WEB_PORT).", show_default="3000 or a free one"
        ),
    ] = None,
    follow_parent: Annotated[
        bool,
        typer.Option(
            "--follow-parent", help="Stop when the process that started this one ends (for `make demo`)."
        ),
    ] = False,
) -> None:
    """Find topics, write articles, audit a site, rank improvements and refresh: all of it on the examples.

    Starts everything, shows how it goes, prints what came of it and stops everything.

    Exit code 0 only if every topic ended as a published article or in the dead-letter queue with its reason,
    every topic that is planted in the feeds became an article, every planted fault of the example site was
    found and nothing else, and what decays was refreshed.
    """
    from lead_coordinator.cli.console import fail, known_errors

    with known_errors():
        from lead_coordinator.cli.platform.checks import load_settings, with_free_port

        settings, environ = load_settings({"LEAD_WEB_PORT": port})
        from lead_coordinator.cli.demo_examples import with_metrics
        from lead_coordinator.cli.demo_servers import with_articles_address
        from lead_coordinator.cli.demonstration import Demonstration
        from lead_coordinator.cli.platform.supervisor import StopRequested
        from lead_coordinator.errors import LeadCoordinatorError
        from lead_coordinator.files import product_file
        from lead_coordinator.pipelines.content.topics import read_topics

        rows, bad = read_topics(topics or product_file("examples/topics.csv"))
        if topics is None:
            rows = with_metrics(rows)
        for row in bad:
            typer.echo(str(row), err=True)
        if not rows:
            fail("there is no topic to work on: none of the file's rows could be taken.")
        if not environ.get("LEAD_WEB_PORT", "").strip():  # nobody insists on one
            settings, environ = with_free_port(settings, environ)
        settings, environ = with_articles_address(settings, environ)
        demonstration = Demonstration(
            settings,
            environ,
            rows,
            bad,
            own_topics=topics is not None,
            parent_pid=os.getppid() if follow_parent else None,
        )
        supervisor = demonstration.platform.supervisor
        good = False
        with supervisor.signals():
            try:
                good = demonstration.run()
                if keep:
                    demonstration.stay()
                else:
                    demonstration.terminal.say("demo", "with --keep (make demo KEEP=1) the UI stays up")
            except StopRequested:
                typer.echo("stopped before the end", err=True)
            except LeadCoordinatorError:
                if not supervisor.stopping.is_set():  # else it failed because it was told to stop
                    raise
            finally:
                demonstration.platform.stop()
    sys.stdout.flush()
    if not good:
        raise typer.Exit(1)
