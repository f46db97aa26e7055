#!/usr/bin/env bash
# pytorch-lightning 2.6.6, torchmetrics 1.9.0: a metric object logged in test_step is exchanged between the
# processes before any on_test_epoch_end hook, so that a hook that waits for slow processes comes too late.
#
# A good guess: metric objects are computed at the end of the epoch, after the on_test_epoch_end hooks, or not
# before the value is logged; a callback that lets all processes meet in on_test_epoch_end, over a group with a
# long timeout, protects an evaluation whose batches take unequally long.
# Seen: after its last batch the process that is done first computes the metric, which gathers over the default
# group. With a group timeout of 15 s and a process that is 40 s late it ends with gloo's time-out, although
# both processes would have met in the hook. With sync_on_compute=False the same run ends well.
# Where it hurts: evaluations by attacks, whose batches take minutes to hours and differ by as much between
# processes; the default timeout is 30 minutes (10 with NCCL), and signals do not get through meanwhile.
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.15.0 pytorch-lightning==2.6.6 torchmetrics==1.9.0 numpy==2.4.6

cat >"$folder/run.py" <<'PYTHON'
import sys
import time
from datetime import timedelta

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.seen = MeanMetric(sync_on_compute=sys.argv[1] == "sync")

    def test_step(self, batch, batch_idx):
        self.seen.update(batch)
        self.log("seen", self.seen)


class Uneven(pl.Callback):
    def on_test_start(self, trainer, module):
        self.patient = dist.new_group(backend="gloo", timeout=timedelta(hours=1))

    def on_test_batch_end(self, trainer, *rest):
        if trainer.global_rank == 1:
            time.sleep(20)  # two batches: 40 s

    def on_test_epoch_end(self, trainer, module):
        dist.barrier(group=self.patient)
        print("met in on_test_epoch_end", flush=True)


strategy = DDPStrategy(process_group_backend="gloo", timeout=timedelta(seconds=15))
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy=strategy, callbacks=[Uneven()], logger=False, enable_progress_bar=False,
    enable_model_summary=False, enable_checkpointing=False,
)
trainer.test(Module(), DataLoader(torch.ones(4), batch_size=1), verbose=False)
PYTHON

for how in sync local; do
  status=0
  OMP_NUM_THREADS=1 timeout 240 "$folder/venv/bin/python" -W ignore "$folder/run.py" "$how" >"$folder/$how.txt" 2>&1 || status=$?
  met="$(grep -c 'met in on_test_epoch_end' "$folder/$how.txt" || true)"
  timed_out="$(grep -c 'Timed out waiting 15000ms' "$folder/$how.txt" || true)"
  echo "$how: exit status $status, met in the hook $met times, time-outs $timed_out"
  case "$how" in
    sync) ((status != 0 && timed_out > 0)) || { echo "changed: the metric waits for the hook, or for the process"; exit 1; } ;;
    local) ((status == 0 && met == 2)) || { tail -5 "$folder/$how.txt"; echo "changed: it fails without the exchange, too"; exit 1; } ;;
  esac
done
