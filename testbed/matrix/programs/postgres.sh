# Runs pgbench and a session of its own against $ADDR until SIGTERM, and then checks what is in the database.
: >/data/go
trap 'rm -f /data/go' TERM
PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
export PGHOST="$ADDR" PGUSER=app PGDATABASE=bench
for i in $(seq 300); do if createdb bench 2>/dev/null; then break; fi; sleep 0.2; done
pgbench --initialize --quiet --scale 2 2>/dev/null
psql -qc 'create table numbers (n int primary key); create extension amcheck'
pgbench --no-vacuum --client 4 --jobs 2 --time 3600 >/data/bench.out 2>&1 &
bench=$!
(
	i=0
	while [ -e /data/go ]; do
		i=$((i + 1))
		echo "insert into numbers values ($i) returning n;"
		sleep 0.02
	done
) | psql -qAtX --set ON_ERROR_STOP=1 | tee /data/acknowledged &
writer=$!
while [ -e /data/go ]; do
	kill -0 $bench 2>/dev/null || { cat /data/bench.out; echo 'pgbench has ended'; exit 1; }
	kill -0 $writer 2>/dev/null || { echo 'psql has ended'; exit 1; }
	sleep 0.1
done
wait $writer
kill -TERM $bench # it would have gone on for an hour
wait $bench || true
if grep -i -E 'error|fatal|lost|abort' /data/bench.out; then exit 1; fi

last=$(tail -n 1 /data/acknowledged)
[ "$(seq "$last")" = "$(cat /data/acknowledged)" ] || { echo 'numbers are missing or there twice'; exit 1; }
sound=$(psql -qAtX -c "select (select count(*) from numbers) = $last and (select max(n) from numbers) = $last
	and (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
	and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
	and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)
	and (select count(*) from pgbench_history) > 0")
[ "$sound" = t ] || { echo 'numbers or balances are wrong'; exit 1; }
pg_amcheck --heapallindexed --parent-check bench
echo "numbers 1 to $last, $(psql -qAtX -c 'select count(*) from pgbench_history') transactions of pgbench"
