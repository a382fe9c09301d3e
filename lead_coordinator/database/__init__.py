"""The ground room: connections, the embedded server, deploying `sql/`, typed calls of the SQL functions.

`queue`, `control` and `reports` are synchronous and take a `Database`; `executions`, `calls` and
`publications` are what a pipeline run needs, are asynchronous, and take an `AsyncDatabase`. No decision is
made here: SQL decides, Python asks. `articles` and others that a run and a person need hold both kinds.
"""
