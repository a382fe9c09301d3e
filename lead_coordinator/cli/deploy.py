"""`lead-coordinator deploy`: bring the control plane in the database up to this version."""

import typer


def deploy() -> None:
    """Deploy sql/, or bring an older deployment forward.

    Goes to DATABASE_URL; without it to the running platform's embedded server, or starts that server for the
    purpose.
    """
    from lead_coordinator.cli.console import known_errors

    with known_errors():
        from lead_coordinator.cli.platform.checks import check_database
        from lead_coordinator.cli.platform.home import HomeLock, read_runtime
        from lead_coordinator.cli.platform.run import describe
        from lead_coordinator.database.deploy import deploy as deploy_to
        from lead_coordinator.database.embedded import EmbeddedServer
        from lead_coordinator.settings import Settings

        settings = Settings.load()

        def say(url: str) -> None:
            for line in describe(deploy_to(url, settings)):
                typer.echo(line)

        if settings.database_url is not None:
            check_database(settings)
            say(settings.database_url)
            return
        runtime = read_runtime(settings.home)
        if runtime is not None and runtime.database_url:
            say(runtime.database_url)
            return
        lock = HomeLock(settings.home)
        lock.acquire()
        server = EmbeddedServer(settings.postgres_dir)
        try:
            say(server.start())
        finally:
            server.stop()
            lock.release()
