# Runs two sessions against $ADDR until SIGTERM, and then checks what is in the database.
: >/data/go
trap 'rm -f /data/go' TERM
sql() { mariadb --no-defaults --skip-ssl --host "$ADDR" --user load --batch --skip-column-names --unbuffered "$@"; }
for i in $(seq 300); do if sql -e 'create database work' 2>/dev/null; then break; fi; sleep 0.2; done
sql work -e 'create table numbers (n int primary key) engine=innodb; create table money (id int primary key, amount int not null) engine=innodb;
	insert into money select seq, 1000 from seq_1_to_100'
(
	i=0
	while [ -e /data/go ]; do
		i=$((i + 1))
		echo "insert into numbers values ($i); select $i;"
		sleep 0.02
	done
) | sql work | tee /data/acknowledged &
writer=$!
(
	i=0
	while [ -e /data/go ]; do
		i=$((i + 1))
		echo "begin; update money set amount = amount - $i where id = $((i % 100 + 1)); update money set amount = amount + $i where id = $((i * 7 % 100 + 1)); commit;"
		sleep 0.01
	done
) | sql work &
mover=$!
while [ -e /data/go ]; do
	kill -0 $writer 2>/dev/null && kill -0 $mover 2>/dev/null || { echo 'a session has ended'; exit 1; }
	sleep 0.1
done
wait $writer
wait $mover
last=$(tail -n 1 /data/acknowledged)
[ "$(seq "$last")" = "$(cat /data/acknowledged)" ] || { echo 'numbers are missing or there twice'; exit 1; }
sound=$(sql work -e "select (select count(*) from numbers) = $last and (select max(n) from numbers) = $last and (select sum(amount) from money) = 100000")
[ "$sound" = 1 ] || { echo 'numbers or money are wrong'; exit 1; }
sql work -e 'check table numbers, money extended' | tee /data/checked
[ "$(grep -c 'status.OK$' /data/checked)" = 2 ]
