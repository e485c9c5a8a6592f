# Publishes numbers to $ADDR and receives them until SIGTERM. Every one has to come once and in order.
: >/data/go
trap 'rm -f /data/go' TERM
for i in $(seq 300); do if mosquitto_pub -h "$ADDR" -t probe -m 1 2>/dev/null; then break; fi; sleep 0.2; done
mosquitto_sub -h "$ADDR" -i receiver -c -q 2 -t numbers >/data/received &
receiver=$!
sleep 1 # until it has subscribed
(
	i=0
	while [ -e /data/go ]; do
		i=$((i + 1))
		echo $i | tee /data/last
		sleep 0.02
	done
) | mosquitto_pub -h "$ADDR" -i sender -q 2 -t numbers -l &
sender=$!
while [ -e /data/go ]; do
	kill -0 $sender 2>/dev/null && kill -0 $receiver 2>/dev/null || { echo 'a client has ended'; exit 1; }
	tail -n 1 /data/received
	sleep 0.1
done
wait $sender
last=$(cat /data/last)
for i in $(seq 300); do if [ "$(tail -n 1 /data/received)" = "$last" ]; then break; fi; sleep 0.1; done
kill $receiver
[ "$(seq "$last")" = "$(cat /data/received)" ] || { echo 'numbers are missing or there twice'; exit 1; }
