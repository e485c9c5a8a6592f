# Compiles four files at a time, links them and runs what comes out.
cd /data
cat >Makefile <<'MAKE'
program: a.o b.o c.o d.o
	gcc -o $@ $^
%.o: %.c
	gcc -O2 -c -o $@ $<
MAKE
n=0
while :; do
	n=$((n + 1))
	for part in a b c; do
		cat >$part.c <<SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int $part(int x) { char t[64]; snprintf(t, sizeof t, "%d", x + $n); return atoi(t) * (int)strlen("$part"); }
SOURCE
	done
	cat >d.c <<'SOURCE'
#include <stdio.h>
int a(int), b(int), c(int);
int main(void) { printf("%d\n", a(1) + b(2) + c(3)); return 0; }
SOURCE
	make -s -j2
	[ "$(./program)" = $((3 * n + 6)) ] || { echo "program $n says $(./program)"; exit 1; }
	echo "tick $n -"
	rm -f program ./*.o
done
