# Commits numbers one by one, and prints those that are committed. Unless the mode is exclusive, other processes read.
sqlite3 /data/numbers.db 'pragma journal_mode = wal' 'create table numbers (n integer primary key)' >/dev/null
[ "$mode" = exclusive ] || while :; do
	sqlite3 /data/numbers.db '.timeout 30000' 'select count(*) = coalesce(max(n), 0) from numbers' | grep -qx 1 || echo 'the reader misses a row'
	sleep 0.1
done &
(
	echo '.timeout 30000'
	echo '.bail on'
	echo "pragma locking_mode = $mode;"
	i=0
	while :; do
		i=$((i + 1))
		echo "insert into numbers values ($i); select 'tick $i -';"
		if [ $((i % 50)) = 0 ]; then
			echo "select 'a row is missing' where (select count(*) from numbers) <> $i;"
			echo "select integrity_check from pragma_integrity_check where integrity_check <> 'ok';"
		fi
		sleep 0.02
	done
) | stdbuf -oL sqlite3 /data/numbers.db | while read -r line; do
	echo "$line"
	case "$line" in tick*|"$mode") ;; *) exit 1 ;; esac
done
