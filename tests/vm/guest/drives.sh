# shellcheck shell=sh disable=SC2154
# The path of a user with a drive: reserve hugepages, bind, run Doorbell over the kernel's VFIO, give the drive back.

d512=$(bdf_of door512)
d4096=$(bdf_of door4096)
small=$(bdf_of doorsmall)
many=$(bdf_of doormany)
pages0=/sys/devices/system/node/node0/hugepages/hugepages-2048kB
pages1=/sys/devices/system/node/node1/hugepages/hugepages-2048kB

# --- hugepages
check reserve hugepages.sh reserve 64M --node 0
check reserve-counted test "$(cat $pages0/nr_hugepages) $(cat $pages1/nr_hugepages)" = "32 0"
check reserve-again hugepages.sh reserve 64M --node=0
check reserve-idempotent test "$(cat $pages0/nr_hugepages)" = 32
check reserve-spread hugepages.sh reserve 80
check reserve-spread-counted test "$(cat $pages0/nr_hugepages) $(cat $pages1/nr_hugepages)" = "40 40"
check_fails reserve-no-node "no NUMA node 7; there are: 0 1" hugepages.sh reserve 1 --node 7
check_fails reserve-too-much "the kernel found memory for .* reserve at boot" hugepages.sh reserve 4 --size 1G --node 0
check release-1g hugepages.sh release --size 1G
check_fails reserve-what "neither a number of pages nor a size" hugepages.sh reserve lots

# --- drives that must not be taken
block=$(block_of "$d512")
check_fails bind-unknown "no PCI function 0000:77:00.0; the NVMe drives are" hugepages.sh bind 77:00.0
check_fails bind-no-drive "not an NVMe drive" hugepages.sh bind 0000:00:1f.0
mke2fs "$block" >/dev/null 2>&1
check_fails bind-filesystem "holds data: ext2/3/4 filesystem" hugepages.sh bind "$block"
mkdir -p /tmp/mounted && mount -t ext4 "$block" /tmp/mounted
check_fails bind-mounted "mounted on /tmp/mounted" hugepages.sh bind "$d512"
umount /tmp/mounted
dd if=/dev/zero of="$block" bs=1M count=1 2>/dev/null
mkswap "$block" >/dev/null && swapon "$block"
check_fails bind-swap "swapped on" hugepages.sh bind "pcie:$d512"
swapoff "$block"
dd if=/dev/zero of="$block" bs=1M count=1 2>/dev/null
sh -c "exec sleep 60" <"$block" &
holder=$!
check_fails bind-open "opened by sleep \(pid $holder\)" hugepages.sh bind "$d512"
kill $holder
if modprobe dm-mod 2>/dev/null && command -v dmsetup >/dev/null; then
    echo "0 1024 linear $block 0" | dmsetup create --noudevsync held
    check_fails bind-dm "held by dm-0 \(held\)" hugepages.sh bind "$d512"
    dmsetup remove --noudevsync held
else
    skip bind-dm "no device mapper in this guest"
fi
check not-bound test "$(driver_of "$d512")" = nvme

# --- what the kernel writes, we shall read. Serial number, namespace, block size, blocks a command, first block: past the
# first 64 MiB, which verify overwrites; the length is more than two pages where the drive takes that in one command.
exchanges="door512,1,512,256,400000 door4096,1,4096,32,50000 doorsmall,1,512,16,400000 doormany,7,4096,128,9000"

# each_exchange COMMAND: with serial bdf nsid size blocks lba bytes set.
each_exchange() {
    for exchange in $exchanges; do
        IFS=, read -r serial nsid size blocks lba <<FIELDS
$exchange
FIELDS
        bytes=$((size * blocks))
        case $serial in
            door512) bdf=$d512 ;;
            door4096) bdf=$d4096 ;;
            doorsmall) bdf=$small ;;
            doormany) bdf=$many ;;
        esac
        "$@"
    done
}

kernel_writes() {
    bytes_from "kernel $serial" "$bytes" >"/tmp/kernel.$serial"
    check "kernel-writes-$serial" dd if="/tmp/kernel.$serial" of="$(block_of "$bdf" "$nsid")" bs="$size" seek="$lba" conv=fsync
}

we_read_and_write() {
    check "we-read-$serial" blocks read "$bdf" "$nsid" "$lba" "$blocks" "$bytes" "/tmp/got" &&
        check "as-kernel-wrote-$serial" cmp "/tmp/kernel.$serial" /tmp/got
    bytes_from "doorbell $serial" "$bytes" >"/tmp/ours.$serial"
    check "we-write-$serial" blocks write "$bdf" "$nsid" $((lba + blocks)) "$blocks" "$bytes" "/tmp/ours.$serial"
}

kernel_reads() {
    dd if="$(block_of "$bdf" "$nsid")" of=/tmp/got bs="$size" skip=$((lba + blocks)) count="$blocks" 2>/dev/null
    check "kernel-reads-what-we-wrote-$serial" cmp "/tmp/ours.$serial" /tmp/got
}

each_exchange kernel_writes

# --- bind
check bind-dry hugepages.sh bind -n "$d512"
check bind-dry-changed-nothing test "$(driver_of "$d512")" = nvme
check bind hugepages.sh bind "$d512" "$d4096" "$small" "$many"
check bind-again hugepages.sh bind "$d512"
for bdf in "$d512" "$d4096" "$small" "$many"; do
    check "bound-$bdf" test "$(driver_of "$bdf")" = vfio-pci
done
check status hugepages.sh status

# --- Doorbell on the kernel's VFIO
if need identify; then
    for pair in "door512 $d512" "door4096 $d4096" "doorsmall $small" "doormany $many"; do
        # shellcheck disable=SC2086
        set -- $pair
        check "identify-$1" sh -c "identify pcie:$2 | tee /dev/stderr | grep -q $1"
    done
    check identify-bare-address identify "$d512"
    check identify-json sh -c "identify --json pcie:$many | grep -q doormany"
fi
if need passthrough; then
    check passthrough-identify passthrough "pcie:$small" --output /tmp/identify
    check passthrough-serial sh -c "dd if=/tmp/identify bs=1 skip=4 count=20 2>/dev/null | grep -q doorsmall"
    each_exchange we_read_and_write
fi
if need hello; then
    for bdf in "$d512" "$d4096" "$small" "$many"; do
        check "hello-$bdf" hello "pcie:$bdf"
    done
fi
if need cores; then
    check cores cores "pcie:$d512"
fi
if need doorbell-perf; then
    for bdf in "$d512" "$d4096" "$small" "$many"; do
        check "verify-$bdf" doorbell-perf --workload verify --span 64m --time 2s --warmup 0s --depth 16 --yes-destroy-data "pcie:$bdf"
    done
    check verify-large doorbell-perf --workload verify --span 64m --block-size 1m --time 2s --warmup 0s --depth 4 --yes-destroy-data "pcie:$d512"
    check verify-large-small-mdts doorbell-perf --workload verify --span 64m --block-size 64k --time 2s --warmup 0s --depth 4 --yes-destroy-data "pcie:$small"
    check several-drives doorbell-perf --time 2s --warmup 0s "pcie:$d512" "pcie:$d4096" "pcie:$small" "pcie:$many"
    check several-cores doorbell-perf --time 2s --warmup 0s --cores 2 "pcie:$d512" "pcie:$d4096"
    check_fails more-cores-than-queues "all 1 I/O queues" doorbell-perf --time 2s --cores 2 "pcie:$small"
    # Killed in the middle: the drive is usable at once, and no hugepage stays behind.
    doorbell-perf --time 60s "pcie:$d512" >/dev/null 2>&1 &
    victim=$!
    if wait_for 20 grep -q "^State:.*[RS]" /proc/$victim/status && sleep 3 && kill -9 $victim; then
        wait $victim
        check after-kill doorbell-perf --workload verify --span 64m --time 1s --warmup 0s --yes-destroy-data "pcie:$d512"
    else
        fail after-kill "doorbell-perf was gone before it was killed"
    fi
    check no-page-left test "$(cat $pages0/nr_hugepages) $(cat $pages1/nr_hugepages)" = "$(cat $pages0/free_hugepages) $(cat $pages1/free_hugepages)"
fi

# --- and back
check_fails unbind-busy "used by sleep" sh -c "sleep 60 <>/dev/vfio/$(basename "$(readlink "/sys/bus/pci/devices/$d512/iommu_group")") & hugepages.sh unbind $d512; code=\$?; kill \$!; exit \$code"
check unbind-one hugepages.sh unbind "$d512"
check unbind-one-back test "$(driver_of "$d512")" = nvme
check unbind-all hugepages.sh unbind
if wait_for 20 all_drives_present; then pass back; else fail back "$(drives_present) of $drives drives"; fi
need passthrough && each_exchange kernel_reads
check unbind-again hugepages.sh unbind
check release hugepages.sh release
check released test "$(cat $pages0/nr_hugepages) $(cat $pages1/nr_hugepages)" = "0 0"
hugepages.sh status
