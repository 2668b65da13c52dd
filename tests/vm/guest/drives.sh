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

# --- bind
check bind-dry hugepages.sh bind -n "$d512"
check bind-dry-changed-nothing test "$(driver_of "$d512")" = nvme
check bind hugepages.sh bind "$d512" "$d4096" "$small" "$many"
check bind-again hugepages.sh bind "$d512"
for bdf in "$d512" "$d4096" "$small" "$many"; do
    check "bound-$bdf" test "$(driver_of "$bdf")" = vfio-pci
done
check status hugepages.sh status

# --- and back
check_fails unbind-busy "used by sleep" sh -c "sleep 60 <>/dev/vfio/$(basename "$(readlink "/sys/bus/pci/devices/$d512/iommu_group")") & hugepages.sh unbind $d512; code=\$?; kill \$!; exit \$code"
check unbind-one hugepages.sh unbind "$d512"
check unbind-one-back test "$(driver_of "$d512")" = nvme
check unbind-all hugepages.sh unbind
if wait_for 20 all_drives_present; then pass back; else fail back "$(drives_present) of $drives drives"; fi
check unbind-again hugepages.sh unbind
check release hugepages.sh release
check released test "$(cat $pages0/nr_hugepages) $(cat $pages1/nr_hugepages)" = "0 0"
hugepages.sh status
