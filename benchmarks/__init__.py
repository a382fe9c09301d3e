"""What the platform can do, measured. Results are kept in RESULTS.md."""
