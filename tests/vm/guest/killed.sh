# shellcheck shell=sh disable=SC2154
# Processes with a drive that are killed at random moments, with I/O in flight: the next one has the drive at once, no
# hugepage stays behind, and nothing stays mapped for the drive, since nothing stays pinned.

need doorbell-perf && need hello || exit
bdf=$(bdf_of door512)
check reserve hugepages.sh reserve 64
check bind hugepages.sh bind "$bdf"

free_pages() { cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages; }

# Pages that are pinned for devices, all processors' counts gathered.
pinned() {
    echo 1 >/proc/sys/vm/stat_refresh
    awk '/^nr_foll_pin_acquired / { pages += $2 } /^nr_foll_pin_released / { pages -= $2 } END { print pages }' /proc/vmstat
}

# one_round: true if nothing is left of the process that was killed.
one_round() {
    doorbell-perf --time 600s --workload randrw --yes-destroy-data "pcie:$bdf" >/tmp/victim.out 2>&1 &
    victim=$!
    if ! wait_for 60 grep -qs vfio-device /proc/$victim/maps; then
        kill -9 $victim 2>/dev/null
        why="doorbell-perf did not begin: $(tail -n 2 /tmp/victim.out | tr '\n' ' ')"
        return 1
    fi
    usleep $(($(od -An -N2 -tu2 /dev/urandom) * 10))
    during=$(($(pinned) - at_first))
    [ $during -le $most ] || most=$during
    kill -9 $victim
    wait $victim
    left=$(($(pinned) - at_first))
    [ $left = 0 ] || { why="$left pages are still pinned"; return 1; }
    hello "pcie:$bdf" >/tmp/hello.out 2>&1 || { why="$(tail -n 2 /tmp/hello.out | tr '\n' ' ')"; return 1; }
    [ "$(free_pages)" = "$pages" ] || { why="$(free_pages) hugepages are free of $pages"; return 1; }
}

pages=$(free_pages) at_first=$(pinned) most=0 round=0
while [ $round -lt 20 ]; do
    one_round || { fail killed "round $round: $why"; break; }
    round=$((round + 1))
done
if [ $round = 20 ]; then
    pass killed
    # Or the count would say nothing.
    check pages-were-pinned test $most -gt 0
fi
