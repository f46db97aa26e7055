"""Put right what Lightning gets wrong when it goes on from a checkpoint.

Lightning notes how many batches, validations and epochs are ready, started, processed and completed, and guesses from
that where it was. Found by saving after every batch, validation and epoch and going on from each (2.6.6):

- Saved after a batch: a validation due then is never run, nor is ``on_train_epoch_end`` after the last batch.
- Saved in ``on_train_epoch_end`` of a run limited by ``max_steps``: one more epoch counts as done, or one of its
  batches is trained on again.
"""

from __future__ import annotations

from typing import Any

Loops = dict[str, Any]


def mend(loops: Loops, validation_due: bool, by_steps: bool, left_validation: bool = False) -> bool:
    """Correct the progress of the fit loop in a checkpoint, in place, so that Lightning goes on right behind it.

    Args:
        loops: ``checkpoint["loops"]["fit_loop"]``.
        validation_due: the result of :func:`~lightning_adv2.runtime.lightning.validation_due` at the time of the save.
        by_steps: whether the run that goes on is limited by ``max_steps``.
        left_validation: whether a signal broke off the validation in which the checkpoint was saved.

    Returns:
        Whether :func:`~lightning_adv2.runtime.lightning.begin_epoch` must be called in ``on_train_start``.
    """
    epoch, batch = loops["epoch_progress"], loops["epoch_loop.batch_progress"]
    validation = loops["epoch_loop.val_loop.batch_progress"]
    if epoch["current"]["processed"] == epoch["current"]["ready"]:
        if by_steps and epoch["current"]["completed"] == epoch["current"]["processed"] - 1:
            # After an epoch: as if saved after its last batch, all of whose consequences Lightning takes for done.
            _add(epoch, "processed", -1)
            _add(batch, "completed", -1)
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
            return True
        return False
    after_batch = batch["current"]["completed"] == batch["current"]["processed"] - 1
    if after_batch and (validation_due or batch["is_last_batch"]):
        _add(batch, "completed", 1)
        if not validation_due:
            loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
    elif after_batch:
        return False
    # A validation that was broken off starts again: nothing of what it measured is in the checkpoint.
    missing = validation["current"]["completed"] < validation["current"]["ready"]
    unfinished = validation_due if after_batch else left_validation or missing
    for counts in (validation["total"], validation["current"]):
        if unfinished:
            counts.update(ready=1, started=1, processed=0, completed=0)
        else:
            counts.update(validation["current"])
    return False


def _add(progress: dict[str, Any], name: str, count: int) -> None:
    for counts in (progress["total"], progress["current"]):
        counts[name] += count
