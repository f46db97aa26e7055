"""The parts that keep a run exact and alive: its identity, its processes, its signals, its checkpoints."""
