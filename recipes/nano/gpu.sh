#!/usr/bin/env bash
# Make nano from nothing on one CUDA GPU, data drawn there: 26 minutes of training in all. Not yet run on a GPU, so the
# minutes beside training, the batch scale and the memory are guesses.
# Needs the packages of `make nano`, 16 CPU cores and 20 GB of GPU memory; where there is no GPU the same commands run on
# the CPU (DRY=1: half a minute a stage, to see that every stage starts, saves and packs).
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-../../.venv/bin/python}
export NANO_RUNS=${NANO_RUNS:-$PWD/runs}  # give an empty folder to begin anew
out=${OUT:-$NANO_RUNS/packed}
processes=$(($(nproc) > 2 ? $(nproc) - 2 : 0))
if [ -n "${DRY:-}" ]; then
    vae=0.3 tokenizer=0.3 prior=0.4 decoder=0.4 scale=1 options=--eager processes=0 pictures=8
else
    vae=3 tokenizer=4 prior=10 decoder=9 scale=8 options= pictures=
fi
step() { echo "== $1, $(date +%T)"; shift; "$python" "$@"; }
step "VAE" vae.py --minutes $vae
step "tokenizer" tokenizer.py --minutes $tokenizer
step "prior" prior.py --minutes $prior --scale $scale --processes $processes $options
step "decoder" decoder.py --minutes $decoder --scale $scale $options ${pictures:+--pictures $pictures}
step "pack" pack.py --out "$out"
if [ -z "${DRY:-}" ]; then
    step "read the pictures" evaluate.py --model "$out" --first 24
fi
