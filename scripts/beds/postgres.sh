#!/usr/bin/env bash
# PostgreSQL: a new cluster, pgbench with four threads, and queries whose answers
# are printed: in parallel workers, in compiled code, with errors.
set -eu

PATH=$(echo /usr/lib/postgresql/*/bin | awk '{ print $NF }'):$PATH
dir=$(mktemp -d "${TMPDIR:-/tmp}/traceshim-postgres.XXXXXX")
trap 'pg_ctl -D "$dir/data" -s -m immediate stop 2>/dev/null || true; rm -rf "$dir"' EXIT
export LC_ALL=C PGHOST=$dir PGUSER=postgres PGDATABASE=postgres
initdb -D "$dir/data" -A trust --no-sync -U postgres >"$dir/initdb"
grep -c '\.\.\. ok' "$dir/initdb"
pg_ctl -D "$dir/data" -s -w -l "$dir/log" start -o "-k $dir -c listen_addresses= -c fsync=off -c jit_above_cost=0"
pgbench -q -i -s 1 2>/dev/null
pgbench -c 4 -j 4 -t 100 -n 2>&1 | grep transactions:
psql -At 2>&1 <<'SQL'
select count(*), sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts;
select (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers), count(*) from pgbench_history;
set min_parallel_table_scan_size = 0; set parallel_setup_cost = 0; set parallel_tuple_cost = 0;
select sum(aid * 2), avg(length(filler)) from pgbench_accounts where filler ~ '^ +$';
select 1 / 0;
select md5(string_agg(x::text, ',')) from generate_series(1, 10000) x;
create function falls(n int) returns int language plpgsql as
    'begin if n = 0 then raise exception ''the bottom''; end if; return falls(n - 1); exception when division_by_zero then return 1; end';
select falls(50);
SQL
pg_ctl -D "$dir/data" -s -m fast stop
grep -cE 'PANIC|was terminated by signal|TRAP' "$dir/log" || true
