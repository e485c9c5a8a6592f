#!/bin/sh
# Installs what the testbed needs on this machine (Debian 12 or later, Ubuntu), or
# says in one line what is missing. Nothing is done if all is there.
#
#   scripts/deps.sh          install what is missing; needs root
#   scripts/deps.sh --check  only say what is missing
set -eu

# tool:package. mmdebstrap builds the hosts' root, gcc a library for criu in it,
# unshare (util-linux) keeps the build apart; the keyring verifies the packages.
needed="mmdebstrap:mmdebstrap gcc:gcc unshare:util-linux"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

missing=
for pair in $needed; do
	command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
# Without the C library's headers gcc alone compiles nothing.
[ -e /usr/include/stdio.h ] || missing="$missing libc6-dev"
[ -e "$keyring" ] || missing="$missing debian-archive-keyring"
[ -z "$missing" ] && exit 0

if [ "${1-}" = --check ]; then
	echo "deps.sh: missing:$missing (run scripts/deps.sh as root)" >&2
	exit 1
fi
if ! command -v apt-get >/dev/null; then
	echo "deps.sh: missing:$missing; install them with this system's package manager" >&2
	exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
	echo "deps.sh: missing:$missing; run this as root to install them" >&2
	exit 1
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# shellcheck disable=SC2086 # a list of words
if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $missing; } >"$log" 2>&1; then
	echo "deps.sh: cannot install$missing: $(grep '^E:' "$log" | head -n 2 | tr '\n' ' ')" >&2
	exit 1
fi
