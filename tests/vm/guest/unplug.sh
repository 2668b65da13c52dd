# shellcheck shell=sh disable=SC2154
# Drives that are asked back (device_del), under load: the driver or its caller lets go of them, the kernel finishes the
# removal, the drive comes back (device_add), and the same process attaches it again.

need removal-check || exit
# shellcheck source=/dev/null
. /guest/hot.sh
hot=$(bdf_of doorhot)
# Behind ports of ascending numbers.
left=$(bdfs_of doorshared | sort | head -n 1)
right=$(bdfs_of doorshared | sort | tail -n 1)
drive=nvme,bus=port1,serial=doorhot,drive=doorhot,share-rw=on
take() { monitor "device_del $2"; }

check reserve hugepages.sh reserve 64
check bind hugepages.sh bind "$hot" "$left" "$right"

# What a process would die of, and does, where a page is taken away under a mapping: 128 + SIGBUS.
removal-check "$hot" taken-away >/tmp/check.out 2>&1
code=$?
cat /tmp/check.out
if [ $code = 135 ]; then pass taken-away-dies-by-sigbus; else fail taken-away-dies-by-sigbus "exit $code"; fi

rounds asked-the-driver-obeys 20 "$hot" hot "$drive" take removal-check "$hot" 20 obey
rounds asked-the-caller-detaches 2 "$hot" "$come_id" "$drive" take removal-check "$hot" 2 detach
rounds shared-one-goes-and-comes 20 "$left" left nvme,bus=port2,serial=doorshared,subsys=shared take removal-check "$left" 20 obey "$right"
