# What `./lab/run machines` and `./lab/run updates` do in the guest ($lab_run says which): machines on real devices move from
# one process to another, each through another interface of the kernel; and live updates. Ends with 1 when one of them does
# not arrive whole. The machine's devices are the first two controllers (source, destination), or the two mdevs.
# It gives a guest's files to a user of its own, so it refuses to run anywhere else.
if [ -z "$lab_run" ] || [ ! -d /host/program ]; then
    echo "machines.sh runs in the lab's guest: ./lab/run machines, ./lab/run updates" >&2
    exit 64
fi
set -- $LAB_NVME
controllers="$1 $2"
set -- $LAB_MTTY
mdevs="$1 $2"
worst=0
work=$(mktemp -d)
cd "$work"

wait_for() { # COMMAND...: until it succeeds, 3 minutes at most
    left=180
    until "$@" >/dev/null 2>&1; do
        [ $left -gt 0 ] || return 1
        left=$((left - 1))
        sleep 1
    done
}

describe() { # NAME DEVICE MACHINE-KEYS DEVICE-KEYS
    cat <<JSON
{ "name": "$1", $3 "workload": { "fill": "8MiB", "cpuWorkingSet": "4MiB", "cpuBytesPerSecond": "2MiB" },
  "devices": [ { "name": "device", "host": "$2", $4 "arena": "4MiB", "blockSize": "16KiB",
                 "readBytesPerSecond": "8MiB", "sameDisk": "copy" } ] }
JSON
}

move() { # NAME DEVICES MACHINE-KEYS DEVICE-KEYS
    name=$1
    describe "$name" "${2% *}" "$3" "$4" >"$name-here.json"
    describe "$name" "${2#* }" "$3" "$4" >"$name-there.json"
    tidemark run "$name-here.json" --kernel linux >"$name.log" 2>&1 &
    wait_for tidemark status "$name"
    tidemark dirty-rate "$name" --json >"/host/$name-rate.json" 2>>"$name.log"
    tidemark receive "$name-there.json" --name "$name-there" --kernel linux --listen "unix:$work/$name.sock" >>"$name.log" 2>&1 &
    wait_for test -e "$work/$name.sock"
    tidemark migrate "$name" "unix:$work/$name.sock" --verify --downtime-limit 3000 --json >"/host/$name.json" 2>>"$name.log"
    status=$?
    sleep 1
    tidemark status "$name-there" --json >"/host/$name-there.json" 2>>"$name.log"
    tidemark stop "$name-there" >>"$name.log" 2>&1
    if [ $status = 0 ] && grep -q '"lostPages":0' "/host/$name.json" && grep -q '"dataErrors":0' "/host/$name-there.json"; then
        echo "machine $name: moved, 0 lost pages"
    else
        echo "machine $name: FAILED ($status)"
        cat "$name.log" "/host/$name.json"
        worst=1
    fi
}

if [ "$lab_run" = machines ]; then
    move iommufd "$controllers" '"memory": { "size": "64MiB" }, "backend": "iommufd",' ''
    move huge-pages "$controllers" '"memory": { "size": "64MiB", "hugePages": true }, "backend": "iommufd",' ''
    move viommu "$controllers" '"memory": { "size": "64MiB" }, "backend": "iommufd",' '"viommu": "translated",'
    move legacy "$controllers" '"memory": { "size": "64MiB" }, "backend": "legacy",' ''
    move legacy-viommu "$controllers" '"memory": { "size": "64MiB" }, "backend": "legacy",' '"viommu": "translated",'
    move mdev "$mdevs" '"memory": { "size": "64MiB" }, "backend": "iommufd",' ''
    move legacy-mdev "$mdevs" '"memory": { "size": "64MiB" }, "backend": "legacy",' ''
    exit $worst
fi

pinned() { # NAME: KiB that are charged to the process that runs it
    process=$(tidemark status "$1" --json | grep -o '"processId":[0-9]*' | cut -d: -f2)
    sed -n 's/^VmPin:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$process/status"
}

# A machine goes from one process to another while its controller reads: the same descriptors, page tables and mappings.
# Then it moves as the others do, so that what was taken over is shown to track. With WHO=old or new, that process is killed
# at STEP: the other one must run it. A killed new one is followed by another new one.
update() { # NAME DEVICES MACHINE-KEYS DEVICE-KEYS MORE-CALLS-THAT-MUST-NOT-BE KIB-PINNED [WHO STEP]
    name=$1
    fault=
    describe "$name" "${2% *}" "$3" "$4" >"$name-here.json"
    describe "$name" "${2#* }" "$3" "$4" >"$name-there.json"
    if [ "$7" = old ]; then old_dies="--die-at $8"; else old_dies=; fi
    tidemark run "$name-here.json" --kernel linux $old_dies --trace "$work/$name-old.trace" >"$name.log" 2>&1 &
    wait_for tidemark status "$name"
    tidemark status "$name" --json >"/host/$name-old.json" 2>>"$name.log"
    old=$(grep -o '"processId":[0-9]*' "/host/$name-old.json")
    if [ "$7" = new ]; then
        tidemark run "$name-here.json" --kernel linux --take-over --die-at "$8" --trace "$work/$name-dead.trace" >"$name-dead.log" 2>&1
        killed=$?
        sleep 2
        tidemark status "$name" --json >"/host/$name-kept.json" 2>>"$name.log"
        [ $killed = 137 ] || fault="$fault the new process was not killed ($killed);"
        grep -q "$old\b" "/host/$name-kept.json" && grep -q '"state":"running"' "/host/$name-kept.json" \
            && grep -q '"dataErrors":0' "/host/$name-kept.json" || fault="$fault the old process does not run it;"
        [ "$(pinned "$name")" -ge "$6" ] || fault="$fault the old process is charged for $(pinned "$name") KiB;"
    fi
    tidemark run "$name-here.json" --kernel linux --take-over --trace "$work/$name-new.trace" >"$name-new.log" 2>&1 &
    wait_for grep -q 'runs here now' "$name-new.log"
    sleep 2
    tidemark status "$name" --json >"/host/$name-new.json" 2>>"$name.log"
    [ "$(pinned "$name")" -ge "$6" ] || fault="$fault the new process is charged for $(pinned "$name") KiB;"
    tidemark receive "$name-there.json" --name "$name-there" --kernel linux --listen "unix:$work/$name.sock" >>"$name.log" 2>&1 &
    wait_for test -e "$work/$name.sock"
    tidemark migrate "$name" "unix:$work/$name.sock" --verify --downtime-limit 3000 --json >"/host/$name.json" 2>>"$name.log"
    status=$?
    tidemark stop "$name-there" >>"$name.log" 2>&1
    # Up to the migration, which begins with dirty tracking: nothing of what is there was made or changed by the new process.
    changed=$(sed '/SET_DIRTY_TRACKING\|SET|MIG_DEVICE_STATE/q' "$work/$name-new.trace" \
        | grep -cE "IOAS_ALLOC|HWPT_ALLOC|IOMMUFD_PT|BIND_IOMMUFD|DEVICE_RESET$5")
    [ "$changed" = 0 ] || fault="$fault $changed calls that make or change;"
    ! grep -q "$old\b" "/host/$name-new.json" || fault="$fault the old process has it;"
    grep -q 'IOAS_CHANGE_PROCESS.*= 0' "$work/$name-new.trace" || fault="$fault no change of process;"
    grep -q '"lostPages":0' "/host/$name.json" || fault="$fault lost pages;"
    grep -q '"dataErrors":0' "/host/$name-new.json" || fault="$fault data errors;"
    cp "$work/$name"-*.trace /host/
    if [ $status = 0 ] && [ -z "$fault" ]; then
        what="taken over without a call that makes, attaches or binds anything"
        [ "$7" != new ] || what="the new process was killed at \"$8\" and the old one ran on; then $what"
        [ "$7" != old ] || what="the old process was killed at \"$8\"; $what"
        echo "machine $name: $what; then moved, 0 lost pages ($(grep -o 'stood still.*' "$name-new.log"))"
    else
        echo "machine $name: FAILED ($status)$fault"
        cat "$name.log" "$name-new.log" "/host/$name.json"
        worst=1
    fi
}

memory='"memory": { "size": "64MiB" }, "backend": "iommufd",'
update live-update "$controllers" "$memory" '' '|IOAS_MAP|IOAS_UNMAP' 0
update live-update-viommu "$controllers" "$memory" '"viommu": "translated",' '' 0
update live-update-mdev "$mdevs" "$memory" '' '|IOAS_MAP|IOAS_UNMAP' 0
update live-update-new-killed "$controllers" "$memory" '' '|IOAS_MAP|IOAS_UNMAP' 0 new Charged
update live-update-old-killed "$controllers" "$memory" '' '|IOAS_MAP|IOAS_UNMAP' 0 old Offered

# Once more as a user: who has CAP_IPC_LOCK is charged for nothing, so that nothing moves with the machine.
home=$(mktemp -d)
mkdir -p /etc
echo "user:x:1000:1000::$home:/bin/sh" >>/etc/passwd
chown 1000 "$home" "$work"
chmod 666 /dev/iommu /dev/vfio/devices/*
chmod a+rx / /[a-ln-z]* && chmod -R a+rX /bin /lib* /etc # the guest's first file system is its builder's alone
ulimit -l unlimited
export TIDEMARK_RUNTIME_DIR=$home
tidemark() { su -m -s /bin/sh -- user -c 'exec /usr/share/dotnet/dotnet /host/program/tidemark.dll "$@"' sh "$@"; }
update live-update-user "$controllers" "$memory" '' '|IOAS_MAP|IOAS_UNMAP' 65536 new Charged
exit $worst
