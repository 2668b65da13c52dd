# shellcheck shell=sh disable=SC2154
# Doorbell's host against the kernel's target: identify, discovery, data under load, keep alive, the target ended under
# load; and beside the kernel's host, on the same target.

# shellcheck source=/dev/null
. /guest/tcp.sh
need doorbell-perf || exit
need identify || exit
at=tcp://127.0.0.1:4420/$subsystem

# verify DEPTH SIZE [OPTIONS-OF-ADDRESS [TIME [OPTION...]]]: patterns written, read back, and found whole; no TIME ("")
# where an option says when it is enough.
verify() {
    verify_load="--depth $1 --block-size $2" verify_at=$at$3
    [ $# -ge 4 ] && [ -z "$4" ] || verify_load="$verify_load --time ${4:-1s}"
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
# Every depth with every size: as many commands as fill the queue some times over.
for depth in 1 4 16 64 128; do
    for size in 512 4k 64k 256k 1m; do
        ios=$((depth * 3))
        [ $ios -ge 48 ] || ios=48
        [ $size != 1m ] || ios=$((depth * 3 / 2 + 8))
        check "verify-$depth-$size" verify $depth $size "" "" --ios $ios
    done
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
    # What it is sent before it has closed may be carried out or not, and counts as failed.
    wait_for 20 no_connections || { echo "did not close: $(cat /proc/net/tcp)"; return 1; }
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

# said WORDS: whether the process in the background has.
said() { grep -Eq -- "$1" /tmp/said.out; }

# The target changes, and the host that stays hears of it: namespaces that come and go, discovery.
host_hears() {
    events "$at" >/tmp/said.out 2>&1 &
    hearing=$!
    hear() {
        wait_for 20 said "1 in all" || return
        target_medium nb1 32 && mkdir "$nvmet/subsystems/$subsystem/namespaces/2" || return
        cd "$nvmet/subsystems/$subsystem/namespaces/2" && printf /dev/nb1 >device_path && echo 1 >enable && cd / || return
        wait_for 20 said "namespace 2: 32 MiB" || return
        # Again: the page was read, so that the next change is reported.
        echo 0 >"$nvmet/subsystems/$subsystem/namespaces/2/enable"
        wait_for 20 said_last "1 in all" || return
        # And that one that is there changes: another medium under the same number.
        printf /dev/nb0 >"$nvmet/subsystems/$subsystem/namespaces/2/device_path"
        echo 1 >"$nvmet/subsystems/$subsystem/namespaces/2/enable"
        wait_for 20 said "namespace 2: 64 MiB" || return
        echo 0 >"$nvmet/subsystems/$subsystem/namespaces/2/enable"
        wait_for 20 said_last "1 in all" && rmdir "$nvmet/subsystems/$subsystem/namespaces/2"
    }
    hear
    heard=$?
    kill $hearing
    cat /tmp/said.out
    return $heard
}
said_last() { tail -n 1 /tmp/said.out | grep -q -- "$1"; }
need events && check hears-of-namespaces host_hears

referral=$nvmet/ports/1/referrals/elsewhere
host_discovers() {
    discover --watch tcp://127.0.0.1:4420 >/tmp/said.out 2>&1 &
    hearing=$!
    hear_discovery() {
        wait_for 20 said "^Generation" || return
        records=$(sed -n 's/^Generation .*: \([0-9]*\) records/\1/p' /tmp/said.out)
        mkdir "$referral" && cd "$referral" && echo tcp >addr_trtype && echo ipv4 >addr_adrfam || return
        echo 192.0.2.7 >addr_traddr && echo 8009 >addr_trsvcid && echo 1 >enable && cd / || return
        wait_for 20 said "^Generation .*: $((records + 1)) records" || return
        echo 0 >"$referral/enable" && rmdir "$referral"
        wait_for 20 said_last ": $records records"
    }
    hear_discovery
    heard=$?
    kill $hearing
    cat /tmp/said.out
    return $heard
}
need discover && check hears-of-discovery host_discovers

# Hosts that are not let in: the cause, at once. The kernel's host takes a minute to say as much.
milliseconds() { awk '{ printf "%d", $1 * 1000 }' /proc/uptime; }
not_allowed() {
    echo 0 >"$nvmet/subsystems/$subsystem/attr_allow_any_host" && mkdir -p "$nvmet/hosts/$host_nqn" || return
    ln -s "$nvmet/hosts/$host_nqn" "$nvmet/subsystems/$subsystem/allowed_hosts/$host_nqn" || return
    asked=$(milliseconds)
    identify "$at,hostnqn=nqn.2026-01.org.example:nobody" 2>/tmp/refused.out && return 1
    refused=$(($(milliseconds) - asked))
    cat /tmp/refused.out
    identify "$at,hostnqn=$host_nqn" >/dev/null || return
    identified=$(($(milliseconds) - asked - refused))
    rm "$nvmet/subsystems/$subsystem/allowed_hosts/$host_nqn"
    rmdir "$nvmet/hosts/$host_nqn"
    echo 1 >"$nvmet/subsystems/$subsystem/attr_allow_any_host"
    note "refused after $refused ms, process and all; one that is let in identifies in $identified ms"
    # Most of it is the start of the process, on processors that are emulated and shared.
    grep -q "Invalid Host.*allow host nqn.2026-01.org.example:nobody" /tmp/refused.out && [ $refused -lt $((identified + 500)) ]
}
check not-allowed not_allowed

# IPv6, as an address.
check ipv6-port target_port 2 ipv6 ::1 4422
check_says ipv6-identify "guesttarget" identify "tcp://[::1]:4422/$subsystem"
at_ipv6() { at="tcp://[::1]:4422/$subsystem" && verify "$@"; }
check ipv6-verify at_ipv6 16 4k ,hdgst,ddgst "" --ios 500
rm "$nvmet/ports/2/subsystems/$subsystem" && rmdir "$nvmet/ports/2"

# The target goes under load, and comes back: its port closed and opened, or all of it taken down, kernel modules
# included, and made again. What was on its way then ends as Host Pathing Error, for no one can know what became of it;
# everything else succeeds, and every byte is as somebody wrote it.
target_restarts() {
    verify 32 4k "$3" 10s >/tmp/perf.out 2>&1 &
    restarting=$!
    wait_for 20 has_connections
    for _ in $4; do
        sleep 1
        kill -0 $restarting || { cat /tmp/perf.out; return 1; }
        if ! { $1 && wait_for 10 no_connections && $2 && wait_for 20 has_connections; }; then
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
check target-restarts target_restarts target_leaves target_listens ,kato=1s "1 2"
check target-restarts-digests target_restarts target_leaves target_listens ,hdgst,ddgst,kato=1s "1 2"
check target-made-again target_restarts target_unmade target_made ,kato=1s "1"

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
