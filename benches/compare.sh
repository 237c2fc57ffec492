#!/usr/bin/env bash
# The same rows into InfluxDB 1.6, VictoriaMetrics and Quorate, in turn (benches/README.md, "Beside others").
#
#   compare.sh WORKDIR [REPETITIONS] [ROWS]
#
# Needs influxd 1.x and victoria-metrics in the path (Debian packages `influxdb` and `victoria-metrics`) and curl; one that
# is not there is left out, and said so. Each repetition (3) writes ROWS rows (2,000,000; ten fields each) of 1,000 and of
# 100,000 hosts into each system with a fresh folder below WORKDIR, 5,000 rows a batch, 4 under way, everything on this
# machine over loopback. InfluxDB syncs its log before it answers (wal-fsync-delay 0s); VictoriaMetrics does not
# sync; Quorate's answers are synced on every copy that counts. A load that is not done after 60 s ends there. Quorate
# gets the same rows and then goes on, ten times as many by columns and twice as many as text, since it would be
# done before anything could be measured.
# Prints a RES line per run, which WORKDIR/compare.txt keeps, and then the table of ratios, of medians.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { sed -n 2,14p "$0" >&2; exit 2; }
work=$1 repetitions=${2:-3} rows=${3:-2000000}
mkdir -p "$work"
(cd "$here/.." && cargo build --release -q -p quorate-benches --bins && cargo build --release -q -p quorate-node)
bin=${CARGO_TARGET_DIR:-$here/../target}/release
results=$work/compare.txt
: > "$results"

server=""
stop() { [ -z "$server" ] || { kill "$server" 2>/dev/null && wait "$server" || true; server=""; }; }
clean() { stop; rm -rf "$work"/{influx,vm,quorate} "$work"/{1k,100k}.lines; }
trap clean EXIT

up() { for _ in $(seq 100); do curl -s -o /dev/null "$1" && return; sleep 0.2; done; echo "compare: $1 did not come up" >&2; exit 1; }
start() {
  local dir=$work/$1
  rm -rf "$dir"; mkdir -p "$dir"
  case $1 in
  influx)
    printf '%s\n' 'reporting-disabled = true' 'bind-address = "127.0.0.1:18288"' '[meta]' "dir = \"$dir/meta\"" \
      '[data]' "dir = \"$dir/data\"" "wal-dir = \"$dir/wal\"" 'wal-fsync-delay = "0s"' 'max-values-per-tag = 0' \
      'query-log-enabled = false' '[http]' 'bind-address = "127.0.0.1:18286"' 'log-enabled = false' \
      'max-body-size = 0' '[monitor]' 'store-enabled = false' > "$dir/influx.conf"
    influxd run -config "$dir/influx.conf" > "$dir/log" 2>&1 & server=$!
    up http://127.0.0.1:18286/ping
    curl -sf -o /dev/null -XPOST http://127.0.0.1:18286/query --data-urlencode 'q=CREATE DATABASE bench' ;;
  vm)
    victoria-metrics -storageDataPath="$dir/data" -httpListenAddr=127.0.0.1:18528 -retentionPeriod=100y > "$dir/log" 2>&1 &
    server=$!
    up http://127.0.0.1:18528/health ;;
  esac
}

# CPU ticks of a process, as seconds.
cpu() { awk -v hz="$(getconf CLK_TCK)" '{print ($14 + $15) / hz}' "/proc/$1/stat"; }

other() { # system set repetition
  local port=18286 before
  [ "$1" = influx ] || port=18528
  start "$1"
  before=$(cpu "$server")
  local found; found=$("$bin/http_load" "$work/$2.lines" 127.0.0.1:$port '/write?db=bench&precision=ns' 4 60)
  echo "RES system=$1 set=$2 run=$3 $found server_cpu_s=$(awk "BEGIN{print $(cpu "$server") - $before}")" | tee -a "$results"
  stop; rm -rf "${work:?}/$1"
}

quorate() { # name set repetition hosts options...
  local name=$1 set=$2 run=$3 hosts=$4; shift 4
  mkdir -p "$work/quorate"
  local found; found=$(env -u QUORATE_CONNECT "$bin/quorate" bench write --hosts "$hosts" --dir "$work/quorate" --json "$@")
  # One key of a flat object; lists keep their brackets.
  get() { sed -E "s/.*\"$1\":(\[[^]]*\]|[^,}]*).*/\1/" <<< "$found"; }
  echo "RES system=$name set=$set run=$run rows=$(get rows) errors=$(get errors) seconds=$(get seconds)" \
    "rows_per_s=$(get rows_per_s) p50_ms=$(get ack_p50_ms) p99_ms=$(get ack_p99_ms)" \
    "server_cpu_s=$(get node_cpu_s) missing=$(get missing_rows) limit_share=$(get limit_share)" | tee -a "$results"
}

for set in 1k:1000 100k:100000; do
  "$bin/fleet" "$rows" --hosts "${set#*:}" --framed 5000 > "$work/${set%:*}.lines"
done
for system in influxd victoria-metrics; do
  command -v $system > /dev/null || echo "compare: $system is not installed and left out" >&2
done
for run in $(seq "$repetitions"); do
  for set in 1k:1000 100k:100000; do
    name=${set%:*} hosts=${set#*:}
    ! command -v influxd > /dev/null || other influx "$name" "$run"
    quorate one-node "$name" "$run" "$hosts" --nodes 1 --rows $((rows * 10))
    ! command -v victoria-metrics > /dev/null || other vm "$name" "$run"
    quorate one-node-lines "$name" "$run" "$hosts" --nodes 1 --input lines --rows $((rows * 2))
    quorate three-nodes "$name" "$run" "$hosts" --nodes 3 --rows $((rows * 10))
  done
done

awk '
  function median(key,   n, i, j, t, list) {
    n = split(values[key], list, " ")
    for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j - 1] + 0 > list[j] + 0; j--) { t = list[j]; list[j] = list[j - 1]; list[j - 1] = t }
    return n ? (n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2) : 0
  }
  /^RES/ {
    for (i = 2; i <= NF; i++) { split($i, part, "="); field[part[1]] = part[2] }
    values[field["set"] "/" field["system"]] = values[field["set"] "/" field["system"]] " " field["rows_per_s"]
  }
  END {
    printf "%-6s %-15s %14s %9s %9s\n", "hosts", "system", "rows/s", "/ influx", "/ vm"
    split("1k 100k", sets, " "); split("influx vm one-node one-node-lines three-nodes", systems, " ")
    for (s = 1; s <= 2; s++) for (y = 1; y <= 5; y++) {
      rate = median(sets[s] "/" systems[y]); influx = median(sets[s] "/influx"); vm = median(sets[s] "/vm")
      printf "%-6s %-15s %14.0f %9s %9s\n", sets[s], systems[y], rate, influx ? sprintf("%.1f", rate / influx) : "-", vm ? sprintf("%.1f", rate / vm) : "-"
    }
  }' "$results"
