# shellcheck shell=sh disable=SC2154
# Doorbell's host against the kernel's target: identify, discovery, data under load, keep alive, the target ended under
# load; and beside the kernel's host, on the same target.

# shellcheck source=/dev/null
. /guest/tcp.sh
need doorbell-perf || exit
need identify || exit
at=tcp://127.0.0.1:4420/$subsystem

# verify DEPTH SIZE [OPTIONS-OF-ADDRESS [TIME [OPTION...]]]: patterns written, read back, and found whole.
verify() {
    verify_load="--depth $1 --block-size $2 --time ${4:-1s}" verify_at=$at$3
    shift $(($# < 4 ? $# : 4))
    # shellcheck disable=SC2086 # several words
    doorbell-perf --workload verify --warmup 0s --yes-destroy-data $verify_load "$@" "$verify_at"
}

# connections: how many the target has.
connections() { grep -c ' 0100007F:1144 0100007F:.... 01 ' /proc/net/tcp; }
no_connections() { [ "$(connections)" = 0 ]; }
has_connections() { [ "$(connections)" -ge 2 ]; }

# kernel_log_says WORDS
kernel_log_says() { dmesg | grep -q "$1"; }

check target target_begin || exit
check_says identify "guesttarget" identify "$at"
check_fails no-such-subsystem "SUBNQN|no such subsystem" identify tcp://127.0.0.1:4420/nqn.2026-01.org.example:nobody
check_fails no-such-port "nothing listens there" identify "tcp://127.0.0.1:4429/$subsystem"
check_says found-by-discovery "guesttarget" identify tcp://127.0.0.1:4420
need discover && check_says discover "$subsystem" discover tcp://127.0.0.1:4420
check closed-behind wait_for 10 no_connections
for load in "1 512" "1 4k" "1 1m" "8 128k" "32 4k" "128 512" "128 4k" "128 64k" "128 1m"; do
    # shellcheck disable=SC2086 # two words
    check "verify-$(echo "$load" | tr ' ' '-')" verify $load
done
check verify-hdgst verify 32 4k ,hdgst
check verify-ddgst verify 8 128k ,ddgst
check verify-both verify 32 64k ,hdgst,ddgst
check verify-sqflow-off verify 32 4k ,sqflow=off
check verify-threads verify 16 4k ,hdgst,ddgst 1s --cores 2

# Silent for longer than the target waits: it ends the association, and the host makes a new one.
keep_alive_expires() {
    dmesg -c >/dev/null
    verify 4 4k ,kato=1s 6s >/tmp/perf.out 2>&1 &
    wait_for 20 has_connections && sleep 1
    expiring=$(pidof doorbell-perf)
    kill -STOP "$expiring"
    wait_for 20 kernel_log_says "keep-alive timer .* expired" || { echo "did not expire: $(dmesg)"; return 1; }
    kill -CONT "$expiring"
    wait $!
    expiring_status=$?
    cat /tmp/perf.out
    return $expiring_status
}
check keep-alive-expires keep_alive_expires
# And a host that is idle on its queues stays.
stays() {
    dmesg -c >/dev/null
    verify 1 4k ,kato=1s 6s --rate 1 || return
    ! kernel_log_says "keep-alive timer .* expired"
}
check keep-alive-kept stays

# The target goes under load, and comes back. What was on its way then ends as Host Pathing Error, for no one can know
# what became of it; everything else succeeds, and every byte is as somebody wrote it.
target_restarts() {
    verify 32 4k "$1" 10s >/tmp/perf.out 2>&1 &
    restarting=$!
    for _ in 1 2; do
        sleep 1
        kill -0 $restarting || { cat /tmp/perf.out; return 1; }
        if ! { target_leaves && wait_for 10 no_connections && target_listens && wait_for 20 has_connections; }; then
            echo "not connected again"
            cat /tmp/perf.out
            return 1
        fi
    done
    wait $restarting
    cat /tmp/perf.out
    grep -q "every byte as written" /tmp/perf.out && ! grep ' x .* (.*/.*)' /tmp/perf.out | grep -v 'Host Pathing Error (3/70)' &&
        errors=$(sed -n 's/^ERRORS: \([0-9]*\) I.*/\1/p' /tmp/perf.out) && [ "${errors:-0}" -le 64 ]
}
export CHECK_SECONDS=90
check target-restarts target_restarts ,kato=1s
check target-restarts-digests target_restarts ,hdgst,ddgst,kato=1s

# Outside the guest: packets instead of the loopback.
if [ -n "$outside_host" ]; then
    note "target is ready"
    check_says outside-verify "^0$" timeout 30 nc -l -p 4421
fi

# Both hosts on this target.
need nvme && need fio || exit
# fio_iops DEPTH SIZE: of the kernel's host.
fio_iops() {
    fio --name=kernel --filename="$block" --rw=randread --bs="$2" --iodepth="$1" --ioengine=io_uring --direct=1 \
        --fixedbufs --registerfiles --thread --norandommap --randrepeat=1 --time_based --ramp_time=1 \
        --runtime=2 --output-format=terse --terse-version=3 | tee /dev/stderr | cut -d';' -f8
}
doorbell_iops() {
    doorbell-perf --workload randread --block-size "$2" --depth "$1" --time 2s --warmup 1s --output json "$at" |
        tee /dev/stderr | sed -n '/"total"/,$p' | json_number iops
}
for load in "1 4k" "32 4k" "8 128k"; do
    # shellcheck disable=SC2086 # two words
    set -- $load
    ours=$(doorbell_iops "$@")
    kernel_connect 127.0.0.1 4420 "$subsystem" --nr-io-queues=1 || { fail compare "the kernel does not connect"; break; }
    block=$(kernel_block "$subsystem")
    theirs=$(fio_iops "$@")
    kernel_disconnect "$subsystem"
    if awk -v a="${ours:-0}" -v b="${theirs:-0}" 'BEGIN { exit !(a > 0 && b > 0) }'; then
        pass "compare-$1-$2"
        note "$(awk -v load="$1, $2" -v a="$ours" -v b="$theirs" -v kernel="$(uname -r)" 'BEGIN {
            printf "IOPS over TCP at depth %s, random reads of nvmet in kernel %s: doorbell %d / kernel and fio %d = %.2f",
                load, kernel, a, b, a / b }')"
    else
        fail "compare-$1-$2" "a run reports no IOPS: doorbell '$ours', fio '$theirs'"
    fi
done
