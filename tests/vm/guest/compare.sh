# shellcheck shell=sh disable=SC2154
# Doorbell and the kernel's driver, through fio and io_uring, on the same emulated drive: 4 KiB random reads.
# fio gets fixed buffers, a registered file and, as its second try, a polled queue of the kernel's (nvme.poll_queues);
# the better of the two counts. Under emulation no number means much by itself; both sides pay the same for the drive.

seconds=4
bdf=$(bdf_of door512)
block=$(block_of "$bdf")

# fio_iops DEPTH [OPTION]: reads a second through the kernel's driver.
fio_iops() {
    fio_depth=$1
    shift
    fio --name=kernel --filename="$block" --rw=randread --bs=4k --iodepth="$fio_depth" --ioengine=io_uring --direct=1 \
        --fixedbufs --registerfiles --thread --norandommap --randrepeat=1 --time_based --ramp_time=1 \
        --runtime=$seconds --output-format=terse --terse-version=3 "$@" | tee /dev/stderr | cut -d';' -f8
}

doorbell_iops() {
    doorbell-perf --workload randread --block-size 4k --depth "$1" --time ${seconds}s --warmup 1s --output json "pcie:$bdf" |
        tee /dev/stderr | sed -n '/"total"/,$p' | json_number iops
}

# compare DEPTH INTERRUPTS POLLED OURS
compare() {
    for number in "$2" "$3" "$4"; do
        if ! awk -v number="${number:-0}" 'BEGIN { exit !(number > 0) }'; then
            fail "depth-$1" "a run reports no IOPS: fio '$2' and polled '$3', doorbell '$4'"
            return
        fi
    done
    pass "depth-$1"
    note "$(awk -v depth="$1" -v interrupts="$2" -v polled="$3" -v ours="$4" 'BEGIN {
        best = interrupts > polled ? interrupts : polled
        printf "IOPS at depth %d, 4 KiB random reads of one emulated drive: doorbell %d / fio io_uring %d = %.2f (fio with interrupts %d, polled %d)",
            depth, ours, best, ours / best, interrupts, polled }')"
}

need doorbell-perf || exit
need fio || exit
check reserve hugepages.sh reserve 64M
# Every block written once, so that both read data and not holes.
check fill dd if=/dev/zero of="$block" bs=1M count=256 conv=fsync
fio_1=$(fio_iops 1)
polled_1=$(fio_iops 1 --hipri)
fio_32=$(fio_iops 32)
polled_32=$(fio_iops 32 --hipri)
# Our own way of asking the kernel, on a real block device: reads, polled reads, and writes that are read back.
perf() { doorbell-perf --time 1s --warmup 0s "$@"; }
check engine-io_uring perf --engine io_uring --depth 8 "$block"
check engine-iopoll perf --engine io_uring --iopoll --depth 8 "$block"
check engine-pread perf --engine pread --workload randrw --yes-destroy-data "$block"
check engine-verify perf --engine io_uring --workload verify --yes-destroy-data "$block"
check bind hugepages.sh bind "$bdf"
other=$(block_of "$(bdf_of door4096)")
check engines-compared perf --depth 4 --compare io_uring --compare-target "$other" "pcie:$bdf"
compare 1 "$fio_1" "$polled_1" "$(doorbell_iops 1)"
compare 32 "$fio_32" "$polled_32" "$(doorbell_iops 32)"
