"""Races: clients in processes of their own, killed at random, against a real server.

`race.run` lets sixteen clients work fifty thousand tasks: external workers that claim in batches, platform
runs that decide, start and pay call by call, submitters and upkeep. A killer ends them at random moments.
Each client writes what it did into a file of its own (`journal`), independent of the database. At the end
`checks` holds the database against the files. `python -m lead_coordinator_tests.races` runs it by hand.
"""
