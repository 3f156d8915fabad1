#!/usr/bin/env bash
# fuzz/run.sh smoke|nightly|lint [target…]: builds the targets with stable Rust and runs them. README.md.
set -euo pipefail
cd "$(dirname "$0")"

# What cargo-fuzz hands to the compiler, without a sanitizer: nothing of it needs nightly.
sancov=(
  -Cpasses=sancov-module
  -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares
)
export RUSTFLAGS="${sancov[*]}"
export CARGO_TARGET_DIR=$PWD/target
host=$(rustc -vV | sed -n 's/^host: //p')
# With `--target`, build scripts and macros are spared these flags.
cargo=(--locked --target "$host")

mode=${1:-}
shift || true
case $mode in
  # A fixed number of runs, the same at each; the seconds are for a machine that is slow.
  smoke) limits=(-runs=5000 -seed=1 -max_total_time=7) ;;
  nightly) limits=(-max_total_time="${FUZZ_SECONDS:-60}") ;;
  lint) exec cargo clippy "${cargo[@]}" -- -D warnings ;;
  *) echo "usage: fuzz/run.sh smoke|nightly|lint [target...]" >&2; exit 2 ;;
esac

targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
  mapfile -t targets < <(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"$/\1/p' Cargo.toml)
fi
cargo build "${cargo[@]}" "${targets[@]/#/--bin=}"

failed=()
for target in "${targets[@]}"; do
  # What is found stays out of the committed corpus; see README.md for how it gets in.
  found=$(mktemp -d)
  mkdir -p "artifacts/$target"
  log=$found.log
  SECONDS=0
  if "target/$host/debug/$target" "${limits[@]}" -max_len=4096 -len_control=20 -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -verbosity=1 -artifact_prefix="artifacts/$target/" "$found" "corpus/$target" > "$log" 2>&1; then
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "fuzz: $target: $runs runs, $SECONDS s, nothing found"
  else
    failed+=("$target")
    tail -n 60 "$log"
    echo "fuzz: $target: FOUND something after $SECONDS s; once more: fuzz/target/$host/debug/$target fuzz/artifacts/$target/<file>"
  fi
  rm -rf "$found" "$log"
done
if [ "${#failed[@]}" -gt 0 ]; then
  echo "fuzz: failed: ${failed[*]}" >&2
  exit 1
fi
