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

# What is pinned for devices, all processors' counts gathered.
pinned() {
    echo 1 >/proc/sys/vm/stat_refresh
    awk '/^nr_foll_pin_acquired / { pages += $2 } /^nr_foll_pin_released / { pages -= $2 } END { print pages }' /proc/vmstat
}

# Killed at random moments with I/O in flight: the drive can be had at once, no hugepage stays behind, and nothing is
# mapped for the drive, since nothing is pinned.
if need doorbell-perf && need hello; then
    pages=$(free_pages)
    before=$(pinned)
    most=0
    round=0
    while [ $round -lt 20 ]; do
        doorbell-perf --time 60s --workload randrw --yes-destroy-data "pcie:$hot" >/tmp/victim.out 2>&1 &
        victim=$!
        if wait_for 20 grep -qs vfio-device /proc/$victim/maps; then
            usleep $(($(od -An -N2 -tu2 /dev/urandom) * 10))
            during=$(($(pinned) - before))
            [ $during -le $most ] || most=$during
            kill -9 $victim
            wait $victim
            [ "$(pinned)" = "$before" ] || { fail killed "round $round: $(pinned) pages pinned, $before at first"; break; }
            hello "pcie:$hot" >/tmp/hello.out 2>&1 || { fail killed "round $round: $(tail -n 2 /tmp/hello.out | tr '\n' ' ')"; break; }
            [ "$(free_pages)" = "$pages" ] || { fail killed "round $round: $(free_pages) pages free of $pages"; break; }
        else
            fail killed "doorbell-perf did not begin: $(tail -n 2 /tmp/victim.out | tr '\n' ' ')"
            kill -9 $victim 2>/dev/null
            break
        fi
        round=$((round + 1))
    done
    [ $round = 20 ] && pass killed
    # Or the count would show nothing.
    [ $round != 20 ] || check killed-pages-were-pinned test $most -gt 0
fi
