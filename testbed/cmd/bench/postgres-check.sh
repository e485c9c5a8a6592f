# Ends pgbench and checks the database: no acknowledged transaction is missing, balances add up, tables and indexes are sound.
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH # before wrappers that need perl
export PGHOST=/tmp PGUSER=app PGDATABASE=bench
pgbench=$(pgrep -x pgbench) || { cat /data/bench.out; echo 'pgbench has ended'; exit 1; }
kill -TERM $pgbench
for i in $(seq 100); do kill -0 $pgbench 2>/dev/null || break; sleep 0.1; done
if grep -i -E 'error|fatal|lost|abort' /data/bench.out; then exit 1; fi
acknowledged=$(cat /data/acknowledged.* | grep -c '^[0-9]* [0-9]* [0-9]* ')
done=$(psql -qAtX -c 'select count(*) from pgbench_history')
[ "$acknowledged" -gt 0 ] || { echo 'pgbench has done nothing'; exit 1; }
[ "$done" -ge "$acknowledged" ] || { echo "of $acknowledged acknowledged transactions $done are there"; exit 1; }
sound=$(psql -qAtX -c 'select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
	and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
	and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)
	and (select count(*) = max(n) from ballast)')
[ "$sound" = t ] || { echo 'balances are wrong'; exit 1; }
pg_amcheck --heapallindexed --parent-check bench
echo "transactions $acknowledged $done"
