#!/usr/bin/env bash
# Curves and time lines of `quorate bench write`, drawn by `plots` (benches/README.md, "Curves").
#
#   curves.sh DIRECTORY [REPETITIONS] [NAME...]
#
# Runs each point REPETITIONS times (3), in turn, and adds a JSON line per run to DIRECTORY/NAME.jsonl; NAMEs are
# batch-1, batch-3, hosts-1, hosts-3, tasks-3, points-3, nodes-1, level-3, timeline-loss and timeline-drain; all of them take
# about half an hour. Then draws an .svg for each file. All nodes run on this machine, data in a temporary folder ($TMPDIR).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n 2,9p "$0" >&2; exit 2; }
directory=$1 repetitions=${2:-3}
shift; [ $# -eq 0 ] || shift
names=${*:-batch-1 batch-3 hosts-1 hosts-3 tasks-3 points-3 nodes-1 level-3 timeline-loss timeline-drain}
mkdir -p "$directory"
(cd "$here/.." && cargo build --release -q -p quorate-benches --bin plots && cargo build --release -q -p quorate-node)
bin=${CARGO_TARGET_DIR:-$here/../target}/release
point() { # name options...
  local name=$1; shift
  echo "$name: $*" >&2
  env -u QUORATE_CONNECT "$bin/quorate" bench write --json "$@" >> "$directory/$name.jsonl"
}
for _ in $(seq "$repetitions"); do
  for name in $names; do
    nodes=${name#*-}
    case $name in
    batch-*) for batch in 1 10 100 1000 5000 20000 50000; do
        rows=$((batch * 10000)); [ $rows -le 3000000 ] || rows=3000000; [ $rows -ge 20000 ] || rows=20000
        point "$name" --nodes "$nodes" --batch $batch --rows $rows; done ;;
    hosts-*) for hosts in 1000 10000 100000 1000000; do
        rows=$((hosts * 3)); [ $rows -ge 2000000 ] || rows=2000000
        point "$name" --nodes "$nodes" --hosts $hosts --rows $rows; done ;;
    tasks-*) for tasks in 1 2 4 8 16 32 64; do point "$name" --nodes "$nodes" --tasks $tasks --rows 2M; done ;;
    points-*) for tasks in 1 4 16 64 256; do
        point "tasks-points" --nodes "$nodes" --tasks $tasks --batch 1 --rows $((tasks > 4 ? 100000 : 10000)); done ;;
    nodes-*) for nodes in 1 3 5; do point "$name" --nodes $nodes --replication 1 --rows 2M; done ;;
    level-*) for level in any one quorum all; do
        point "$name" --nodes "$nodes" --consistency $level --rows 2M; done ;;
    timeline-loss) point "$name" --nodes 3 --fault node-stopped --rate 400k --rows 12M ;;
    timeline-drain) point "$name" --nodes 3 --fault drain --rate 400k --rows 12M ;;
    *) echo "curves: there is no $name" >&2; exit 2 ;;
    esac
  done
done
"$bin/plots" "$directory"
