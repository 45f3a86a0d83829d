#!/bin/sh
# lab-devices: hands the profile's NVMe controllers to vfio-pci and makes its mdevs. Run in the guest.
set -eu
. /host/environment
last=${LAB_NVME% }
last=${last##* }
for address in $LAB_NVME; do
    device=/sys/bus/pci/devices/$address
    echo vfio-pci >"$device/driver_override"
    [ ! -e "$device/driver" ] || echo "$address" >"$device/driver/unbind"
    echo "$address" >/sys/bus/pci/drivers_probe
    # Each open resets a function that can be reset, and waits 100 ms. Only the last controller can be: the cases about
    # resets find it, the thousand others do not wait.
    [ "$address" = "$last" ] || echo >"$device/reset_method"
    [ "$(basename "$(readlink "$device/driver")")" = vfio-pci ] || { echo "guest: $address is not bound to vfio-pci" >&2; exit 97; }
done
# shared memory may consist of huge pages where a program asks for it
echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled
for uuid in $LAB_MTTY; do
    echo "$uuid" >/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-2/create
done
ls /dev/vfio /dev/vfio/devices 2>/dev/null | tr '\n' ' '
echo
