# Sourced by lab/run: what the guest consists of, and starting it.
#
#   profile -> which QEMU, which IOMMU, which devices -> one boot -> /host/run.sh -> exit code, files in /host
#
# LIMIT: a guest that hangs is ended, but a machine that is busy with other things makes every run ten times longer: the
# limits are for the first, and far from what the second takes.
#
# The host's folder for a run is the guest's /host; the host's .NET is the guest's /usr/share/dotnet, read-only.

profiles='none mock virtio vtd vtd-sm vtd-fs vtd-dirty amd amd-dirty mtty legacy'

# More of QEMU's options for the next guest; a run with several guests sets it.
network=()

mtty_uuids='83b8f4f2-509f-382f-3c1e-e6bfe0fa1001 83b8f4f2-509f-382f-3c1e-e6bfe0fa1002'

guest_describe() { # PROFILE: sets qemu, machine, iommu (array), append, nvmes, mdevs
    machine=q35,kernel-irqchip=split
    iommu=()
    append=
    nvmes=3
    mdevs=0
    qemu=stock
    # Linux's virtio-iommu and QEMU 10.0's AMD model have no interrupt remapping that works: VFIO is told to go without.
    local unsafe='iommufd.allow_unsafe_interrupts=1 vfio_iommu_type1.allow_unsafe_interrupts=1'
    case $1 in
        none) machine=q35 append=vfio.enable_unsafe_noiommu_mode=1 nvmes=1 ;;
        mock) machine=q35 nvmes=0 ;;
        mtty) machine=q35 nvmes=0 mdevs=2 ;;
        vtd | legacy) iommu=(-device intel-iommu,intremap=on) ;;
        vtd-sm) iommu=(-device intel-iommu,intremap=on,scalable-mode=on) ;;
        vtd-fs) iommu=(-device intel-iommu,intremap=on,scalable-mode=on,fsts=on,pasid-bits=20) ;;
        vtd-dirty)
            qemu=patched mdevs=2
            iommu=(-device "intel-iommu,intremap=on,x-scalable-mode=on,x-ssads=on${forget:+,x-forget-dirty=$forget}") ;;
        # Linux 7.3 wants an SMBus or ISA bridge at 00:14.0 before it trusts AMD's interrupt remapping; q35 has nothing
        # there, so a disk that claims to be one sits in.
        amd)
            iommu=(-device amd-iommu,intremap=on,xtsup=on,dma-remap=on
                -blockdev null-co,node-name=bridge,size=1048576,read-zeroes=on
                -device virtio-blk-pci,drive=bridge,class=0x0c05,addr=0x14) ;;
        amd-dirty)
            qemu=patched append=$unsafe
            iommu=(-device "amd-iommu,x-hd=on${forget:+,x-forget-dirty=$forget}") ;;
        virtio) iommu=(-device virtio-iommu-pci) append=$unsafe machine=q35 ;;
        *) fail "there is no profile \"$1\"" "use one of: $profiles" 64 ;;
    esac
}

# Where the NVMe controllers sit; each is alone in its IOMMU group.
guest_nvme_addresses() { # COUNT
    local index
    for ((index = 0; index < $1; index++)); do printf '0000:00:%02x.0 ' $((8 + index)); done
}

guest_image() { # makes the initramfs: busybox, init, and the libraries that .NET's own libraries want
    local image=$cache/guest.cpio.gz tree library framework
    debian_needs busybox-static cpio
    framework=$(find "$dotnet_root/shared/Microsoft.NETCore.App" -maxdepth 1 -name '10.*' | sort -V | tail -n 1)
    [ -n "$framework" ] || fail "$dotnet_root has no .NET 10 runtime" "install dotnet-sdk-10.0"
    tree=$(mktemp -d "$cache/tree.XXXXXX")
    mkdir -p "$tree"/{bin,dev,proc,sys,tmp,host,root,etc,run} "$tree/usr/share/dotnet"
    cp "$(command -v busybox)" "$tree/bin/busybox"
    ln -s busybox "$tree/bin/sh"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$tree/etc/passwd"
    echo 'root:x:0:' >"$tree/etc/group"
    cp "$lab/guest/init" "$tree/init"
    cp "$lab/guest/devices.sh" "$tree/bin/lab-devices"
    chmod +x "$tree/init" "$tree/bin/lab-devices"
    {
        ldd "$dotnet_root/dotnet" "$framework/libcoreclr.so" "$framework/libSystem.Native.so" 2>/dev/null | grep -o '/[^ ]*\.so[^ ]*'
        find /lib /usr/lib -name 'libssl.so.3' -o -name 'libcrypto.so.3' 2>/dev/null
    } | grep -v "^$dotnet_root" | sort -u | while read -r library; do
        mkdir -p "$tree$(dirname "$library")"
        [ -e "$tree$library" ] || cp -L "$library" "$tree$library"
    done
    (cd "$tree" && find . -print0 | cpio -0 --quiet -R 0:0 -H newc -o) | gzip -1 >"$image.new" && mv "$image.new" "$image"
    rm -rf "$tree"
}

guest_disk() { # the blocks of every NVMe controller: equal content, written to by nobody
    local disk=$cache/disk.img
    [ -e "$disk" ] || { head -c 67108864 /dev/urandom >"$disk.new" && mv "$disk.new" "$disk"; }
    echo "$disk"
}

guest_run() { # PROFILE FOLDER: boots, runs FOLDER/run.sh; its exit code, or 98 when the guest did not get that far
    local profile=$1 folder=$2 disk index program devices=() status
    guest_describe "$profile"
    # Two runs at once must not build into the same folders: the second waits, then finds everything built.
    exec 9>"$cache/lock"
    flock 9
    case $qemu in
        stock) qemu_stock_make && program=$(qemu_stock) ;;
        patched) qemu_patched_make && program=$(qemu_patched) ;;
    esac
    kernel_make
    guest_image
    disk=$(guest_disk)
    exec 9>&-
    for ((index = 0; index < nvmes; index++)); do
        devices+=(-drive "file=$disk,format=raw,if=none,id=disk$index,snapshot=on"
            -device "nvme,id=nvme$index,drive=disk$index,serial=lab,addr=$(printf 0x%x $((8 + index)))")
    done
    {
        echo "LAB_PROFILE=$profile"
        echo "LAB_NVME='$(guest_nvme_addresses "$nvmes")'"
        if [ "$mdevs" -gt 0 ]; then echo "LAB_MTTY='$mtty_uuids'"; else echo "LAB_MTTY="; fi
    } >"$folder/environment"
    rm -f "$folder/rc"
    timeout --kill-after=5 "${LIMIT:-1200}" "$program" -machine "$machine" -accel "${ACCEL:-tcg,thread=multi}" \
        -cpu "${CPU:-max}" -smp "${CPUS:-2}" -m "${MEMORY:-3G}" \
        -nodefaults -no-user-config -display none -serial stdio -no-reboot \
        -kernel "$(kernel_image)" -initrd "$cache/guest.cpio.gz" -append "console=ttyS0 quiet loglevel=3 panic=-1 initcall_blacklist=nvme_init $append ${APPEND:-}" \
        "${iommu[@]}" "${devices[@]}" "${network[@]}" \
        -fsdev "local,id=host,path=$folder,security_model=none,multidevs=remap" -device virtio-9p-pci,fsdev=host,mount_tag=host \
        -fsdev "local,id=dotnet,path=$dotnet_root,security_model=none,multidevs=remap,readonly=on" \
        -device virtio-9p-pci,fsdev=dotnet,mount_tag=dotnet </dev/null
    status=$?
    [ -e "$folder/rc" ] && return "$(cat "$folder/rc")"
    say "the guest ended without an exit code (QEMU's own: $status, 124: the limit of ${LIMIT:-1200} s)"
    return 98
}
