"""Started by test_ownership.py: own a folder until a line comes in."""

from __future__ import annotations

import sys

from lightning_adv2.runtime import ownership

if __name__ == "__main__":
    ownership.BEAT_SECONDS = 0.1
    with ownership.owned(sys.argv[1]):
        print("mine", flush=True)
        sys.stdin.readline()
