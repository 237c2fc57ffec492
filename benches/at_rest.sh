#!/usr/bin/env bash
# Bytes per value at rest of other systems, for the very rows that the `rest` part of the shard benchmark
# writes (benches/README.md, "At rest").
#
#   at_rest.sh influx|vm integer|decimal WORKDIR [ROWS] [HOSTS]
#
# Needs influxd 1.x or victoria-metrics in the path (Debian packages `influxdb` and `victoria-metrics`), curl and
# GNU split. Starts the server on loopback with a fresh folder below WORKDIR, writes ROWS rows (default 20,000,000)
# of HOSTS hosts (default 1,000) in pieces of 25,000 lines, lets it compact all it will, prints one RES line and
# removes the folder. Takes 2 GB of disk at most. Both servers are set to compact sooner and further than they
# would by themselves, which can only make them smaller.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 3 ] || { sed -n 2,12p "$0" >&2; exit 2; }
system=$1 values=$2 work=$3 rows=${4:-20000000} hosts=${5:-1000}
[ "$values" = integer ] || [ "$values" = decimal ] || { echo "at_rest: values are integer or decimal" >&2; exit 2; }
fleet=${FLEET:-}
if [ -z "$fleet" ]; then
  (cd "$here/.." && cargo build --release -q -p quorate-benches --bin fleet)
  fleet=${CARGO_TARGET_DIR:-$here/../target}/release/fleet
fi
dir=$work/$system-$values
mkdir -p "$dir"
[ -z "$(ls -A "$dir")" ] || { echo "at_rest: $dir is not empty; remove it first" >&2; exit 1; }

case $system in
influx)
  port=18186
  printf '%s\n' 'reporting-disabled = true' 'bind-address = "127.0.0.1:18188"' \
    '[meta]' "dir = \"$dir/meta\"" \
    '[data]' "dir = \"$dir/data\"" "wal-dir = \"$dir/wal\"" 'wal-fsync-delay = "0s"' 'query-log-enabled = false' \
    'cache-snapshot-write-cold-duration = "10s"' 'compact-full-write-cold-duration = "30s"' \
    '[http]' "bind-address = \"127.0.0.1:$port\"" 'log-enabled = false' 'max-body-size = 0' \
    '[monitor]' 'store-enabled = false' > "$work/influx-$values.conf"
  influxd run -config "$work/influx-$values.conf" > "$work/$system-$values.log" 2>&1 & ;;
vm)
  port=18528
  victoria-metrics -storageDataPath="$dir/data" -httpListenAddr=127.0.0.1:$port -retentionPeriod=100y \
    > "$work/$system-$values.log" 2>&1 & ;;
*) echo "at_rest: the system is influx or vm" >&2; exit 2 ;;
esac
server=$!
package=$([ "$system" = vm ] && echo victoria-metrics || echo influxdb)
version=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null || echo unknown)
stop() { kill "$server" 2>/dev/null && wait "$server" || true; }
trap 'stop; rm -rf "$dir" "$work/influx-$values.conf" "$work/$system-$values.log"' EXIT
url=http://127.0.0.1:$port
for _ in $(seq 100); do curl -s -o /dev/null "$url/health" && break; sleep 0.2; done
[ "$system" = vm ] || curl -sf -o /dev/null -XPOST "$url/query" --data-urlencode 'q=CREATE DATABASE bench'

began=$SECONDS
"$fleet" "$rows" --hosts "$hosts" --values "$values" |
  URL="$url/write?db=bench&precision=ns" split -l 25000 --filter='curl -sSf -XPOST --data-binary @- "$URL"'
loaded=$((SECONDS - began))

# The server's CPU ticks, and what its folder takes: quiet when neither moves for half a minute.
ticks() { awk '{print $14 + $15}' "/proc/$server/stat"; }
size() { du -sB1 "$dir" | cut -f1; }
quiet() {
  local still=0 t s
  for _ in $(seq 60); do
    t=$(ticks) s=$(size); sleep 10
    if [ $(($(ticks) - t)) -lt 100 ] && [ "$(size)" = "$s" ]; then still=$((still + 1)); else still=0; fi
    [ $still -lt 3 ] || return 0
  done
  echo "at_rest: $system did not become quiet within 10 minutes" >&2
}
began=$SECONDS
if [ "$system" = vm ]; then
  curl -sf -o /dev/null "$url/internal/force_flush"; sleep 5
  curl -sf -o /dev/null "$url/internal/force_merge"; sleep 5
  while curl -sf "$url/metrics" | grep -q '^vm_active_force_merges [1-9]'; do sleep 2; done
else
  sleep 180 # cold compactions are looked for by timers
fi
quiet
settled=$((SECONDS - began))

# Every row must be there, or the figure means nothing.
if [ "$system" = vm ]; then
  found=$(curl -sf "$url/api/v1/query" --data-urlencode 'query=sum(count_over_time(cpu_usage_user[10d]))' \
    --data-urlencode "time=$((1451606400 + rows / hosts * 10))" | sed 's/.*,"\([0-9]*\)"\].*/\1/')
else
  found=$(curl -sf "$url/query?db=bench" --data-urlencode 'q=SELECT count(usage_user) FROM cpu' | sed 's/.*,\([0-9]*\)\]\].*/\1/')
fi
[ "$found" = "$rows" ] || { echo "at_rest: $system has ${found:-no} rows of $rows" >&2; exit 1; }
stop
bytes=$(size) apparent=$(du -sB1 --apparent-size "$dir" | cut -f1)
echo "RES at_rest system=$system version=$version values=$values hosts=$hosts rows=$rows found=$found load_s=$loaded" \
  "settle_s=$settled disk_bytes=$bytes apparent_bytes=$apparent" \
  "bytes_per_value=$(awk "BEGIN{printf \"%.3f\", $bytes / $rows / 10}")" \
  "date=$(date -u +%F)"
du -aB1 --max-depth=2 "$dir" | sort -rn | head -12 | sed "s|$dir|.|; s/^/#  /"
