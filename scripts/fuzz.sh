#!/bin/sh
# Runs each fuzz target of the module, one after another, for FUZZTIME (default 10m).
set -eu
cd "$(dirname "$0")/.."

found=0
for pkg in $(go list ./...); do
	# a package that does not build must not pass for one without targets
	listed=$(go test -list '^Fuzz' "$pkg")
	for target in $(printf '%s\n' "$listed" | grep '^Fuzz' || true); do
		found=$((found + 1))
		echo "==> $pkg $target for ${FUZZTIME:-10m}"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10m}" -fuzzminimizetime 5x "$pkg"
	done
done
if [ "$found" -eq 0 ]; then
	echo "fuzz.sh: no fuzz target was found" >&2
	exit 1
fi
echo "$found fuzz targets, no failure"
