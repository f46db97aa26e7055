"""``python -m lightning_adv2``."""

from lightning_adv2.cli import main

if __name__ == "__main__":
    main()
