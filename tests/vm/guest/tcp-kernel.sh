# shellcheck shell=sh disable=SC2154
# The harness by itself: the kernel's host against the kernel's target, over the guest's loopback.

# shellcheck source=/dev/null
. /guest/tcp.sh

need nvme || exit
check target target_begin || exit
check_says discover "subnqn: *$subsystem" kernel_discover 127.0.0.1 4420
for digests in "" "--hdr-digest --data-digest"; do
    name=${digests:+-digests}
    # shellcheck disable=SC2086 # no option is no argument
    check "connect$name" kernel_connect 127.0.0.1 4420 "$subsystem" --keep-alive-tmo=5 $digests || continue
    block=$(kernel_block "$subsystem")
    check_says "list$name" "$block .*guesttarget" nvme list
    check "data$name" write_and_read "$block" "kernel$name"
    check "disconnect$name" kernel_disconnect "$subsystem"
done
