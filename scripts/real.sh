#!/usr/bin/env bash
# Programs that no one here wrote, without the shim and with it: the output and
# the exit status must be the same, and the threads whose birth was recorded
# those that strace sees.
#
#     scripts/real.sh [--no-build] [python|xz|zstd|redis...]      all of them without names

# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
make_scratch

build "$@"
# shellcheck source=scripts/compare.sh
source scripts/compare.sh

check_python() {
    # Not a wrapper script that finds the interpreter: it would be traced too.
    local interpreter
    interpreter=$(python3 -c 'import sys; print(sys.executable)')
    compare python --callback-arg qsort:4 -- "$interpreter" scripts/real_threads.py
}

# A few megabytes that compress neither too well nor too badly.
some_input() {
    [[ -e $scratch/input ]] || seq 1 700000 >"$scratch/input"
    echo "$scratch/input"
}

check_xz() {
    compare xz -- xz -T2 --block-size=1MiB -1 --stdout "$(some_input)"
}

check_zstd() {
    compare zstd -- zstd -q -T2 -3 --stdout "$(some_input)"
}

# serve RUN COMMAND...: a server under a short load, then a few questions whose
# answers are the output.
serve() {
    local run=$1 socket=$scratch/redis.sock deadline=$((SECONDS + 60)) server status=0
    shift
    rm -f "$socket"
    "$@" --port 0 --unixsocket "$socket" --io-threads 3 --io-threads-do-reads yes --save '' --appendonly no \
        --dir "$scratch" --logfile "$scratch/redis.log" --enable-debug-command yes </dev/null &
    server=$!
    until [[ $(redis-cli -s "$socket" ping 2>/dev/null) == PONG ]]; do
        kill -0 "$server" 2>/dev/null || { cat "$scratch/redis.log"; die "redis-server ended ($run)"; }
        ((SECONDS < deadline)) || { kill "$server"; die "redis-server doesn't answer ($run)"; }
    done
    redis-benchmark -s "$socket" -q -c 20 -n 4000 -t set,get,incr,lpush,lpop,zadd >"$scratch/redis.$run.load"
    {
        redis-cli -s "$socket" flushall
        redis-cli -s "$socket" eval 'for i = 1, 1000 do redis.call("set", "k" .. i, i * i) end return redis.call("dbsize")' 0
        redis-cli -s "$socket" mget k1 k500 k1000
        redis-cli -s "$socket" rpush list c a b
        redis-cli -s "$socket" sort list alpha
        redis-cli -s "$socket" debug digest
    } >"$scratch/redis.$run.out"
    redis-cli -s "$socket" shutdown nosave || true
    wait "$server" || status=$?
    echo "$status" >"$scratch/redis.$run.status"
}

check_redis() {
    title "redis: redis-server with 3 I/O threads, under redis-benchmark"
    serve plain redis-server
    serve traced "$collector" record -o "$scratch/redis.traced.trace" -- redis-server
    serve counted "$collector" record -o "$scratch/redis.counted.trace" -- "${strace[@]}" -o "$scratch/redis.strace" redis-server
    judge redis
}

# in_turn NAME TOOL...: the check of that name, where its tools are here.
in_turn() {
    local tool
    for tool in strace "${@:2}"; do
        have "$tool" || { skip "$1" "$tool isn't installed" && return; }
    done
    "check_$1"
}

((${#rest[@]} > 0)) || rest=(python xz zstd redis)
for name in "${rest[@]}"; do
    case $name in
    python) in_turn python python3 ;;
    xz | zstd) in_turn "$name" "$name" ;;
    redis) in_turn redis redis-server redis-cli redis-benchmark ;;
    *) die "$name: no such program; there are python, xz, zstd, redis" ;;
    esac
done

the_end
