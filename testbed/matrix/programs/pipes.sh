# Sends every number on a long way and prints it when it has come back.
mkfifo /data/fifo
coproc copy { while read -r n; do echo "$n"; done; }
# Children do not have the coprocess's own descriptors.
exec 5<>/data/fifo 6<&"${copy[0]}" 7>&"${copy[1]}"
while read -r n; do echo "$n"; done <&6 | sed -u 's/$/ x/' | sed -u 's/ x$//' | while read -r n; do
	(echo "$n" >/data/fifo) & # a child of its own
	wait $!
done &
asked=0 heard=0
trap 'heard=$((heard + 1))' USR1
while :; do
	asked=$((asked + 1))
	echo "$asked" >&7
	read -r -u 5 n
	[ "$n" = "$asked" ] || { echo "$n came back and not $asked"; exit 1; }
	kill -USR1 $$
	[ "$heard" = "$asked" ] || { echo "$heard signals came and not $asked"; exit 1; }
	echo "tick $n -"
	sleep 0.03
done
