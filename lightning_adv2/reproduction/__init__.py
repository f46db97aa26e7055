"""Every table and figure of the paper with one command: what to run, what was published, what was measured."""
