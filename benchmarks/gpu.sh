#!/usr/bin/env bash
# A quarter of an hour with a GPU: the tests marked "cuda", then time, memory and quality by device,
# in at most 8 minutes. Nothing is downloaded. Without a GPU it says so, measures the CPU in small
# and ends with 0. Arguments go to benchmarks.gpu: --data-dir, --cache, --out.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}

if $python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
  timeout 150 "$python" -m pytest -q -m cuda -p no:cacheprovider tests
  tested=$?
else
  echo "There is no CUDA device: the tests marked cuda are not run."
  tested=0
fi
timeout 330 "$python" -m benchmarks.gpu "$@"
measured=$?
if [ "$measured" -eq 124 ]; then
  echo "Stopped at the time limit; results/gpu.md has the rows so far."
  measured=0
fi
[ "$tested" -eq 0 ] && [ "$measured" -eq 0 ]
