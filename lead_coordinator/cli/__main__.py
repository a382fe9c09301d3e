"""`python -m lead_coordinator.cli` is the same as `lead-coordinator`."""

from lead_coordinator.cli.app import main

if __name__ == "__main__":
    main()
