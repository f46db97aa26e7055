"""An independent check of a finished run, with NumPy alone: it shares the file format with the run, and no code."""
