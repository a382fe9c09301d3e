"""`lead-coordinator submit`: one task by options, or a file of topics."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lead_coordinator.database.connection import Database
    from lead_coordinator.database.queue import NewTask, SubmittedTask
    from lead_coordinator.pipelines.content.topics import BadRow, TopicRow

# Rows a transaction: large enough to be quick, small enough that a refused row costs little to single out.
CHUNK = 500


def submit(
    file: Annotated[
        Path | None, typer.Argument(help="A CSV or JSONL file of topics, one a row.", show_default=False)
    ] = None,
    title: Annotated[str | None, typer.Option(help="Title of the article wanted.")] = None,
    keyword: Annotated[str | None, typer.Option(help="Search term it shall be found by.")] = None,
    audience: Annotated[str | None, typer.Option(help="Who shall read it.")] = None,
    notes: Annotated[str | None, typer.Option(help="What it must say, sources, wishes.")] = None,
    value: Annotated[str | None, typer.Option(help="What it is worth, in US dollars.")] = None,
    deadline: Annotated[
        str | None, typer.Option(help="ISO date, or time with offset (2030-06-30T12:00:00Z).")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="0 to 100, more is sooner.")] = None,
    task_type: Annotated[str, typer.Option("--type", help="Task type.")] = "content_generation",
    payload: Annotated[
        str | None,
        typer.Option(help="What the task works on, as a JSON object; for other types than articles."),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key; default: made from the brief.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Put work into the queue: one task, or a file.

    Bad rows of a file are reported with line, field and reason, and the exit code is then 1; good rows are
    taken. Nothing is taken twice: the same brief (or the same --key) again finds the task that is there.
    """
    from lead_coordinator.cli.console import WRONG, fail, known_errors

    single = {
        "title": title,
        "keyword": keyword,
        "audience": audience,
        "notes": notes,
        "value_usd": value,
        "deadline": deadline,
    }
    given = {name: text for name, text in single.items() if text is not None}
    if payload is not None and (file is not None or given):
        fail("submit takes --payload, a file, or the options of a brief, not several of them.", WRONG)
    if file is None and not given and payload is None:
        fail("submit needs a file of topics, or a task by options (--title or --keyword at least).", WRONG)
    if file is not None and (given or priority is not None or key is not None):
        fail("submit takes a file or the options of a single task, not both.", WRONG)
    if file is not None and task_type != "content_generation":
        fail(f"--type={task_type}: a file holds topics, whose type is content_generation.", WRONG)
    with known_errors():
        from lead_coordinator.cli.target import find_database
        from lead_coordinator.database.connection import Database
        from lead_coordinator.settings import Settings

        if file is not None:
            from lead_coordinator.pipelines.content.topics import read_topics

            # Before a database is looked for: a bad file is the caller's own affair.
            good, bad = read_topics(file)
        else:
            task = single_task(task_type, given, priority, key, payload)
        url, _ = find_database(Settings.load())
        with Database(url) as database:
            if file is None:
                _say_single(submit_single(database, task), task, as_json)
            else:
                taken, refused = submit_rows(database, good)
                _say_file(taken, sorted([*bad, *refused], key=lambda row: row.line), as_json)


def single_task(
    task_type: str, given: dict[str, str], priority: int | None, key: str | None, payload: str | None = None
) -> "NewTask":
    """The task that the options describe. Raises InvalidInput naming field, value and what is allowed."""
    from lead_coordinator.database.queue import NewTask
    from lead_coordinator.errors import InvalidInput
    from lead_coordinator.pipelines.content.brief import TASK_TYPE, parse_brief

    if priority is not None and not 0 <= priority <= 100:
        raise InvalidInput(f"priority: {priority} given, a whole number from 0 to 100 allowed")
    if payload is not None:
        return NewTask(task_type, json_object(payload), priority=priority, idempotency_key=key)
    if task_type != TASK_TYPE:
        example = '--payload \'{"site": "main"}\''
        raise InvalidInput(
            f"--type={task_type}: only an article is a brief; say what it works on by {example}"
        )
    brief = parse_brief(given)
    return NewTask(
        task_type=task_type,
        payload=brief.payload(),
        priority=priority,
        idempotency_key=key or brief.idempotency_key(),
        value_usd=brief.value_usd,
        deadline=brief.deadline,
    )


def json_object(text: str) -> dict[str, Any]:
    """The object that the text is. InvalidInput where it is none; the queue bounds its size."""
    from lead_coordinator.database.json import loads
    from lead_coordinator.errors import InvalidInput

    try:
        value = loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidInput(
            f'payload: {text[:100]!r} given, a JSON object such as {{"site": "main"}} is needed'
        )
    return value


def submit_single(database: "Database", task: "NewTask") -> "SubmittedTask":
    from lead_coordinator.database.queue import submit_task

    return submit_task(database, task)


def submit_rows(
    database: "Database", rows: Sequence["TopicRow"]
) -> tuple[list[tuple["TopicRow", "SubmittedTask"]], list["BadRow"]]:
    """Submits a file's good rows. What the database refuses all the same comes back as bad rows, the others
    are taken."""
    from lead_coordinator.database.queue import submit_task, submit_tasks
    from lead_coordinator.errors import InvalidInput
    from lead_coordinator.pipelines.content.topics import BadRow

    taken: list[tuple[TopicRow, SubmittedTask]] = []
    refused: list[BadRow] = []
    for start in range(0, len(rows), CHUNK):
        chunk = rows[start : start + CHUNK]
        try:
            answer = submit_tasks(database, [new_task(row) for row in chunk])
            taken.extend(zip(chunk, answer.tasks, strict=True))
        except InvalidInput:  # the whole chunk was refused for the sake of one row: find it
            for row in chunk:
                try:
                    taken.append((row, submit_task(database, new_task(row))))
                except InvalidInput as error:
                    refused.append(BadRow(row.line, None, str(error)))
    return taken, refused


def new_task(row: "TopicRow") -> "NewTask":
    from lead_coordinator.database.queue import NewTask
    from lead_coordinator.pipelines.content.brief import TASK_TYPE

    return NewTask(
        task_type=TASK_TYPE,
        payload=row.brief.payload(),
        priority=row.priority,
        idempotency_key=row.idempotency_key,
        value_usd=row.brief.value_usd,
        deadline=row.brief.deadline,
    )


def _say_single(answer: "SubmittedTask", task: "NewTask", as_json: bool) -> None:
    if as_json:
        _print_json(
            {
                "task_id": answer.task_id,
                "created": answer.created,
                "status": answer.status,
                "key": task.idempotency_key,
            }
        )
    elif answer.created:
        typer.echo(f"Task {answer.task_id} is in the queue.")
    else:
        typer.echo(f"Nothing new: this is task {answer.task_id}, submitted before ({answer.status}).")


def _say_file(taken: list[tuple["TopicRow", "SubmittedTask"]], bad: list["BadRow"], as_json: bool) -> None:
    new = sum(1 for _, task in taken if task.created)
    if as_json:
        _print_json(
            {
                "submitted": new,
                "known": len(taken) - new,
                "tasks": [
                    {"line": row.line, "task_id": task.task_id, "created": task.created}
                    for row, task in taken
                ],
                "bad": [{"line": row.line, "field": row.field, "reason": row.reason} for row in bad],
            }
        )
    else:
        for row in bad:
            typer.echo(str(row), err=True)
        known = f", {len(taken) - new} were there already" if new < len(taken) else ""
        wrong = f", {len(bad)} reported above" if bad else ""
        typer.echo(f"{new} task{'' if new == 1 else 's'} submitted{known}{wrong}.")
    if bad:
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    from lead_coordinator.database.json import dumps

    typer.echo(dumps(value))
