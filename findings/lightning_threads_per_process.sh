#!/usr/bin/env bash
# pytorch-lightning 2.6.6: without OMP_NUM_THREADS the number of processes changes a CPU run's last digits.
#
# A good guess: on a CPU every process of a distributed run computes with torch's own number of threads, so that
# an item's result does not depend on how many processes share the work.
# Seen: when DDP starts its processes, Lightning calls torch.set_num_threads(cores // processes) and writes the
# number into os.environ["OMP_NUM_THREADS"], without a word; one process keeps all cores. torch takes some sums
# in another order with another number of threads: of the float32 sums of the same 20 tensors (300,000 values each)
# 18 differ between one process and two on two cores.
# Where it hurts: results that must be equal for any number of processes, and iterated computations (attacks
# follow the gradient for a hundred steps) that make a last digit into another outcome. Setting OMP_NUM_THREADS
# switches it off.
set -euo pipefail

cores="$(nproc)"
((cores >= 2)) || { echo "one core: it cannot be seen here"; exit 1; }
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.15.0 pytorch-lightning==2.6.6 numpy==2.4.6

cat >"$folder/run.py" <<'PYTHON'
import os
import sys

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

VALUES = torch.randn(20, 300_000, generator=torch.Generator().manual_seed(0))


class Module(pl.LightningModule):
    def test_step(self, batch, batch_idx):
        if self.trainer.is_global_zero and batch_idx == 0:
            omp = os.environ.get("OMP_NUM_THREADS", "unset")
            sums = ",".join(row.clone().sum().item().hex() for row in VALUES)
            print(f"FOUND {torch.get_num_threads()} {sums} {omp}", flush=True)


devices = int(sys.argv[1])
trainer = pl.Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
)
trainer.test(Module(), DataLoader(torch.ones(4), batch_size=1), verbose=False)
PYTHON

run() {  # number of processes, OMP_NUM_THREADS or nothing
  env -u OMP_NUM_THREADS ${2:+OMP_NUM_THREADS=$2} "$folder/venv/bin/python" -W ignore "$folder/run.py" "$1" 2>/dev/null |
    sed -n 's/^FOUND //p'
}
differing() { paste <(cut -d' ' -f2 <<<"$1" | tr , '\n') <(cut -d' ' -f2 <<<"$2" | tr , '\n') | awk '$1 != $2' | wc -l; }

alone="$(run 1)" together="$(run 2)" fixed_alone="$(run 1 1)" fixed_together="$(run 2 1)"
count="$(differing "$alone" "$together")"
echo "one process: ${alone%% *} threads, OMP_NUM_THREADS ${alone##* }; two: ${together%% *}, ${together##* }; $count of 20 sums differ"
echo "with OMP_NUM_THREADS=1: ${fixed_alone%% *} and ${fixed_together%% *}; $(differing "$fixed_alone" "$fixed_together") of 20 sums differ"
[[ ${alone%% *} == "$cores" && ${together%% *} == $((cores / 2)) && ${together##* } == $((cores / 2)) ]] ||
  { echo "changed: the threads are others"; exit 1; }
((count > 0)) || { echo "changed: the sums are equal"; exit 1; }
[[ $fixed_alone == "$fixed_together" ]] || { echo "changed: they differ with a fixed number, too"; exit 1; }
