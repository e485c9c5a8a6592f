# Types numbers into a pane and waits until the program there has got them.
export TERM=screen LANG=C.UTF-8
pane() { tmux -S /tmp/tmux -f /dev/null "$@"; }
pane new-session -d -s s -x 97 -y 33 'while read -r n; do echo "$n $(stty size)" >>/data/got; done'
n=0
while :; do
	n=$((n + 1))
	pane send-keys -t s "$n" Enter
	i=0
	until [ "$(wc -l 2>/dev/null </data/got || echo 0)" -ge $n ]; do
		i=$((i + 1))
		[ $i -lt 6000 ] || { echo "line $n does not come"; exit 1; }
		sleep 0.01
	done
	[ "$(tail -n 1 /data/got | cut -d ' ' -f 1)" = $n ] || { echo "the program got $(tail -n 1 /data/got) and not $n"; exit 1; }
	[ "$(wc -l </data/got)" = $n ] || { echo "the program got a line twice"; exit 1; }
	echo "tick $n -"
	sleep 0.03
done
