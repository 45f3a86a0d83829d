# Sourced by lab/run: a machine goes from one guest to another, as from one host to another.
#
#   guest "destination", 10.0.0.2                          guest "source", 10.0.0.1
#   tidemark receive --tls                                 tidemark run, tidemark migrate --tls
#   vfio-pci, NVMe, IOMMU with dirty bits                  vfio-pci, NVMe, IOMMU with dirty bits
#            eth0 ------- frames over a Unix socket of the host ------- eth0
#
# The two share nothing else: each has a kernel, disks of equal content, a folder and a certificate of its own. The
# destination boots first; when it listens, the source does.

lab_two_guests() {
    local folder=$root/artifacts/lab/two-guests link side there source_status there_status began=$SECONDS network=()
    lab_program
    rm -rf "$folder"
    mkdir -p "$folder"
    # Made here and not in a guest: the key of the CA is on neither.
    dotnet "$root/artifacts/lab/program/tidemark.dll" certificates "$folder/certificates" --host source --host destination \
        >"$folder/certificates.txt" 2>&1 || fail "the certificates could not be made ($(cat "$folder/certificates.txt"))" "see $folder"
    for side in source destination; do
        lab_folder "two-guests/$side" >/dev/null
        cp -r "$folder/certificates/$side" "$folder/$side/tls"
        { echo "side=$side"; cat "$lab/guest/two-guests.sh"; } | lab_script "$folder/$side"
    done
    # A socket's path has 107 bytes at most, and the repository may lie deep.
    link=$(mktemp -d "${TMPDIR:-/tmp}/tidemark-lab.XXXXXX") || fail "no temporary folder can be made" "set TMPDIR"
    # However this ends: the other guest goes when it sees that file.
    # shellcheck disable=SC2064
    trap "rm -rf '$link'; touch '$folder/destination/source-ended'" EXIT

    network=(-netdev "stream,id=net,server=on,addr.type=unix,addr.path=$link/network"
        -device virtio-net-pci,netdev=net,mac=52:54:00:00:00:02,romfile=)
    LIMIT=${LIMIT:-2400} guest_run "${profile:-vtd-dirty}" "$folder/destination" >"$folder/destination/console.txt" 2>&1 &
    there=$!
    until [ -e "$folder/destination/listening" ]; do
        kill -0 "$there" 2>/dev/null || { two_guests_tail "$folder/destination"; wait "$there"; return; }
        sleep 1
    done
    say "the destination listens after $((SECONDS - began)) s; the source boots"

    network=(-netdev "stream,id=net,server=off,addr.type=unix,addr.path=$link/network"
        -device virtio-net-pci,netdev=net,mac=52:54:00:00:00:01,romfile=)
    LIMIT=${LIMIT:-1800} guest_run "${profile:-vtd-dirty}" "$folder/source" 2>&1 | tee "$folder/source/console.txt"
    source_status=${PIPESTATUS[0]}
    touch "$folder/destination/source-ended"
    wait "$there"
    there_status=$?
    two_guests_tell "$folder" "$source_status" "$there_status" || [ $((source_status + there_status)) != 0 ] || there_status=1
    say "$((SECONDS - began)) s; $folder"
    [ "$source_status" = 0 ] || return "$source_status"
    return "$there_status"
}

two_guests_tail() { # FOLDER of a guest that did not get far
    tail -n 15 "$1/console.txt" >&2
}

two_guests_number() { # FILE KEY [OBJECT]: the first number of that key in a JSON file, or in an object of it
    sed "s/.*\"${3:-}\":{//" "$1" 2>/dev/null | grep -o "\"$2\":[0-9.]*" | head -n 1 | cut -d: -f2
}

two_guests_code() { # FILE
    cat "$1" 2>/dev/null || echo none
}

two_guests_tell() { # FOLDER SOURCE DESTINATION: what came out, in one line
    local moved=$1/source/migrate.json arrived=$1/destination/status.json codes cause
    codes="exit codes: migrate $(two_guests_code "$1/source/migrate.rc"), run $(two_guests_code "$1/source/run.rc"), receive $(two_guests_code "$1/destination/receive.rc")"
    if [ "$2" = 0 ] && [ "$3" = 0 ] && [ "$(two_guests_number "$moved" lostPages verified)" = 0 ] &&
        [ "$(two_guests_number "$arrived" dataErrors)" = 0 ] && [ "$(two_guests_number "$arrived" stalePages)" = 0 ]; then
        echo "machine two-guests: moved, 0 lost pages; the IOMMU reported $(two_guests_number "$moved" iommu dirtyBySource) dirty pages, $(two_guests_number "$moved" downtimeMilliseconds) ms of downtime, $(two_guests_number "$arrived" readsHere) reads after the move without an error; $codes"
        return 0
    fi
    cause=$(sed -n 's/.*"cause":"\([^"]*\)".*/\1/p' "$moved" 2>/dev/null)
    echo "machine two-guests: NOT moved${cause:+: $cause}; $codes"
    [ "$2" != 0 ] || two_guests_tail "$1/destination"
    return 1
}
