# A postgres whose shared buffers, $1 MiB, are all in use, under pgbench, which stays connected. It prints a line every 10 ms once it is ready.
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH # before wrappers that need perl
as() { chroot --userspec=app:app --skip-chdir / "$@"; }
export PGHOST=/tmp PGUSER=app PGDATABASE=bench
as initdb --pgdata /data/pg --auth trust --username app --no-sync >/dev/null
as postgres -D /data/pg -k /tmp -c listen_addresses= -c shared_buffers=${1}MB -c max_wal_size=4GB -c io_method=worker >/data/postgres.log 2>&1 &
for i in $(seq 300); do if as createdb bench 2>/dev/null; then break; fi; sleep 0.2; done
as pgbench --initialize --quiet --scale 2 2>/dev/null || { echo 'no database'; exit 1; }
# 8 KiB a row: what fills the buffers is read once, and then stays as it is
as psql --quiet --set ON_ERROR_STOP=1 <<SQL || exit 1
create extension amcheck;
create extension pg_prewarm;
create table ballast (n int primary key, filler text);
alter table ballast alter column filler set storage plain;
insert into ballast select n, left(repeat(md5(n::text) || md5((-n)::text), 120), 7600) from generate_series(1, $1 * 128 * 9 / 10) n;
vacuum analyze ballast;
checkpoint;
select pg_prewarm('ballast'), pg_prewarm('ballast_pkey');
SQL
as pgbench --no-vacuum --client 4 --time 36000 --log --log-prefix=/data/acknowledged >/data/bench.out 2>&1 &
exec 9< <(exec sleep infinity)
for ((n = 1; ; n++)); do
	t=${EPOCHREALTIME/[^0-9]/}
	s=$((t / 1000000 % 86400))
	printf 'tick %d %02d:%02d:%02d.%03d\n' $n $((s / 3600)) $((s / 60 % 60)) $((s % 60)) $((t / 1000 % 1000))
	read -rt 0.01 -u 9
done
