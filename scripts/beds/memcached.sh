#!/usr/bin/env bash
# memcached with four threads, under the load of memcached.py.
set -eu

dir=$(mktemp -d "${TMPDIR:-/tmp}/traceshim-memcached.XXXXXX")
trap 'rm -rf "$dir"' EXIT
# As root it becomes another user, who makes the socket.
chmod 777 "$dir"
memcached -u nobody -t 4 -s "$dir/socket" &
server=$!
/usr/bin/python3 "$(dirname "$0")/memcached.py" "$dir/socket"
kill -TERM $server
wait $server
echo "memcached: $?"
