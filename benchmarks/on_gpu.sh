#!/usr/bin/env bash
# What is worth measuring on a machine with one GPU that is at hand for a while: the GPU tests, what strategies and steps
# cost, and a suite, in slices. Every call goes on where the last one stopped; it ends with 0 once the suite is done,
# with 143 while there is more to do. Records, tables and figures are packed into OUT/results.tar.gz after each.
#
#   benchmarks/on_gpu.sh SUITE [SECONDS] [OUT] [flags of `maskbench run`, e.g. --dataset ./cifar10 --jobs 3 --seeds 0-1]
set -uo pipefail
suite=$1 seconds=${2:-480} out=${3:-gpu}
shift $(($# < 3 ? $# : 3))
mkdir -p "$out"
[ -e "$out/tested" ] || { python -m pytest -q -m gpu 2>&1 | tee "$out/tests.txt" && touch "$out/tested"; }
[ -e "$out/strategies.json" ] || python -m maskbench bench strategies --json > "$out/strategies.json"
for what in images_per_second end_to_end; do
    [ -e "$out/$what.json" ] || python -m pytest -q -s benchmarks/test_end_to_end.py -k "test_$what" --benchmark-only \
        --benchmark-json "$out/$what.json" 2>&1 | tee "$out/$what.txt"
done
timeout --preserve-status --signal TERM --kill-after 60 "$seconds" python -m maskbench run --suite "$suite" --output "$out/$suite" "$@"
code=$?
tar -czf "$out/results.tar.gz" -C "$out" \
    --exclude '*.pt' --exclude '*.safetensors' --exclude masks.png $(cd "$out" && ls -d "$suite" *.txt *.json)
exit $code
