"""An independent look at a finished run, with NumPy alone: it shares the format with what made it, and no code."""
