# shellcheck shell=sh disable=SC2154
# Doorbell and the kernel's driver, through fio and io_uring, on the same emulated drive: 4 KiB random reads.
# Under emulation neither number means much by itself; both sides pay the same for the drive.

seconds=5
bdf=$(bdf_of door512)
block=$(block_of "$bdf")

# fio_iops DEPTH: reads a second through the kernel's driver, fio at its best: fixed buffers, registered file.
fio_iops() {
    fio --name=kernel --filename="$block" --rw=randread --bs=4k --iodepth="$1" --ioengine=io_uring --direct=1 \
        --fixedbufs --registerfiles --thread --norandommap --randrepeat=1 --time_based --ramp_time=1 \
        --runtime=$seconds --output-format=terse --terse-version=3 | tee /dev/stderr | cut -d';' -f8
}

doorbell_iops() {
    doorbell-perf --workload randread --block-size 4k --depth "$1" --time ${seconds}s --warmup 1s --output json "pcie:$bdf" |
        tee /dev/stderr | sed -n '/"total"/,$p' | json_number iops
}

# report DEPTH FIO_IOPS: measures Doorbell at that depth, and sets it beside fio.
report() {
    ours=$(doorbell_iops "$1")
    if awk -v ours="${ours:-0}" 'BEGIN { exit !(ours > 0) }'; then
        pass "doorbell-depth-$1"
    else
        fail "doorbell-depth-$1" "no IOPS in its report: '$ours'"
        return
    fi
    note "$(awk -v ours="$ours" -v fio="$2" -v depth="$1" 'BEGIN {
        printf "IOPS at depth %d, 4 KiB random reads of one emulated drive: doorbell %d", depth, ours
        if (fio > 0) printf " / fio io_uring %d = %.2f", fio, ours / fio }')"
}

need doorbell-perf || exit
check reserve hugepages.sh reserve 64M
fio_1=0 fio_32=0
if need fio; then
    # Every block written once, so that both read data and not holes.
    dd if=/dev/zero of="$block" bs=1M 2>/dev/null
    fio_1=$(fio_iops 1)
    fio_32=$(fio_iops 32)
    if awk -v a="$fio_1" -v b="$fio_32" 'BEGIN { exit !(a > 0 && b > 0) }'; then
        pass fio
    else
        fail fio "no IOPS in its report: '$fio_1' '$fio_32'"
    fi
fi
check bind hugepages.sh bind "$bdf"
report 1 "$fio_1"
report 32 "$fio_32"
