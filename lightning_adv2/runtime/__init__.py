"""What keeps a run exact and alive: its identity, its processes, its signals, its checkpoints."""
