# Types numbers into a session with a terminal at $ADDR until SIGTERM. Every one has to come back once and in order.
: >/data/go
trap 'rm -f /data/go' TERM
(umask 077 && printf '%s\n' "$HELLO" >/data/key)
session() {
	ssh -tt -i /data/key -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ServerAliveInterval=0 "root@$ADDR" \
		'stty raw -echo; echo begin; while read -r n; do echo "$n"; [ "$n" != end ] || exit 0; done'
}
for i in $(seq 300); do if bash -c "exec 3<>/dev/tcp/$ADDR/2222" 2>/dev/null; then break; fi; sleep 0.2; done
(
	sleep 1 # or the terminal itself echoes the first lines
	i=0
	while [ -e /data/go ]; do
		i=$((i + 1))
		echo $i | tee /data/last
		sleep 0.03
	done
	echo end
) | session | tee /data/typed &
session=$!
while [ -e /data/go ]; do
	kill -0 $session 2>/dev/null || { echo 'the session has ended'; exit 1; }
	sleep 0.1
done
wait $session
(echo begin; seq "$(cat /data/last)"; echo end) >/data/expected
[ "$(cat /data/expected)" = "$(tr -d '\r' </data/typed)" ] || { echo 'lines are missing or there twice'; exit 1; }
