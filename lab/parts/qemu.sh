# Sourced by lab/run: two QEMUs, neither installed.
#
#   stock    11.1 from trixie-backports, unpacked with every library it needs, started through its own loader
#   patched  10.0.13 built from trixie's source with qemu/dirty-bits.patch: its VT-d and AMD IOMMUs set accessed and
#            dirty bits, which no released QEMU does

qemu_patched_version=10.0.13

qemu_patched_key() { # names one build
    { echo "$qemu_patched_version"; cat "$lab"/qemu/dirty-bits.patch "$lab"/qemu/devices.mak; } | sha256sum | cut -c 1-12
}

qemu_stock() { # prints the path of a program that starts it
    echo "$cache/qemu/start"
}

qemu_patched() {
    echo "$cache/qemu-patched/$(qemu_patched_key)/start"
}

qemu_stock_make() {
    local start
    start=$(qemu_stock)
    [ ! -e "$start" ] || return 0
    may_fetch "QEMU 11.1"
    say "fetching QEMU 11.1 and its libraries (90 packages, 38 MB)"
    rm -rf "$cache/qemu"
    debian_unpack_whole "$cache/qemu/root" trixie-backports qemu-system-x86
    [ -x "$cache/qemu/root/usr/bin/qemu-system-x86_64" ] ||
        fail "the packages hold no usr/bin/qemu-system-x86_64" "delete $cache/qemu and run again"
    cat >"$start.new" <<'START'
#!/bin/sh
root=$(dirname "$(realpath "$0")")/root
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
    "$root/usr/bin/qemu-system-x86_64" \
    -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu" "$@"
START
    chmod +x "$start.new" && mv "$start.new" "$start"
}

qemu_patched_make() {
    local start work=$cache/qemu-patched began=$SECONDS deb
    start=$(qemu_patched)
    qemu_stock_make # its firmware files serve both
    [ ! -e "$start" ] || return 0
    may_fetch "the patched QEMU"
    debian_needs gcc make ninja-build libglib2.0-dev libpixman-1-dev libcap-ng-dev libattr1-dev zlib1g-dev \
        python3-venv patch xz-utils pkg-config flex bison
    debian_open
    mkdir -p "$work"
    say "fetching the source of QEMU $qemu_patched_version"
    rm -rf "$work/source" "$work/build" "$work/tools" "$work"/*.deb
    (cd "$work" && debian_apt apt-get -qq source --download-only qemu/trixie &&
        debian_apt apt-get -qq download meson/trixie python3-pycotap/trixie) >"$work/fetch.log" 2>&1 ||
        fail "can not fetch the source of QEMU ($(tail -n 1 "$work/fetch.log"))" "check the network, or set MIRROR"
    mkdir -p "$work/source" "$work/build"
    # meson of the host's release may be too old for it
    for deb in "$work"/*.deb; do dpkg-deb -x "$deb" "$work/tools"; done
    tar -C "$work/source" --strip-components=1 -xf "$work/qemu_$qemu_patched_version+ds.orig.tar.xz" ||
        fail "can not unpack the source of QEMU" "see whether the disk is full: df $cache"
    patch -s -d "$work/source" -p1 <"$lab/qemu/dirty-bits.patch" ||
        fail "lab/qemu/dirty-bits.patch does not apply to QEMU $qemu_patched_version" "see whether trixie has a newer one"
    cp "$lab/qemu/devices.mak" "$work/source/configs/devices/x86_64-softmmu/lab.mak"
    # Debian took the firmware blobs out of the source, which the build would unpack
    sed -i 's/^    unpack_edk2_blobs = bzip2.found()/    unpack_edk2_blobs = false/' "$work/source/meson.build"

    say "building it: about 7 CPU minutes; log: $work/build.log"
    (
        export PYTHONPATH=$work/tools/usr/lib/python3/dist-packages
        cd "$work/build" &&
            ../source/configure --target-list=x86_64-softmmu --without-default-features --without-default-devices \
                --with-devices-x86_64=lab --enable-tcg --enable-virtfs --enable-attr --enable-cap-ng \
                --disable-download --disable-docs --disable-werror --disable-install-blobs --audio-drv-list= &&
            with_progress "$work/build" 1500 '*.o' nice -n 5 ninja -j"${JOBS:-$(nproc)}" qemu-system-x86_64
    ) >"$work/build.log" 2>"$work/build.errors" ||
        fail "QEMU did not build ($(grep -hm1 -E 'error|ERROR' "$work/build.log" "$work/build.errors" || echo 'no message'))" \
            "see $work/build.log"
    mkdir -p "$(dirname "$start")"
    cp "$work/build/qemu-system-x86_64" "$(dirname "$start")/"
    strip "$(dirname "$start")/qemu-system-x86_64"
    cat >"$start.new" <<'START'
#!/bin/sh
here=$(dirname "$(realpath "$0")")
root=$here/../../qemu/root
exec "$here/qemu-system-x86_64" \
    -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu" "$@"
START
    chmod +x "$start.new" && mv "$start.new" "$start"
    rm -rf "$work/source" "$work/build" "$work/tools" "$work"/*.deb
    say "QEMU $qemu_patched_version with dirty bits is built in $((SECONDS - began)) s"
}
