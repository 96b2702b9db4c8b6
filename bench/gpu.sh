#!/bin/sh
# One CUDA GPU, the published model's full size, random weights, under ten minutes:
#     sh bench/gpu.sh [PYTHON [OPTION ...]]
# Without a GPU it runs dry on the toy checkpoint, so that the script itself is known to work. What
# does not fit into the time is named in the card (left_out); --cases measures it in another run.
set -e
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
[ $# -eq 0 ] || shift
scale=$("$python" -c 'import torch; print("full" if torch.cuda.is_available() else "tiny")')
exec timeout 600 "$python" bench/gpu.py --scale "$scale" "$@"
