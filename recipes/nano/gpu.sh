#!/usr/bin/env bash
# Train nano on one CUDA GPU, data drawn there: from nothing in 24 minutes, or on from the checkpoint that ships
# (ON=1) in 10. The prior and the decoder train at the same time: each leaves the GPU idle for a part.
# Of this the prior's part has run on a GPU (an H200 with 16 CPU cores); the other parts' times are estimates.
# Needs the packages of `make nano`; where there is no GPU the same commands run on the CPU (DRY=1: half a minute a
# stage, to see that every stage starts, saves and packs).
# MINUTES: of training of the prior and the decoder.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-../../.venv/bin/python}
export NANO_RUNS=${NANO_RUNS:-$PWD/runs}  # give an empty folder to begin anew
out=${OUT:-$NANO_RUNS/packed}
minutes=${MINUTES:-$([ -n "${ON:-}" ] && echo 5 || echo 12)}
cores=$(nproc)
drawing=$((cores > 4 ? (cores - 2) * 2 / 3 : 1)) cropping=$((cores > 4 ? (cores - 2) / 3 : 1))
if [ -n "${DRY:-}" ]; then
    vae=0.3 refine=0.2 tokenizer=0.3 minutes=0.4 scale=1 options=--eager pictures=8 drawing=1 cropping=1
else
    vae=3 refine=2 tokenizer=4 scale=8 options= pictures=
fi
step() { echo "== $1, $(date +%T)"; shift; "$python" "$@"; }
prior_from= decoder_from=
if [ -n "${ON:-}" ]; then
    [ -e "$NANO_RUNS/warm_prior.pt" ] || step "the checkpoint's weights" warm_start.py
    prior_from="--from $NANO_RUNS/warm_prior.pt" decoder_from="--from $NANO_RUNS/warm_decoder.pt"
    [ -e "$NANO_RUNS/tokenizer.pt" ] || step "tokenizer" tokenizer.py --minutes 0 --from "$NANO_RUNS/warm_tokenizer.pt"
else
    step "VAE" vae.py --minutes $vae
    step "tokenizer" tokenizer.py --minutes $tokenizer
fi
step "decoder" decoder.py --minutes "$minutes" --scale $((scale * 2)) --processes $cropping --eager \
    ${pictures:+--pictures $pictures} $decoder_from &
decoder=$!
step "prior" prior.py --minutes "$minutes" --scale $scale --processes $drawing $options $prior_from
wait $decoder
step "the VAE's decoder" refine_vae.py --minutes $refine --processes $((drawing + cropping)) ${pictures:+--pictures $pictures}
step "pack" pack.py --out "$out"
if [ -z "${DRY:-}" ]; then
    step "read the pictures" evaluate.py --model "$out" --first 24
fi
