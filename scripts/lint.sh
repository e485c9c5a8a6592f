#!/bin/sh
# Checks form: gofmt, go vet, staticcheck. The rules on imports are a test, see internal/arch.
set -eu
cd "$(dirname "$0")/.."

unformatted=$(gofmt -l $(go list -f '{{.Dir}}' ./...))
if [ -n "$unformatted" ]; then
	echo "lint.sh: not formatted with gofmt:" >&2
	echo "$unformatted" >&2
	exit 1
fi
go vet ./...
go run honnef.co/go/tools/cmd/staticcheck@"${STATICCHECK_VERSION:-v0.8.2}" ./... 
