# Packs a file, unpacks it and compares.
cd /data
seq 1100000 | head -c 8388608 >plain
sum=$(sha256sum <plain)
n=0
while :; do
	n=$((n + 1))
	pixz -0 -p 2 plain packed
	[ "$(pixz -d <packed | sha256sum)" = "$sum" ] || { echo "the file is another after $n times"; exit 1; }
	echo "tick $n -"
done
