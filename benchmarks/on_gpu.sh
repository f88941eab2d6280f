#!/usr/bin/env bash
# What is worth measuring on a machine with one GPU that is at hand for a while: the GPU tests, what strategies and steps
# cost, and a suite, in slices of SECONDS. Every call goes on where the last one stopped, also if that was killed; it ends
# with 0 once the suite is done, with 143 while there is more to do. SECONDS must be enough for the GPU tests, the longest
# that is done in one go. Records, tables and figures are packed into OUT/results.tar.gz after each.
#
#   benchmarks/on_gpu.sh SUITE [SECONDS] [OUT] [flags of `maskbench run`, e.g. --dataset ./cifar10 --jobs 3 --seeds 0-1]
set -uo pipefail
suite=$1 seconds=${2:-480} out=${3:-gpu}
shift $(($# < 3 ? $# : 3))
mkdir -p "$out"

finish() { # CODE
    tar -czf "$out/results.tar.gz" -C "$out" --exclude '*.pt' --exclude '*.safetensors' --exclude masks.png \
        $(cd "$out" && ls -d "$suite" *.txt *.json 2> /dev/null)
    exit "$1"
}

once() { # FILE COMMAND...: what it prints is FILE once it has ended by itself, be it with failed tests
    local file=$out/$1
    shift
    [ -e "$file" ] && return
    [ $SECONDS -lt "$seconds" ] || finish 143
    timeout --kill-after 60 $((seconds - SECONDS)) "$@" | tee "$file.part"
    [ "${PIPESTATUS[0]}" -le 1 ] && [ -s "$file.part" ] && mv "$file.part" "$file"
}

measured() { # NAME TEST
    once "$1.txt" python -m pytest -q -s "benchmarks/test_end_to_end.py::$2" --benchmark-only --benchmark-json "$out/$1.json"
}

once tests.txt python -m pytest -q -m gpu
once strategies.json python -m maskbench bench strategies --json
measured images_per_second test_images_per_second
for name in $(python -c 'from benchmarks.test_end_to_end import NAMES; print(*NAMES)'); do
    measured "end_to_end-$name" "test_end_to_end[$name]"
done
[ $SECONDS -lt "$seconds" ] || finish 143
timeout --preserve-status --signal TERM --kill-after 60 $((seconds - SECONDS)) \
    python -m maskbench run --suite "$suite" --output "$out/$suite" "$@"
finish $?
