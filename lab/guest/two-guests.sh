# What `./lab/run two-guests` does in each of its guests: $side is source or destination. A machine with the guest's first
# controller goes from one to the other as it would between two hosts: by name, over their network, encrypted.
# It names the machine it runs on and writes its hosts file, so it refuses to run anywhere else.
if [ -z "$side" ] || [ ! -d /host/program ]; then
    echo "two-guests.sh runs in the lab's guests: ./lab/run two-guests" >&2
    exit 64
fi
set -- $LAB_NVME
port=4711
machine=$(mktemp -d)/machine.json

wait_for() { # SECONDS COMMAND...: until it succeeds
    left=$1
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 1
    done
}

works() { # NAME: it runs here, and its controller has read; its status is kept
    tidemark status "$1" --json >/host/status.new 2>/dev/null && mv /host/status.new /host/status.json
    grep -q '"state":"running"' /host/status.json && grep -qE '"readsHere":([89]|[1-9][0-9])' /host/status.json
}

printf '127.0.0.1 localhost\n10.0.0.1 source\n10.0.0.2 destination\n' >/etc/hosts
hostname "$side"
ip address add "$(awk -v side="$side" '$2 == side { print $1 }' /etc/hosts)/24" dev eth0 && ip link set eth0 up || exit 97

# Its controller never rests: reads follow each other, and each is DMA into the arena. The arena is so large that a page is
# written again only seconds later: a dirty bit that gets lost is not made good by the next write.
cat >"$machine" <<JSON
{ "name": "traveller", "memory": { "size": "64MiB" },
  "workload": { "fill": "8MiB", "cpuWorkingSet": "4MiB", "cpuBytesPerSecond": "2MiB" },
  "devices": [ { "name": "nvme0", "host": "$1", "handover": "driver-assisted", "sameDisk": "copy",
                 "arena": "16MiB", "blockSize": "16KiB", "readBytesPerSecond": "4MiB" } ] }
JSON

destination() {
    tidemark receive "$machine" --kernel linux --listen "tcp:$side:$port" --tls /host/tls --tls-peer source \
        --log /host/log.txt >/host/receive.txt 2>&1 &
    receiver=$!
    wait_for 300 grep -q ' receives at ' /host/receive.txt || { cat /host/receive.txt; exit 97; }
    echo "guest: $(cat /host/receive.txt)"
    touch /host/listening # the host starts the other guest now
    patience=120
    until grep -q ' runs here now' /host/receive.txt; do
        kill -0 $receiver 2>/dev/null || break
        # The source is gone and nothing arrived: what was asked may still be answered, then nobody comes any more.
        if [ -e /host/source-ended ]; then
            patience=$((patience - 1))
            [ $patience -gt 0 ] || { tidemark stop traveller; break; }
        fi
        sleep 1
    done
    if kill -0 $receiver 2>/dev/null; then
        wait_for 120 works traveller
        arrived=$?
        tidemark stop traveller >>/host/receive.txt 2>&1
    else
        arrived=1
    fi
    wait $receiver
    status=$?
    echo $status >/host/receive.rc
    cat /host/receive.txt
    [ $status != 0 ] || status=$arrived
    return $status
}

source_side() {
    tidemark run "$machine" --kernel linux --log /host/log.txt >/host/run.txt 2>&1 &
    runner=$!
    wait_for 300 works traveller || { cat /host/run.txt; exit 97; }
    cat /host/run.txt
    tidemark migrate traveller "tcp:destination:$port" --tls /host/tls --verify --downtime-limit 5000 \
        --report /host/report.html --json >/host/migrate.json 2>/host/migrate.txt
    status=$?
    echo $status >/host/migrate.rc
    cat /host/migrate.txt
    if [ $status != 0 ]; then
        works traveller && echo "guest: the machine goes on here"
        tidemark stop traveller >>/host/run.txt 2>&1
    fi
    wait $runner
    ended=$?
    echo $ended >/host/run.rc
    [ $status != 0 ] || status=$ended
    return $status
}

if [ "$side" = destination ]; then destination; else source_side; fi
