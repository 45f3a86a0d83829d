# Sourced by lab/run: the lab's Linux, built from Debian's source package.
#
# What is built is kept under a key (package version and the text of kernel.config), so that a changed configuration
# builds anew and an unchanged one never does. KEEP=yes keeps the source and the objects (1.5 GB), to read or to debug.

kernel_version='7.3.4-1~bpo13+1'
kernel_series=7.3

kernel_key() { # names one build
    { echo "$kernel_version"; cat "$lab/kernel.config"; } | sha256sum | cut -c 1-12
}

kernel_image() { # prints the path of the bzImage
    echo "$cache/kernel/$(kernel_key)/bzImage"
}

kernel_tells_what_did_not_take() { # CONFIG: every line of kernel.config must stand in it
    local line name bad=
    while IFS= read -r line; do
        case $line in
            CONFIG_*=*) grep -qxF -- "$line" "$1" || bad="$bad $line" ;;
            '# CONFIG_'*' is not set')
                name=${line#\# }
                name=${name%% *}
                if grep -q "^$name=" "$1"; then bad="$bad $name"; fi ;;
        esac
    done <"$lab/kernel.config"
    [ -z "$bad" ] || fail "the kernel's configuration did not take:$bad" "mend lab/kernel.config for linux-source-$kernel_series"
}

kernel_make() { # builds unless it is there
    local image source=$cache/kernel/linux-source-$kernel_series build=$cache/kernel/build began=$SECONDS
    image=$(kernel_image)
    [ ! -e "$image" ] || return 0
    may_fetch "the kernel"
    debian_needs gcc make bc flex bison libc6-dev libelf-dev xz-utils lz4
    if [ ! -e "$source/Kconfig" ]; then
        say "fetching the source of Linux $kernel_version (167 MB)"
        debian_unpack "$cache/kernel/package" "linux-source-$kernel_series=$kernel_version"
        say "unpacking it"
        # device trees, GPU register lists and manuals only take room; Kconfig reads the rest
        LC_ALL=C tar -C "$cache/kernel" --exclude='*/boot/dts' --exclude='*/drivers/gpu/drm/amd/include' \
            --exclude="linux-source-$kernel_series/Documentation/[a-z]*" \
            -xJf "$cache/kernel/package/usr/src/linux-source-$kernel_series.tar.xz" ||
            fail "can not unpack the source of Linux" "see whether the disk is full: df $cache"
        rm -rf "$cache/kernel/package"
    fi
    say "building Linux $kernel_series: about 17 CPU minutes; log: $cache/kernel/build.log"
    mkdir -p "$build"
    make -s -C "$source" O="$build" ARCH=x86_64 KCONFIG_ALLCONFIG="$lab/kernel.config" allnoconfig >"$cache/kernel/build.log" 2>&1 ||
        fail "the kernel's configuration failed ($(tail -n 1 "$cache/kernel/build.log"))" "see $cache/kernel/build.log"
    kernel_tells_what_did_not_take "$build/.config"
    with_progress "$build" 2100 '*.o' \
        nice -n 5 make -C "$source" O="$build" ARCH=x86_64 -j"${JOBS:-$(nproc)}" bzImage >>"$cache/kernel/build.log" 2>&1 ||
        fail "the kernel did not build ($(grep -m1 -E 'error|Error' "$cache/kernel/build.log" || echo 'no message'))" "see $cache/kernel/build.log"
    mkdir -p "$(dirname "$image")"
    cp "$build/arch/x86/boot/bzImage" "$image.new" && mv "$image.new" "$image"
    [ -n "${KEEP:-}" ] || rm -rf "$source" "$build"
    say "Linux $kernel_series is built in $((SECONDS - began)) s: $image"
}
