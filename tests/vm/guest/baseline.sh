# shellcheck shell=sh disable=SC2154
# The kernel's own driver alone: what it makes QEMU report is no fault of ours.

for serial in door512 door4096 doorsmall doormany; do
    block=$(block_of "$(bdf_of $serial)")
    bytes_from $serial 3145728 >/tmp/written
    check "write-$serial" dd if=/tmp/written of="$block" bs=64k conv=fsync
    echo 3 >/proc/sys/vm/drop_caches
    dd if="$block" of=/tmp/read bs=64k count=48 2>/dev/null
    check "read-$serial" cmp /tmp/written /tmp/read
done
