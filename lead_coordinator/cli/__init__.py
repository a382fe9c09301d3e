"""The `lead-coordinator` command. Nothing here is imported by the other rooms."""
