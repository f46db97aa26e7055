"""Imported last by the server of ``spawn``: what it has imported stays, and no fork looks through it for garbage."""

import gc

gc.collect()
gc.freeze()
